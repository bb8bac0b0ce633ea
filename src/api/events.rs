//! What happens to orders, as streams of server-sent events.

use std::collections::VecDeque;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::stream;

use super::Orders;
use super::parameters::Parameters;
use super::problem::Problem;
use super::streams::{self, Pulse, Streams, Woken};
use crate::domain::{Event, OrderId, OrderRecord};
use crate::lookup::Lookup;
use crate::view;

/// An order is looked at so often at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// `GET /v1/orders/{id}/events`: what has happened to an order, and what happens until its end.
pub async fn of_order(
    request: HttpRequest,
    id: web::Path<String>,
    orders: web::Data<Orders>,
    streams: web::Data<Streams>,
) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let id = OrderId::parse(&id).ok_or_else(Problem::not_an_id)?;
    let pulse = streams.open()?;
    let record = match orders.lookup.find(id).await {
        Ok(Some(record)) => record,
        Ok(None) => return Err(Problem::no_such_order(id)),
        Err(unavailable) => return Err(Problem::cannot_tell(&unavailable)),
    };
    let last = streams::last_event_id(&request, |id| id.parse().ok());
    let mut following = Following {
        lookup: orders.lookup.clone(),
        id,
        last,
        frames: VecDeque::from([streams::hello()]),
        has_ended: false,
        pulse,
    };
    let is_news = following.take_in(&record);
    if following.has_ended && !is_news {
        // This tells the client that there is nothing to connect again for.
        return Ok(HttpResponse::build(StatusCode::NO_CONTENT).finish());
    }
    Ok(streams::answer(stream::unfold(following, Following::next)))
}

/// One client that follows one order.
struct Following {
    lookup: Lookup,
    id: OrderId,
    /// The sequence of the last event it has seen.
    last: Option<u64>,
    frames: VecDeque<Vec<u8>>,
    has_ended: bool,
    pulse: Pulse,
}

impl Following {
    async fn next(mut self) -> Option<(Vec<u8>, Following)> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some((frame, self));
            }
            if self.has_ended {
                return None;
            }
            match self.pulse.wait(tokio::time::sleep(LOOK_EVERY)).await {
                Woken::Up(()) => {}
                Woken::Beat => self.frames.push_back(streams::heartbeat()),
                Woken::Stopping => return None,
            }
            // Where it cannot be told at the moment, it can at one of the next times.
            if let Ok(Some(record)) = self.lookup.find(self.id).await {
                self.take_in(&record);
            }
        }
    }

    /// Makes frames of what is new; whether anything is.
    fn take_in(&mut self, record: &OrderRecord) -> bool {
        let before = self.frames.len();
        for event in Event::all_of(record) {
            if self.last.is_none_or(|last| event.sequence > last) {
                self.last = Some(event.sequence);
                let id = event.sequence.to_string();
                self.frames.push_back(streams::frame(Some(&id), event.kind.as_str(), &view::event(&event)));
            }
        }
        self.has_ended = record.history.status().has_ended();
        self.frames.len() > before
    }
}

//! What happens to orders, as streams of server-sent events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::stream;
use tokio::sync::broadcast::error::RecvError;

use super::Orders;
use super::parameters::Parameters;
use super::problem::Problem;
use super::streams::{self, Pulse, Streams, Woken};
use crate::domain::{Event, EventKinds, OrderId, OrderRecord, Stage};
use crate::live::{Listener, Live, News, OrderListener};
use crate::lookup::Lookup;
use crate::ports::{Position, Told};
use crate::view;

/// An order is looked at so often at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The wait after the feed could not be read.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What a stream is told where it misses something.
const GAP: &[u8] = br#"{"type":"gap"}"#;

/// `GET /v1/orders/{id}/events`: what has happened to an order, and what happens until its end.
pub async fn of_order(
    request: HttpRequest,
    id: web::Path<String>,
    orders: web::Data<Orders>,
    streams: web::Data<Streams>,
    live: web::Data<Option<Live>>,
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
        listener: live.as_ref().as_ref().map(|live| live.watch(id)),
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
    /// `None` where nothing is told: then looking again has to do.
    listener: Option<OrderListener>,
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
            let listener = &self.listener;
            let woken = async {
                match listener {
                    Some(listener) => drop(tokio::time::timeout(LOOK_EVERY, listener.woken()).await),
                    None => tokio::time::sleep(LOOK_EVERY).await,
                }
            };
            match self.pulse.wait(woken).await {
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

/// `GET /v1/events`: what happens to all orders.
pub async fn of_all(
    request: HttpRequest,
    streams: web::Data<Streams>,
    live: web::Data<Option<Live>>,
) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::of(&request, &["type", "stage"])?;
    let filter = Filter { kinds: parameters.event_kinds()?, stages: parameters.stages()? };
    let live = live.as_ref().as_ref().ok_or_else(Problem::events_off)?;
    let pulse = streams.open()?;
    // Before the position: what comes in between comes twice, and is recognised.
    let listener = live.listen();
    let last = match streams::last_event_id(&request, Position::parse) {
        Some(last) => last,
        None => live.feed().end().await.map_err(|unavailable| Problem::no_feed(&unavailable))?,
    };
    let hearing = Hearing {
        live: live.clone(),
        listener,
        filter,
        last,
        is_behind: true,
        pending: None,
        frame: Some(streams::hello()),
        pulse,
    };
    Ok(streams::answer(stream::unfold(hearing, Hearing::next)))
}

/// Which events somebody wants to hear of.
struct Filter {
    kinds: Option<EventKinds>,
    /// None: of all stages, and of no stage.
    stages: Option<Vec<Stage>>,
}

impl Filter {
    fn passes(&self, event: &Event) -> bool {
        self.kinds.is_none_or(|kinds| kinds.contains(event.kind))
            && self.stages.as_ref().is_none_or(|stages| event.stage.is_some_and(|stage| stages.contains(&stage)))
    }
}

/// One client that listens to all orders.
struct Hearing {
    live: Live,
    listener: Listener,
    filter: Filter,
    /// As far as it has heard, or will have when it has taken what is `pending`.
    last: Position,
    /// There may be more that it is to read for itself.
    is_behind: bool,
    /// What is yet to be sent. Made into frames one by one: a slow client must not cost the memory of all of them.
    pending: Option<Pending>,
    frame: Option<Vec<u8>>,
    pulse: Pulse,
}

struct Pending {
    news: Arc<News>,
    /// How much of it was looked at.
    next: usize,
    /// It has heard what is not after this.
    heard: Option<Position>,
}

impl Hearing {
    async fn next(mut self) -> Option<(Vec<u8>, Hearing)> {
        loop {
            if let Some(frame) = self.frame.take().or_else(|| self.next_frame()) {
                return Some((frame, self));
            }
            if self.is_behind {
                self.catch_up().await?;
                continue;
            }
            match self.pulse.wait(self.listener.news.recv()).await {
                Woken::Up(Ok(news)) => self.hear(news),
                Woken::Up(Err(RecvError::Lagged(_))) => self.is_behind = true,
                Woken::Up(Err(RecvError::Closed)) | Woken::Stopping => return None,
                Woken::Beat => self.frame = Some(streams::heartbeat()),
            }
        }
    }

    /// Reads on from where it is; `None` if the stream is to end.
    async fn catch_up(&mut self) -> Option<()> {
        let (live, last) = (&self.live, self.last);
        let read = async {
            let page = live.feed().read(last).await;
            if page.is_err() {
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
            page.ok()
        };
        match self.pulse.wait(read).await {
            Woken::Up(Some(page)) => match page.next {
                Some(upto) => self.take_in(Arc::new(News { after: last, told: page.told, upto }), None),
                None => self.is_behind = false,
            },
            Woken::Up(None) => {}
            Woken::Beat => self.frame = Some(streams::heartbeat()),
            Woken::Stopping => return None,
        }
        Some(())
    }

    fn hear(&mut self, news: Arc<News>) {
        let has_gap = news.told.iter().any(|(_, told)| *told == Told::Gap);
        match () {
            // After a gap positions may begin anew.
            () if has_gap => self.take_in(news, None),
            () if news.after > self.last => self.is_behind = true,
            () if news.upto > self.last => self.take_in(news, Some(self.last)),
            () => {}
        }
    }

    fn take_in(&mut self, news: Arc<News>, heard: Option<Position>) {
        self.last = news.upto;
        self.pending = Some(Pending { news, next: 0, heard });
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        let pending = self.pending.as_mut()?;
        while let Some((at, told)) = pending.news.told.get(pending.next) {
            pending.next += 1;
            match told {
                Told::Gap => return Some(streams::frame(None, "gap", GAP)),
                Told::Event(event) if pending.heard.is_none_or(|heard| *at > heard) && self.filter.passes(event) => {
                    return Some(streams::frame(Some(&at.to_string()), event.kind.as_str(), &view::event(event)));
                }
                Told::Event(_) => {}
            }
        }
        self.pending = None;
        None
    }
}

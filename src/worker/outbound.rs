//! Publishes orders to their next queue, with group commit.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::hold::Ticket;
use super::outside::Outside;
use crate::batch::{Batches, Load};
use crate::domain::OrderRecord;
use crate::ports::{Place, Ports, PublishError};

/// An order on its way to another queue.
pub(super) struct Outgoing {
    pub(super) place: Place,
    pub(super) order: OrderRecord,
    pub(super) ticket: Ticket,
}

impl Load for Outgoing {
    fn size_bytes(&self) -> usize {
        self.order.size_bytes()
    }
}

/// The waits before a publish is tried again. After the last one the orders are let go of: they are delivered again,
/// and what is held must not pile up over a long outage.
const WAITS_MS: [u64; 8] = [50, 100, 200, 400, 800, 1_600, 3_200, 5_000];

pub(super) struct Outbound {
    ports: Ports,
    outside: Outside,
    outgoing: Batches<Outgoing>,
    stop: CancellationToken,
}

impl Outbound {
    pub(super) fn new(ports: &Ports, outside: Outside, outgoing: Batches<Outgoing>, stop: CancellationToken) -> Self {
        Outbound { ports: ports.clone(), outside, outgoing, stop }
    }

    /// Runs until the last sender is gone.
    pub(super) async fn run(mut self) {
        while let Some(batch) = self.outgoing.next().await {
            let mut by_place: Vec<(Place, Vec<OrderRecord>, Vec<Ticket>)> = Vec::with_capacity(1);
            for Outgoing { place, order, ticket } in batch {
                match by_place.iter_mut().find(|(other, ..)| *other == place) {
                    Some((_, orders, tickets)) => {
                        orders.push(order);
                        tickets.push(ticket);
                    }
                    None => by_place.push((place, vec![order], vec![ticket])),
                }
            }
            for (place, orders, tickets) in by_place {
                if self.outside.tell_webhooks(&orders, &self.stop).await.is_ok()
                    && publish(&self.ports, place, &orders, &self.stop).await.is_ok()
                {
                    self.outside.carried_out(&orders);
                    tickets.into_iter().for_each(Ticket::settle);
                }
            }
        }
    }
}

/// Publishes until it works. A publish of unknown fate is made again: of two copies of an order the second finds
/// that it has passed.
///
/// # Errors
/// The last error, after all of [`WAITS_MS`] or when the worker is to stop.
pub(super) async fn publish(
    ports: &Ports,
    place: Place,
    orders: &[OrderRecord],
    stop: &CancellationToken,
) -> Result<(), PublishError> {
    let what = match place {
        Place::Stage(stage) => stage.as_kebab(),
        Place::Delayed(..) => "delayed",
        Place::Ending => "ending",
    };
    until_taken(stop, what, orders.len(), || ports.queues.publish(place, orders)).await
}

/// Tries to put something somewhere until it works.
///
/// # Errors
/// As [`publish`].
pub(super) async fn until_taken<F: Future<Output = Result<(), PublishError>>>(
    stop: &CancellationToken,
    what: &'static str,
    count: usize,
    publish: impl Fn() -> F,
) -> Result<(), PublishError> {
    let mut waits = WAITS_MS.into_iter();
    loop {
        let Err(error) = publish().await else {
            return Ok(());
        };
        let wait = waits.next().filter(|_| !stop.is_cancelled());
        tracing::debug!(%error, what, count, "publish failed");
        let Some(wait) = wait else {
            tracing::warn!(%error, what, count, "orders are given back: they could not be published");
            return Err(error);
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            () = stop.cancelled() => {}
        }
    }
}

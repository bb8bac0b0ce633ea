//! Publishes what waits in the outbox, in the order in which it was accepted or when its time has come, and clears the journal of what has ended.
//!
//! # Failure handling
//! An order leaves the outbox after its queue has confirmed it: a crash between the two publishes it a second time, which
//! changes nothing. While the queues are out of reach nothing is asked of anybody.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Lease, messages};
use crate::batch::BatchLimits;
use crate::domain::OrderId;
use crate::metrics::Metrics;
use crate::ports::{Journal, Ports, Unavailable};

const LEASE: &str = "outbox";
/// The pause while there is nothing to do. An order that has a time set is to begin within a second of it.
const PAUSE: Duration = Duration::from_millis(250);
/// How often the journal is cleared.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Orders taken from the outbox at a time; about a megabyte.
const ORDERS_MAX: u32 = 1_000;

pub(super) struct Outbox {
    pub(super) ports: Ports,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) lease: Lease,
    pub(super) batch: BatchLimits,
    pub(super) metrics: Arc<Metrics>,
}

impl Outbox {
    pub(super) async fn run(self, stop: CancellationToken) {
        let (mut pending, mut sweep_at) = (0, Instant::now());
        while !stop.is_cancelled() {
            match self.turn(&mut sweep_at).await {
                // More may wait.
                Ok(published) if published > 0 => {
                    pending += published;
                    continue;
                }
                Ok(_) if pending > 0 => {
                    tracing::info!(orders = pending, "the outbox is empty: what waited for the queues is published");
                    pending = 0;
                }
                Ok(_) => {}
                Err(unavailable) => tracing::debug!(%unavailable, "the outbox waits"),
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => {}
            }
        }
        self.lease.give_up(LEASE).await;
    }

    /// Publishes some of what waits, and clears some of what has ended; how many were published.
    async fn turn(&self, sweep_at: &mut Instant) -> Result<usize, Unavailable> {
        if !self.lease.is_ours(LEASE).await {
            return Ok(0);
        }
        let published = match self.ports.queues.takes() {
            Ok(()) => self.publish().await?,
            Err(_) => 0,
        };
        // A full sweep leaves more to do.
        if Instant::now() >= *sweep_at && self.journal.sweep().await? == 0 {
            *sweep_at = Instant::now() + SWEEP_EVERY;
        }
        Ok(published)
    }

    async fn publish(&self) -> Result<usize, Unavailable> {
        let orders = self.journal.to_publish(ORDERS_MAX).await?;
        let published = orders.len();
        for (place, message) in messages(orders, self.batch) {
            // Before the queue, as everywhere: whoever took the order may not have come to it yet, and without a record, and
            // with the archive away, a worker would go on without a fence.
            if let Err(unavailable) = self.ports.in_flight.put(&message).await {
                tracing::debug!(%unavailable, orders = message.len(), "published from the outbox without records");
            }
            let sent = self.ports.queues.publish(place, &message).await;
            sent.map_err(|error| error.unavailable().clone())?;
            let ids: Vec<OrderId> = message.iter().map(|order| order.id).collect();
            self.journal.published(&ids).await?;
            self.metrics.outbox_published(ids.len());
        }
        Ok(published)
    }
}

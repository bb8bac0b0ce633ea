//! Takes ended orders into the archive, with group commit; into the queue `ending` while it is out of reach.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hold::Ticket;
use super::outbound::publish;
use super::outside::Outside;
use crate::batch::{Batches, Load};
use crate::domain::OrderRecord;
use crate::metrics::Metrics;
use crate::ports::{Archived, Place, Ports, Unavailable};

/// An order that has ended.
pub(super) struct Ended {
    pub(super) order: OrderRecord,
    pub(super) ticket: Ticket,
}

impl Load for Ended {
    fn size_bytes(&self) -> usize {
        self.order.size_bytes()
    }
}

/// How long the archive is not asked after it did not answer: each question may cost a whole timeout, and the queue
/// `ending` is as safe a place.
const ARCHIVE_SHUNNED_FOR: Duration = Duration::from_secs(1);

/// Where ended orders are kept, and who is told of it.
#[derive(Clone)]
pub(super) struct Archive {
    pub(super) ports: Ports,
    pub(super) metrics: Arc<Metrics>,
    pub(super) outside: Outside,
    pub(super) stop: CancellationToken,
}

pub(super) struct Archiver {
    archive: Archive,
    ended: Batches<Ended>,
    shunned_until: Option<Instant>,
    stop: CancellationToken,
}

impl Archiver {
    pub(super) fn new(archive: Archive, ended: Batches<Ended>, stop: CancellationToken) -> Self {
        Archiver { archive, ended, shunned_until: None, stop }
    }

    /// Runs until the last sender is gone.
    pub(super) async fn run(mut self) {
        while let Some(batch) = self.ended.next().await {
            let (orders, tickets): (Vec<_>, Vec<_>) = batch.into_iter().map(|e| (e.order, e.ticket)).unzip();
            if self.keep(orders).await {
                tickets.into_iter().for_each(Ticket::settle);
            }
        }
    }

    /// Puts the orders into the archive or into `ending`; whether one of them holds them.
    async fn keep(&mut self, orders: Vec<OrderRecord>) -> bool {
        if self.shunned_until.is_none_or(|until| Instant::now() >= until) {
            match self.archive.keep(&orders).await {
                Ok(()) => {
                    self.shunned_until = None;
                    return true;
                }
                Err(unavailable) => {
                    tracing::warn!(%unavailable, orders = orders.len(), "ended orders wait for the archive");
                    self.shunned_until = Some(Instant::now() + ARCHIVE_SHUNNED_FOR);
                }
            }
        }
        publish(&self.archive.ports, Place::Ending, &orders, &self.stop).await.is_ok()
    }
}

impl Archive {
    /// Archive first, then the records' end: a reader who no longer finds the one finds the other. In between webhooks are
    /// told: of the end that the archive has, and before a copy of the order can find that it has passed.
    ///
    /// # Errors
    /// [`Unavailable`]: the archive may have them, but not all is done. To be tried again.
    pub(super) async fn keep(&self, orders: &[OrderRecord]) -> Result<(), Unavailable> {
        let archived = self.ports.archive.archive(orders).await?;
        let mut ended = Vec::with_capacity(orders.len());
        for (order, archived) in orders.iter().zip(archived) {
            match archived {
                Archived::Now => {
                    self.metrics.ended(order.history.status());
                    ended.push(order.clone());
                }
                // The end that was kept first is the one a reader is to see.
                Archived::Before => {
                    self.metrics.late_end();
                    match self.ports.archive.find(order.id).await {
                        Ok(kept) => ended.extend(kept),
                        Err(unavailable) if self.outside.has_webhooks() => return Err(unavailable),
                        Err(_) => {}
                    }
                }
            }
        }
        let told = self.outside.tell_webhooks(&ended, &self.stop).await;
        told.map_err(|error| error.unavailable().clone())?;
        // The archive has them, which is what counts: a record left behind goes by itself, and lookups see through it.
        if let Err(unavailable) = self.ports.in_flight.end(&ended).await {
            tracing::debug!(%unavailable, orders = ended.len(), "ended without the in-flight store");
        }
        self.outside.carried_out(&ended);
        Ok(())
    }
}

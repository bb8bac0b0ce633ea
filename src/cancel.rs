//! Cancels orders.
//!
//! ```text
//!  asked for ─ kept durably ─ record marked ─ nobody at work ─▶ archived as cancelled at once
//!                                           └ at work, or no record ─▶ whoever has it in hand ends it
//! ```
//!
//! A mark in the in-flight store is what workers go by: no attempt begins after it, and what an attempt that is at work
//! comes to is recorded and not carried out. What was asked for is kept durably first, so that a crash, or the loss of
//! the mark, forgets nothing: [`crate::upkeep`] settles what is open until the order has ended.
//!
//! # Failure handling
//! Every step may be done twice. The archive's first row of a passage decides: an order that came to another end before the
//! cancellation reached it keeps that end.

use std::sync::Arc;

use crate::domain::{Cancellation, Event, OrderId, OrderRecord, Status};
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::ports::{Archived, AskedCancellation, Cancelling, Ports, Unavailable};
use crate::webhooks;

/// Where orders are cancelled. Cheap to clone.
#[derive(Clone)]
pub struct Canceller {
    ports: Ports,
    lookup: Lookup,
    metrics: Arc<Metrics>,
}

/// What became of the wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The order has ended as cancelled, now or before.
    Ended,
    /// It is at work in this status, and ends when that returns.
    Asked(Status),
}

/// Why an order was not cancelled.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotCancelled {
    #[error("there is no such order")]
    NoSuchOrder,
    #[error("it has ended: {}", .0.as_str())]
    HasEnded(Status),
    /// It may be cancelled all the same.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Canceller {
    pub fn new(ports: &Ports, metrics: Arc<Metrics>) -> Canceller {
        Canceller { ports: ports.clone(), lookup: Lookup::new(ports), metrics }
    }

    /// Cancels an order, wherever it is. To repeat it changes nothing: the first reason stays.
    ///
    /// # Errors
    /// [`NotCancelled`].
    pub async fn cancel(&self, id: OrderId, reason: Option<String>) -> Result<Cancelled, NotCancelled> {
        let Some(order) = self.lookup.find(id).await? else { return Err(NotCancelled::NoSuchOrder) };
        if let Some(ended) = ended(&order) {
            return ended;
        }
        let cancellation = Cancellation { at: self.ports.clock.now(), reason };
        let asked = AskedCancellation { id, passage: order.passage, cancellation };
        let asked = self.ports.cancellations.ask(&asked).await?;
        // It is kept: from here on it takes effect sooner or later.
        match self.settle(&asked).await {
            Ok(Some(order)) => ended(&order).unwrap_or(Ok(Cancelled::Asked(order.history.status()))),
            Ok(None) => Ok(Cancelled::Asked(order.history.status())),
            Err(unavailable) => {
                tracing::debug!(order = %id, %unavailable, "to be cancelled later");
                Ok(Cancelled::Asked(order.history.status()))
            }
        }
    }

    /// Sees to it that no further attempt of the order is begun, and ends it unless somebody is at work on it. The order as
    /// the archive has it, if it has ended: then what was asked for is forgotten.
    ///
    /// # Errors
    /// [`Unavailable`]; to be tried again.
    pub async fn settle(&self, asked: &AskedCancellation) -> Result<Option<OrderRecord>, Unavailable> {
        let AskedCancellation { id, passage, cancellation } = asked;
        match self.ports.in_flight.cancel(*id, *passage, cancellation).await? {
            Cancelling::AtWork => return Ok(None),
            Cancelling::Waits(order) => self.archive(*order).await?,
            Cancelling::Ended => {}
            Cancelling::Absent => self.end_without_record(asked).await?,
        }
        let archived = self.ports.archive.find(*id).await?.filter(|archived| archived.passage >= *passage);
        if archived.is_some() {
            if let Some(journal) = &self.ports.journal {
                // It need not be published any more, should it wait for that.
                journal.published(&[*id]).await?;
            }
            self.ports.cancellations.settle(&[(*id, *passage)]).await?;
        }
        Ok(archived)
    }

    /// Ends an order as a worker does: the archive has it first, then webhooks are told, then its record ends.
    async fn archive(&self, order: OrderRecord) -> Result<(), Unavailable> {
        let id = order.id;
        let archived = self.ports.archive.archive(&[order]).await?;
        if archived == [Archived::Now] {
            self.metrics.ended(Status::Cancelled);
        }
        // The end that was kept first is the one that is told.
        let kept: Vec<OrderRecord> = self.ports.archive.find(id).await?.into_iter().collect();
        webhooks::tell(&self.ports, &kept).await?;
        if let Some(feed) = &self.ports.feed {
            feed.tell(kept.iter().flat_map(Event::of_end).collect());
        }
        // A record left behind goes by itself, and lookups see through it.
        if let Err(unavailable) = self.ports.in_flight.end(&kept).await {
            tracing::debug!(order = %id, %unavailable, "cancelled without the in-flight store");
        }
        Ok(())
    }

    /// An order that waits for its time may have no record any more. Any other one without a record is in a queue or in a
    /// worker's hands, and ends when that asks.
    async fn end_without_record(&self, asked: &AskedCancellation) -> Result<(), Unavailable> {
        // Whoever ended it may have died before webhooks were told, and its record, which would say so, is gone.
        let archived = self.ports.archive.find(asked.id).await?.filter(|archived| archived.passage >= asked.passage);
        if let Some(archived) = archived {
            return webhooks::tell(&self.ports, &[archived]).await;
        }
        let Some(journal) = &self.ports.journal else { return Ok(()) };
        let journaled = journal.find(asked.id).await?.filter(|order| order.passage == asked.passage);
        match journaled {
            Some(mut order) if order.order.waits_at(self.ports.clock.now()) => {
                order.history.cancel(asked.cancellation.clone());
                self.archive(order).await
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// What is to be said of an order that has ended; `None` if it has not.
fn ended(order: &OrderRecord) -> Option<Result<Cancelled, NotCancelled>> {
    match order.history.status() {
        Status::Cancelled => Some(Ok(Cancelled::Ended)),
        status if status.has_ended() => Some(Err(NotCancelled::HasEnded(status))),
        _ => None,
    }
}

//! Tries failed orders again, in a new passage that goes on at the stage that failed or an earlier one.
//!
//! The new passage is kept durably before anything is said: in the journal, from which it is published, or, without a
//! journal, in the queue itself. The end of the passage before stays in the archive until the new one has ended.
//!
//! # Failure handling
//! Every step may be done twice: of two wishes to try one order again the first counts, and what is published twice is
//! fenced.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::batch::BatchLimits;
use crate::domain::{Event, OrderId, OrderRecord, Stage, Status};
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::ports::{FailedFilter, Ports, Purpose, Unavailable};
use crate::upkeep::messages;

/// Orders read from the archive at a time.
const PAGE: u32 = 256;
/// Orders named in the answer about many.
const NAMED_MAX: usize = 100;

/// Where failed orders are tried again. Cheap to clone.
#[derive(Clone)]
pub struct TryAgain {
    ports: Ports,
    lookup: Lookup,
    batch: BatchLimits,
    metrics: Arc<Metrics>,
}

/// Why an order is not tried again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotTried {
    #[error("there is no such order")]
    NoSuchOrder,
    #[error("it has not failed: {}", .0.as_str())]
    NotFailed(Status),
    /// It never came to the stage that was asked for.
    #[error("it failed at {failed_at}")]
    NotReached { failed_at: Stage },
    /// It may be tried again all the same.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What came of a wish to try many again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Failed orders that answer the filter and are not tried again already.
    pub matched: u64,
    /// Of those the ones that are tried again, or would be.
    pub tried: u64,
    /// Of those the ones that failed before the stage that was asked for.
    pub not_reached: u64,
    /// The first of those that are tried again.
    pub named: Vec<OrderId>,
}

/// It stopped in the middle; those that were counted are tried again.
#[derive(Clone, Debug)]
pub struct Stopped {
    pub tried: Tried,
    pub unavailable: Unavailable,
}

impl TryAgain {
    pub fn new(ports: &Ports, batch: BatchLimits, metrics: Arc<Metrics>) -> TryAgain {
        TryAgain { ports: ports.clone(), lookup: Lookup::new(ports), batch, metrics }
    }

    /// Tries an order again from `stage`, or from the one that failed. The order as it goes on.
    ///
    /// # Errors
    /// [`NotTried`].
    pub async fn one(&self, id: OrderId, stage: Option<Stage>) -> Result<OrderRecord, NotTried> {
        let Some(order) = self.lookup.find(id).await? else { return Err(NotTried::NoSuchOrder) };
        let Some(failure) = order.history.failure() else {
            return Err(NotTried::NotFailed(order.history.status()));
        };
        let failed_at = failure.stage;
        let next = order
            .next_passage(stage.unwrap_or(failed_at), self.ports.clock.now())
            .ok_or(NotTried::NotReached { failed_at })?;
        self.keep(vec![next.clone()]).await?;
        Ok(next)
    }

    /// Tries all failed orders again that answer `filter`; with `is_dry_run` only counts them.
    ///
    /// # Errors
    /// [`Stopped`], with how far it came.
    pub async fn many(&self, filter: &FailedFilter, stage: Option<Stage>, is_dry_run: bool) -> Result<Tried, Stopped> {
        let (mut tried, mut after) = (Tried::default(), None);
        loop {
            let page = match self.page(filter, after).await {
                Ok(page) => page,
                Err(unavailable) => return Err(Stopped { tried, unavailable }),
            };
            let Some(last) = page.last() else { return Ok(tried) };
            after = Some(last.id);
            let failed = self.without_those_under_way(page).await;
            let (mut next, now) = (Vec::with_capacity(failed.len()), self.ports.clock.now());
            let matched = failed.len() as u64;
            for order in &failed {
                let failed_at = order.history.failure().map(|failure| failure.stage);
                let from = stage.or(failed_at);
                next.extend(from.and_then(|from| order.next_passage(from, now)));
            }
            let ids: Vec<OrderId> = next.iter().map(|order| order.id).collect();
            if !is_dry_run && let Err(unavailable) = self.keep(next).await {
                return Err(Stopped { tried, unavailable });
            }
            tried.matched += matched;
            tried.tried += ids.len() as u64;
            tried.not_reached += matched - ids.len() as u64;
            let room = NAMED_MAX.saturating_sub(tried.named.len());
            tried.named.extend(ids.into_iter().take(room));
        }
    }

    async fn page(&self, filter: &FailedFilter, after: Option<OrderId>) -> Result<Vec<OrderRecord>, Unavailable> {
        self.ports.archive.failed(filter, after, PAGE).await
    }

    /// The archive has the end before as long as a later passage is under way.
    async fn without_those_under_way(&self, failed: Vec<OrderRecord>) -> Vec<OrderRecord> {
        let records = join_all(failed.iter().map(|order| self.ports.in_flight.find(order.id))).await;
        let is_free = |order: &OrderRecord, record: &Result<Option<OrderRecord>, Unavailable>| !matches!(record, Ok(Some(record)) if record.passage > order.passage);
        failed
            .into_iter()
            .zip(records)
            .filter(|(order, record)| is_free(order, record))
            .map(|(order, _)| order)
            .collect()
    }

    async fn keep(&self, orders: Vec<OrderRecord>) -> Result<(), Unavailable> {
        if orders.is_empty() {
            return Ok(());
        }
        let count = orders.len();
        match &self.ports.journal {
            Some(journal) => {
                let noted = journal.note(&orders, Purpose::Publish).await;
                noted.map_err(|error| error.unavailable().clone())?;
                self.show(&orders).await;
            }
            None => {
                for (place, message) in messages(orders, self.batch) {
                    let sent = self.ports.queues.publish(place, &message).await;
                    sent.map_err(|error| error.unavailable().clone())?;
                    self.show(&message).await;
                }
            }
        }
        self.metrics.tried_again(count);
        Ok(())
    }

    /// So that readers and listeners see the new passage at once. Where this fails the journal knows of it; webhooks are told
    /// with its first step.
    async fn show(&self, orders: &[OrderRecord]) {
        if let Some(feed) = &self.ports.feed {
            feed.tell(orders.iter().map(Event::beginning).collect());
        }
        if let Err(unavailable) = self.ports.in_flight.put(orders).await {
            tracing::debug!(%unavailable, orders = orders.len(), "tried again without in-flight records");
        }
    }
}

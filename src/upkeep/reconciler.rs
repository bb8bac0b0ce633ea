//! Publishes again what a queue has lost.
//!
//! The broker promises not to lose a message; a disk, a person or a script may have done it all the same. What was in
//! flight is known beside the queues: to the in-flight store, and to the journal. The hard part is not to double what is
//! merely slow, so an order is published again only if there is evidence:
//!
//! - **A queue was found missing** (it was there, or should have been): what it held is lost. Orders that had their last
//!   step recorded before that and are in no worker's hands go into the new queue after [`GRACE`]; those that waited to be
//!   tried again, when their time has come.
//! - **A queue has stood empty** for `after`, and an order whose place it is has not moved for as long, nor has its time
//!   to be tried again come later: no worker can hold it that long.
//!
//! While a stage is paused its orders stand still for a reason, and those of earlier stages may have come to it by now: none
//! of them is published again before it is resumed.
//!
//! An order that only the journal knows of (queues and in-flight store are both gone) begins anew.
//!
//! # Failure handling
//! It takes no input and can run at any time: a pass that fails is begun again. What it doubles after all is dropped by
//! the fence. An order that the archive has is never published: its record is mended instead.

mod evidence;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Lease, UpkeepOptions, messages};
use crate::batch::BatchLimits;
use crate::domain::{OrderId, OrderRecord, Stage, Timestamp};
use crate::metrics::Metrics;
use crate::pauses::PausedStages;
use crate::ports::{Place, Ports, Source, Unavailable, Unmoved};
use crate::webhooks;
use evidence::{Evidence, Loss};

const LEASE: &str = "reconciler";
/// The longest pause between two looks at the queues.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(5);
/// How long after a loss was noticed its orders are left to the workers that still have them in hand.
pub const GRACE: Duration = Duration::from_secs(5);
/// Orders read from the journal at a time.
const JOURNAL_PAGE: u32 = 1_000;

pub(super) struct Reconciler {
    ports: Ports,
    lease: Lease,
    metrics: Arc<Metrics>,
    batch: BatchLimits,
    after: Duration,
    evidence: Evidence,
    paused: PausedStages,
    /// When the last pass for empty queues ended.
    passed_at: Option<Instant>,
}

impl Reconciler {
    pub(super) fn new(ports: &Ports, lease: Lease, options: &UpkeepOptions) -> Reconciler {
        Reconciler {
            ports: ports.clone(),
            lease,
            metrics: options.metrics.clone(),
            batch: options.batch,
            after: options.reconcile_after,
            evidence: Evidence::default(),
            paused: options.paused.clone(),
            passed_at: None,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let every = (self.after / 4).min(LOOK_EVERY_MAX);
        while !stop.is_cancelled() {
            if let Err(unavailable) = self.turn().await {
                tracing::debug!(%unavailable, "orders in flight could not be compared with the queues");
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(every) => {}
                () = stop.cancelled() => {}
            }
        }
        self.lease.give_up(LEASE).await;
    }

    async fn turn(&mut self) -> Result<(), Unavailable> {
        let now = self.ports.clock.now();
        for source in self.ports.queues.take_losses() {
            // What it held, if anything, is worth a warning when it is published again: at a first start there was none.
            tracing::info!(%source, "a queue was missing: what it held will be published again");
            self.evidence.lost(source, now);
        }
        for loss in self.evidence.losses_due(now) {
            // Its orders come back when it is resumed.
            if self.is_held(loss.source) {
                continue;
            }
            // Several processes may have noticed; one is enough.
            if self.lease.is_ours(&format!("{LEASE}:{}", loss.source)).await {
                self.restore(loss, now).await?;
            }
            self.evidence.looked_for(loss, now);
        }
        if !self.lease.is_ours(LEASE).await {
            self.evidence.forget_empty();
            return Ok(());
        }
        for source in Source::all() {
            let waiting = self.ports.queues.waiting(source).await?;
            match self.is_held(source) {
                true => self.evidence.forget(source),
                false => self.evidence.waits(source, waiting, Instant::now()),
            }
        }
        if self.passed_at.is_none_or(|at| at.elapsed() >= self.after) && self.evidence.any_empty_for(self.after) {
            self.pass(now).await?;
            self.passed_at = Some(Instant::now());
        }
        Ok(())
    }

    fn is_held(&self, source: Source) -> bool {
        match source {
            Source::Stage(stage) => self.paused.is_held(stage),
            Source::Ending => false,
        }
    }

    /// Whether the stage of `source` or a later one is held up.
    fn is_any_held_from(&self, source: Source) -> bool {
        match source {
            Source::Stage(stage) => Stage::ALL.into_iter().any(|other| other >= stage && self.paused.is_held(other)),
            Source::Ending => false,
        }
    }

    /// Publishes again what a missing queue held.
    async fn restore(&self, loss: Loss, now: Timestamp) -> Result<(), Unavailable> {
        let count = self.each_unmoved(|unmoved| loss.has_taken(unmoved, now)).await?;
        let journaled = match loss.is_of_beginning() && self.evidence.all_lost_at(loss.at) {
            true => self.each_journaled(|order| order.placed_at < loss.at && !order.order.waits_at(now)).await?,
            false => 0,
        };
        if count + journaled > 0 {
            self.metrics.republished(count + journaled);
            tracing::warn!(source = %loss.source, orders = count + journaled, "orders of a missing queue are published again");
        }
        Ok(())
    }

    /// Publishes again what stands still while its queue is empty.
    async fn pass(&self, now: Timestamp) -> Result<(), Unavailable> {
        let stands_still = |since: Timestamp| now.since(since) >= self.after;
        let is_stuck = |unmoved: &Unmoved| {
            let source = Place::next_of(&unmoved.order).source();
            stands_still(unmoved.since)
                && self.evidence.is_empty_for(source, self.after)
                && !self.is_any_held_from(source)
        };
        let mut count = self.each_unmoved(is_stuck).await?;
        if self.evidence.all_empty_for(self.after) {
            count += self.each_journaled(|order| stands_still(Unmoved::since(order))).await?;
        }
        if count > 0 {
            self.metrics.republished(count);
            tracing::warn!(orders = count, "orders that no queue held any more are published again");
        }
        Ok(())
    }

    /// Publishes those orders of the in-flight store again that are `wanted`; how many.
    async fn each_unmoved(&self, wanted: impl Fn(&Unmoved) -> bool) -> Result<usize, Unavailable> {
        let (mut cursor, mut count) = (0, 0);
        loop {
            let part = self.ports.in_flight.scan(cursor).await?;
            let orders = part.orders.into_iter().filter(&wanted).map(|unmoved| unmoved.order).collect();
            count += self.publish(orders).await?;
            match part.next {
                Some(next) => cursor = next,
                None => return Ok(count),
            }
        }
    }

    /// Publishes those orders again that only the journal knows of and that are `wanted`; how many.
    async fn each_journaled(&self, wanted: impl Fn(&OrderRecord) -> bool) -> Result<usize, Unavailable> {
        let Some(journal) = &self.ports.journal else { return Ok(0) };
        let (mut after, mut count) = (None, 0);
        loop {
            let page = journal.scan(after, JOURNAL_PAGE).await?;
            let Some(last) = page.last() else { return Ok(count) };
            after = Some(last.id);
            let mut unknown = Vec::new();
            for order in page.into_iter().filter(&wanted) {
                if self.ports.in_flight.find(order.id).await?.is_none() {
                    unknown.push(order);
                }
            }
            count += self.publish(unknown).await?;
        }
    }

    /// Publishes orders to where each goes next, but for those that have ended; how many.
    async fn publish(&self, orders: Vec<OrderRecord>) -> Result<usize, Unavailable> {
        let ids: Vec<OrderId> = orders.iter().map(|order| order.id).collect();
        let ended = self.ports.archive.ended_passages(&ids).await?;
        let mut lost = Vec::new();
        for (order, ended) in orders.into_iter().zip(ended) {
            match ended.is_some_and(|passage| passage >= order.passage) {
                false => lost.push(order),
                true => self.mend(order.id).await?,
            }
        }
        let count = lost.len();
        for (place, message) in messages(lost, self.batch) {
            let sent = self.ports.queues.publish(place, &message).await;
            sent.map_err(|error| error.unavailable().clone())?;
        }
        Ok(count)
    }

    /// Ends the record of an order that ended while the in-flight store was out of reach, or of which the message was lost
    /// before the worker that archived it had told webhooks: they are told first, as workers do it.
    async fn mend(&self, id: OrderId) -> Result<(), Unavailable> {
        let Some(ended) = self.ports.archive.find(id).await? else { return Ok(()) };
        let ended = [ended];
        webhooks::tell(&self.ports, &ended).await?;
        self.ports.in_flight.end(&ended).await
    }
}

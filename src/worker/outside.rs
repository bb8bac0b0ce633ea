//! Tells the outside what happens to orders.
//!
//! - Who listens to the live feed is told beside the way of an order: no order waits for that, and what cannot be told is
//!   dropped.
//! - Webhooks are told at least once: what happened is put into the queue of events, confirmed, *before* the order has its
//!   next place, or its record its end. From then on a copy of the order may find that it has passed, and nobody would
//!   tell. While there is no webhook that wants it nothing is put there.
//!
//! Events are made of the order's history alone, so an order that is delivered again makes the same ones.
//!
//! # Failure handling
//! Which webhooks there are is asked every [`ASK_EVERY`]. While nobody knows, at the start, all is told; while the store is
//! out of reach, what it said last counts. Events that the queues do not take hold the order up as its next place
//! would: the same queues hold both.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::outbound::until_taken;
use crate::domain::{Event, EventKind, EventKinds, OrderRecord, Stage, Timestamp};
use crate::ports::{Feed, Ports, PublishError, Queues, Webhooks};

/// How often is asked which events webhooks want. An event that happens sooner after its webhook was added is perhaps not
/// told.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Messages that are under way to tell of beginnings. Past that they are told with the outcome.
const BEGINNINGS_MAX: usize = 16;

#[derive(Clone)]
pub(super) struct Outside {
    feed: Option<Arc<dyn Feed>>,
    queues: Arc<dyn Queues>,
    /// What webhooks want to be told.
    wanted: watch::Receiver<EventKinds>,
    beginnings: Arc<Semaphore>,
    _asking: Arc<AbortOnDropHandle<()>>,
}

impl Outside {
    /// Must be called within a tokio runtime.
    pub(super) fn new(ports: &Ports) -> Outside {
        let (says, wanted) = watch::channel(EventKinds::all());
        let asking = tokio::spawn(ask(ports.webhooks.clone(), says));
        Outside {
            feed: ports.feed.clone(),
            queues: ports.queues.clone(),
            wanted,
            beginnings: Arc::new(Semaphore::new(BEGINNINGS_MAX)),
            _asking: Arc::new(AbortOnDropHandle::new(asking)),
        }
    }

    /// A worker begins these orders at `stage`, at the moment `at`. For webhooks this is only for the sake of time: their
    /// outcome tells of it again.
    pub(super) fn begun<'a>(&self, stage: Stage, at: Timestamp, orders: impl Iterator<Item = &'a OrderRecord> + Clone) {
        if let Some(feed) = &self.feed {
            feed.tell(orders.clone().filter_map(|order| Event::started(order, stage, at)).collect());
        }
        let wanted = *self.wanted.borrow();
        let of_beginnings = [EventKind::OrderAccepted, EventKind::OrderRetried, EventKind::StepStarted];
        if !of_beginnings.into_iter().any(|kind| wanted.contains(kind)) {
            return;
        }
        let Ok(permit) = self.beginnings.clone().try_acquire_owned() else { return };
        let mut events = Vec::new();
        for order in orders {
            if let Some(started) = Event::started(order, stage, at) {
                let beginning = Event::is_beginning(order).then(|| Event::beginning(order));
                events.extend(beginning.into_iter().chain([started]).filter(|event| wanted.contains(event.kind)));
            }
        }
        if events.is_empty() {
            return;
        }
        let queues = self.queues.clone();
        tokio::spawn(async move {
            if let Err(error) = queues.publish_events(&events).await {
                tracing::debug!(%error, events = events.len(), "beginnings are told with their outcomes");
            }
            drop(permit);
        });
    }

    /// What was recorded last of these orders is about to be carried out: tells webhooks of it, for as long as the queues
    /// need to take it.
    ///
    /// # Errors
    /// [`PublishError`], after many tries or when the worker is to stop. The orders must not go on.
    pub(super) async fn tell_webhooks(
        &self,
        orders: &[OrderRecord],
        stop: &CancellationToken,
    ) -> Result<(), PublishError> {
        let wanted = *self.wanted.borrow();
        if wanted.is_empty() {
            return Ok(());
        }
        let events: Vec<Event> =
            orders.iter().flat_map(Event::of_last_outcome).filter(|event| wanted.contains(event.kind)).collect();
        if events.is_empty() {
            return Ok(());
        }
        until_taken(stop, "events", events.len(), || self.queues.publish_events(&events)).await
    }

    /// Whether there is a webhook, as far as is known.
    pub(super) fn has_webhooks(&self) -> bool {
        !self.wanted.borrow().is_empty()
    }

    /// What was recorded last of these orders has been carried out: tells whoever listens.
    pub(super) fn carried_out(&self, orders: &[OrderRecord]) {
        let Some(feed) = &self.feed else { return };
        // That it was taken, and begun, was told when it was.
        let is_news = |event: &Event| match event.kind {
            EventKind::OrderAccepted | EventKind::OrderRetried | EventKind::StepStarted => false,
            EventKind::StepDone
            | EventKind::StepRetried
            | EventKind::OrderCompleted
            | EventKind::OrderFailed
            | EventKind::OrderCancelled => true,
        };
        feed.tell(orders.iter().flat_map(Event::of_last_outcome).filter(is_news).collect());
    }
}

/// Asks again and again what webhooks want.
async fn ask(webhooks: Arc<dyn Webhooks>, says: watch::Sender<EventKinds>) {
    loop {
        match webhooks.wanted().await {
            Ok(wanted) => drop(says.send_replace(wanted)),
            Err(unavailable) => tracing::debug!(%unavailable, "what webhooks want is not known anew"),
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

//! Tells the outside what happens to orders. No order waits for whoever listens to the live feed.

use std::sync::Arc;

use crate::domain::{Event, EventKind, OrderRecord, Stage, Timestamp};
use crate::ports::{Feed, Ports};

#[derive(Clone)]
pub(super) struct Outside {
    feed: Option<Arc<dyn Feed>>,
}

impl Outside {
    pub(super) fn new(ports: &Ports) -> Outside {
        Outside { feed: ports.feed.clone() }
    }

    /// A worker begins these orders at `stage`, at the moment `at`.
    pub(super) fn begun<'a>(&self, stage: Stage, at: Timestamp, orders: impl Iterator<Item = &'a OrderRecord>) {
        if let Some(feed) = &self.feed {
            feed.tell(orders.filter_map(|order| Event::started(order, stage, at)).collect());
        }
    }

    /// What was recorded last of these orders has been carried out.
    pub(super) fn carried_out(&self, orders: &[OrderRecord]) {
        let Some(feed) = &self.feed else { return };
        // That it was taken, and begun, was told when it was.
        let is_news = |event: &Event| match event.kind {
            EventKind::OrderAccepted | EventKind::StepStarted => false,
            EventKind::StepDone
            | EventKind::StepRetried
            | EventKind::OrderCompleted
            | EventKind::OrderFailed
            | EventKind::OrderCancelled => true,
        };
        feed.tell(orders.iter().flat_map(Event::of_last_outcome).filter(is_news).collect());
    }
}

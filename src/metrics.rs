//! What a process counts, for Prometheus to collect at `/metrics`.
//!
//! Counters only grow, and begin anew with the process. Names and units follow Prometheus' conventions.

use std::sync::atomic::Ordering;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::domain::{Stage, Status};

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = [(&'static str, &'static str); 1];

/// All that a process counts.
pub struct Metrics {
    registry: Registry,
    accepted: Counter,
    refused: Family<Labels, Counter>,
    ended: Family<Labels, Counter>,
    duplicates: Family<Labels, Counter>,
    late_ends: Counter,
    republished: Counter,
    outbox_published: Counter,
    tried_again: Counter,
    dead_letters: Counter,
    stage_paused: Family<Labels, Gauge>,
    events_dropped: Counter,
    webhook_events: Family<Labels, Counter>,
    webhook_events_pending: Gauge,
}

/// Why an order was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nothing that could keep it was in reach, or too many waited.
    Overloaded,
    /// Nobody knows whether it was taken.
    Unconfirmed,
    /// Another order has its key.
    KeyReused,
}

impl Refused {
    fn as_str(self) -> &'static str {
        match self {
            Refused::Overloaded => "overloaded",
            Refused::Unconfirmed => "unconfirmed",
            Refused::KeyReused => "key_reused",
        }
    }
}

/// What came of sending an event to a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    Yes,
    /// It is sent again.
    NotYet,
    /// It is given up.
    Never,
}

impl Delivered {
    fn as_str(self) -> &'static str {
        match self {
            Delivered::Yes => "delivered",
            Delivered::NotYet => "failed",
            Delivered::Never => "given_up",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("ordering");
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let family = |registry: &mut Registry, name: &str, help: &str| {
            let family = Family::<Labels, Counter>::default();
            registry.register(name, help, family.clone());
            family
        };
        let stage_paused = Family::<Labels, Gauge>::default();
        registry.register("stage_paused", "Whether people hold the stage up: 1 or 0", stage_paused.clone());
        let registry_ = &mut registry;
        Metrics {
            accepted: counter(registry_, "orders_accepted", "Orders answered with 202"),
            refused: family(registry_, "orders_refused", "Valid orders that were not answered with 202"),
            ended: family(registry_, "orders_ended", "Orders that came to their end in the archive"),
            duplicates: family(registry_, "duplicates_dropped", "Deliveries of orders that had come further already"),
            late_ends: counter(registry_, "late_ends_dropped", "Ends of orders that the archive had already"),
            republished: counter(registry_, "orders_republished", "Orders a queue had lost, published again"),
            outbox_published: counter(registry_, "outbox_orders_published", "Orders published from the outbox"),
            tried_again: counter(registry_, "orders_retried", "Failed orders that were tried again"),
            dead_letters: counter(
                registry_,
                "dead_letters_kept",
                "Messages nobody could read, brought to where they are kept",
            ),
            stage_paused,
            webhook_events: family(registry_, "webhook_events_sent", "Events sent to webhooks, by what came of it"),
            webhook_events_pending: {
                let (gauge, help) = (Gauge::default(), "Events that webhooks have yet to take");
                registry_.register("webhook_events_pending", help, gauge.clone());
                gauge
            },
            events_dropped: counter(registry_, "feed_events_dropped", "Events that listeners were not told of"),
            registry,
        }
    }
}

impl Metrics {
    pub fn accepted(&self, orders: usize) {
        self.accepted.inc_by(orders as u64);
    }

    pub fn refused(&self, why: Refused) {
        self.refused.get_or_create(&[("reason", why.as_str())]).inc();
    }

    pub fn ended(&self, status: Status) {
        self.ended.get_or_create(&[("status", status.as_str())]).inc();
    }

    /// A late duplicate was dropped at `stage`.
    pub fn duplicate(&self, stage: Stage) {
        self.duplicates.get_or_create(&[("stage", stage.as_snake())]).inc();
    }

    /// The archive had an end of an order already.
    pub fn late_end(&self) {
        self.late_ends.inc();
    }

    pub fn republished(&self, orders: usize) {
        self.republished.inc_by(orders as u64);
    }

    pub fn outbox_published(&self, orders: usize) {
        self.outbox_published.inc_by(orders as u64);
    }

    pub fn tried_again(&self, orders: usize) {
        self.tried_again.inc_by(orders as u64);
    }

    pub fn dead_letters(&self, letters: usize) {
        self.dead_letters.inc_by(letters as u64);
    }

    pub fn stage_paused(&self, stage: Stage, is_paused: bool) {
        self.stage_paused.get_or_create(&[("stage", stage.as_snake())]).set(i64::from(is_paused));
    }

    /// An event was sent to a webhook.
    pub fn webhook_event(&self, delivered: Delivered) {
        self.webhook_events.get_or_create(&[("result", delivered.as_str())]).inc();
    }

    /// So many events wait to be taken by webhooks; said by the process that sends them.
    pub fn webhook_events_pending(&self, events: u64) {
        self.webhook_events_pending.set(i64::try_from(events).unwrap_or(i64::MAX));
    }

    /// So many events were dropped in all.
    pub fn events_dropped(&self, events: u64) {
        self.events_dropped.inner().store(events, Ordering::Relaxed);
    }

    /// All of it in the text format of OpenMetrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to memory does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_in_the_form_that_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.accepted(3);
        metrics.refused(Refused::KeyReused);
        metrics.duplicate(Stage::PreProcessing);
        metrics.ended(Status::Failed);
        let text = metrics.text();
        for line in [
            "# TYPE ordering_orders_accepted counter",
            "ordering_orders_accepted_total 3",
            "ordering_orders_refused_total{reason=\"key_reused\"} 1",
            "ordering_duplicates_dropped_total{stage=\"pre_processing\"} 1",
            "ordering_orders_ended_total{status=\"failed\"} 1",
            "ordering_orders_republished_total 0",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}

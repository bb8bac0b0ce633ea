//! Records outcomes, and sends each order where the *recorded* outcome says.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::archiver::Ended;
use super::hold::Ticket;
use super::outbound::Outgoing;
use crate::batch::{Batches, Load};
use crate::domain::{Decision, OrderRecord, RecordedOutcome, Stage};
use crate::metrics::Metrics;
use crate::ports::{Place, Ports, Recorded, Unavailable};

/// An order whose attempt came to an outcome.
pub(super) struct Finished {
    pub(super) order: OrderRecord,
    pub(super) ticket: Ticket,
    pub(super) outcome: RecordedOutcome,
    /// The outcome was read from the in-flight store: it counts, whatever a handler would say now.
    pub(super) is_recorded: bool,
}

impl Load for Finished {
    fn size_bytes(&self) -> usize {
        self.order.size_bytes()
    }
}

pub(super) struct Finisher {
    pub(super) stage: Stage,
    pub(super) ports: Ports,
    pub(super) metrics: Arc<Metrics>,
    pub(super) finished: Batches<Finished>,
    pub(super) outbound: mpsc::Sender<Outgoing>,
    pub(super) archiver: mpsc::Sender<Ended>,
}

impl Finisher {
    /// Runs until the last sender of finished orders is gone.
    pub(super) async fn run(mut self) {
        while let Some(batch) = self.finished.next().await {
            let (known, new): (Vec<_>, Vec<_>) = batch.into_iter().partition(|finished| finished.is_recorded);
            for Finished { order, ticket, outcome, .. } in known {
                self.carry_out(order, ticket, outcome).await;
            }
            self.record(new).await;
        }
    }

    async fn record(&self, batch: Vec<Finished>) {
        if batch.is_empty() {
            return;
        }
        let outcomes: Vec<_> = batch.iter().map(|finished| (&finished.order, finished.outcome.clone())).collect();
        let recorded = match self.fence(&outcomes).await {
            Ok(recorded) => recorded,
            Err(unavailable) => {
                tracing::debug!(stage = %self.stage, %unavailable, orders = batch.len(), "finished without a record");
                vec![Recorded::Absent; batch.len()]
            }
        };
        for (Finished { order, ticket, outcome, .. }, recorded) in batch.into_iter().zip(recorded) {
            match recorded {
                Recorded::First | Recorded::Absent => self.carry_out(order, ticket, outcome).await,
                Recorded::Earlier(outcome) => self.carry_out(order, ticket, outcome).await,
                Recorded::Passed => {
                    self.metrics.duplicate(self.stage);
                    ticket.settle();
                }
            }
        }
    }

    /// Records the outcomes, a second time if the first reply did not come: it may have been recorded, or another
    /// outcome before it, and then that one must be carried out. A store that is down says so twice at once.
    async fn fence(&self, outcomes: &[(&OrderRecord, RecordedOutcome)]) -> Result<Vec<Recorded>, Unavailable> {
        match self.ports.in_flight.record(self.stage, outcomes).await {
            Ok(recorded) => Ok(recorded),
            Err(_) => self.ports.in_flight.record(self.stage, outcomes).await,
        }
    }

    async fn carry_out(&self, mut order: OrderRecord, ticket: Ticket, outcome: RecordedOutcome) {
        order.history.record(self.stage, &outcome);
        // A closed channel means that the process is going down: the ticket is dropped, and the order comes again.
        match outcome.decision {
            Decision::Advance(next) => {
                let _ = self.outbound.send(Outgoing { place: Place::Stage(next), order, ticket }).await;
            }
            Decision::Retry { delay, reason: _, counts: _ } => {
                let _ = self.outbound.send(Outgoing { place: Place::Delayed(self.stage, delay), order, ticket }).await;
            }
            Decision::End(_) => {
                let _ = self.archiver.send(Ended { order, ticket }).await;
            }
        }
    }
}

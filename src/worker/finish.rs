//! Records outcomes, and sends each order where the *recorded* outcome says; one that was cancelled to the archive.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::archiver::Ended;
use super::hold::Ticket;
use super::outbound::Outgoing;
use crate::batch::{Batches, Load};
use crate::domain::{Cancellation, Decision, OrderId, OrderRecord, RecordedOutcome, Stage};
use crate::metrics::Metrics;
use crate::ports::{Place, Ports, Recorded, Unavailable};

/// An order that has nothing more to wait for at its stage.
pub(super) struct Finished {
    pub(super) order: OrderRecord,
    pub(super) ticket: Ticket,
    pub(super) result: AttemptResult,
}

/// What an attempt came to.
pub(super) enum AttemptResult {
    /// What the handler said, not recorded yet.
    New(RecordedOutcome),
    /// Read from the in-flight store: it counts, whatever a handler would say now.
    Recorded(RecordedOutcome),
    /// The order is to go no further; the outcome, if there is one, was recorded and is not carried out.
    Cancelled(Cancellation, Option<RecordedOutcome>),
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
            let mut new = Vec::new();
            for Finished { order, ticket, result } in batch {
                match result {
                    AttemptResult::New(outcome) => new.push((order, ticket, outcome)),
                    AttemptResult::Recorded(outcome) => self.carry_out(order, ticket, outcome).await,
                    AttemptResult::Cancelled(cancellation, outcome) => {
                        self.cancel(order, ticket, cancellation, outcome).await;
                    }
                }
            }
            self.record(new).await;
        }
    }

    async fn record(&self, batch: Vec<(OrderRecord, Ticket, RecordedOutcome)>) {
        if batch.is_empty() {
            return;
        }
        let outcomes: Vec<_> = batch.iter().map(|(order, _, outcome)| (order, outcome.clone())).collect();
        let mut recorded = match self.fence(&outcomes).await {
            Ok(recorded) => recorded,
            Err(unavailable) => {
                tracing::debug!(stage = %self.stage, %unavailable, orders = batch.len(), "finished without a record");
                vec![Recorded::Absent; batch.len()]
            }
        };
        self.look_for_cancellations(&outcomes, &mut recorded).await;
        for ((order, ticket, outcome), recorded) in batch.into_iter().zip(recorded) {
            match recorded {
                Recorded::First | Recorded::Absent => self.carry_out(order, ticket, outcome).await,
                Recorded::Earlier(outcome) => self.carry_out(order, ticket, outcome).await,
                Recorded::Cancelled { cancellation, outcome } => {
                    self.cancel(order, ticket, cancellation, Some(outcome)).await;
                }
                Recorded::Passed => {
                    self.metrics.duplicate(self.stage);
                    ticket.settle();
                }
            }
        }
    }

    /// Of orders without a record nobody has said whether they are to go further.
    async fn look_for_cancellations(&self, outcomes: &[(&OrderRecord, RecordedOutcome)], recorded: &mut [Recorded]) {
        let absent: Vec<usize> = (0..recorded.len()).filter(|n| recorded[*n] == Recorded::Absent).collect();
        let orders: Vec<_> = absent.iter().map(|n| outcomes[*n].0).map(|order| (order.id, order.passage)).collect();
        for (n, cancellation) in absent.into_iter().zip(cancellations(&self.ports, &orders).await) {
            if let Some(cancellation) = cancellation {
                recorded[n] = Recorded::Cancelled { cancellation, outcome: outcomes[n].1.clone() };
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

    /// Ends an order that is to go no further, with what was recorded of its last attempt.
    async fn cancel(
        &self,
        mut order: OrderRecord,
        ticket: Ticket,
        cancellation: Cancellation,
        outcome: Option<RecordedOutcome>,
    ) {
        if let Some(outcome) = outcome {
            order.history.record(self.stage, &outcome);
        }
        order.history.cancel(cancellation);
        let _ = self.archiver.send(Ended { order, ticket }).await;
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

/// What was asked of orders for which the in-flight store does not speak, given by id and passage. While that cannot be
/// found out they go on: the archive's first row decides.
pub(super) async fn cancellations(ports: &Ports, orders: &[(OrderId, u32)]) -> Vec<Option<Cancellation>> {
    if orders.is_empty() {
        return Vec::new();
    }
    ports.cancellations.of(orders).await.unwrap_or_else(|unavailable| {
        tracing::debug!(%unavailable, orders = orders.len(), "whether they were cancelled is not known");
        vec![None; orders.len()]
    })
}

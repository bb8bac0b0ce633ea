//! Accepts orders: group commit into the first stage's queue.
//!
//! The reply to a customer waits until the queues hold the order durably and its record is written, so that 202 means
//! kept and the customer reads what he wrote. While one batch is being published, the orders that arrive make the
//! next one.
//!
//! # Failure handling
//! One task owns publishing and is never cancelled: a customer who hangs up takes nothing back. Orders the queues
//! did not take are refused at once, those behind them too, so that nobody waits in line for a broker that is gone.
//! If the in-flight store is out of reach the order is taken all the same: workers write its record from the message.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::batch::{BatchLimits, Batches, Load};
use crate::domain::{Order, OrderId, OrderRecord, Stage};
use crate::ports::{Clock, InFlight, Place, PublishError, Queues, Unavailable};

/// Why an order was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotAccepted {
    /// It was not taken: more orders wait than [`IntakeOptions::waiting_max`], or the service is stopping.
    #[error("too many orders wait to be taken")]
    Overloaded,
    /// It was not taken: nothing that could keep it is in reach.
    #[error("not taken: {0}")]
    Unavailable(Unavailable),
    /// Nobody knows whether it was taken: perhaps it will be found under this id.
    #[error("perhaps taken, as {id}: {unavailable}")]
    Unconfirmed { id: OrderId, unavailable: Unavailable },
}

#[derive(Clone, Copy, Debug)]
pub struct IntakeOptions {
    pub batch: BatchLimits,
    /// Orders that may wait to be published.
    pub waiting_max: usize,
}

/// Where new orders go in. Cheap to clone; the intake stops when the last clone is gone and all that waits is done.
#[derive(Clone)]
pub struct Intake {
    waiting: mpsc::Sender<Waiting>,
    clock: Arc<dyn Clock>,
}

struct Waiting {
    record: OrderRecord,
    reply: oneshot::Sender<Result<(), NotAccepted>>,
}

impl Load for Waiting {
    fn size_bytes(&self) -> usize {
        self.record.size_bytes()
    }
}

impl Intake {
    /// Starts the publishing task on the current runtime.
    pub fn start(
        options: IntakeOptions,
        queues: Arc<dyn Queues>,
        in_flight: Arc<dyn InFlight>,
        clock: Arc<dyn Clock>,
    ) -> Intake {
        let (waiting, receiver) = mpsc::channel(options.waiting_max);
        let publisher = Publisher { batches: Batches::new(receiver, options.batch), refused: 0, queues, in_flight };
        tokio::spawn(publisher.run());
        Intake { waiting, clock }
    }

    /// Takes an order, and gives it its id: `id`, or a new one. Comes back when the order is kept, or is not.
    ///
    /// Two orders of one id are one order in the end, the one whose content came first.
    ///
    /// # Errors
    /// [`NotAccepted`]; passing.
    pub async fn accept(&self, order: Order, id: Option<OrderId>) -> Result<OrderId, NotAccepted> {
        // A place in the line first: a full line must not cost the work of preparing an order.
        let place = self.waiting.try_reserve().map_err(|_| NotAccepted::Overloaded)?;
        let now = self.clock.now();
        let id = id.unwrap_or_else(|| OrderId::new(now, rand::random()));
        let (reply, kept) = oneshot::channel();
        place.send(Waiting { record: OrderRecord::new(id, now, order), reply });
        // The reply is dropped unsent only if the publishing task died; then nobody knows how far it had come.
        kept.await.unwrap_or_else(|_| {
            Err(NotAccepted::Unconfirmed { id, unavailable: Unavailable::new("intake", "it has stopped") })
        })?;
        Ok(id)
    }
}

struct Publisher {
    batches: Batches<Waiting>,
    /// Orders that were not taken since the last that was.
    refused: usize,
    queues: Arc<dyn Queues>,
    in_flight: Arc<dyn InFlight>,
}

impl Publisher {
    async fn run(mut self) {
        while let Some(batch) = self.batches.next().await {
            let (records, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.record, w.reply)).unzip();
            let error = self.keep(&records).await.err();
            // A reply nobody waits for any more is a customer who hung up: his order is kept all the same.
            for (record, reply) in records.iter().zip(replies) {
                let _ = reply.send(error.as_ref().map_or(Ok(()), |error| Err(not_accepted(error, record.id))));
            }
            match error {
                Some(error) => {
                    // Once for an outage, not once for each batch of it.
                    if self.refused == 0 {
                        tracing::warn!(%error, "orders are not taken");
                    }
                    self.refused += records.len() + self.refuse_those_behind(error.unavailable());
                }
                None if self.refused > 0 => {
                    tracing::info!(refused = self.refused, "orders are taken again");
                    self.refused = 0;
                }
                None => {}
            }
        }
    }

    async fn keep(&self, records: &[OrderRecord]) -> Result<(), PublishError> {
        // Asked first: in an outage every refused order would leave a record behind.
        self.queues.takes().map_err(PublishError::NotTaken)?;
        // The record before the queue: a worker that begins an order without one has to ask the archive, and if that is
        // out of reach goes on without a fence.
        if let Err(unavailable) = self.in_flight.put(records).await {
            tracing::debug!(%unavailable, orders = records.len(), "accepted without in-flight records");
        }
        self.queues.publish(Place::Stage(Stage::FIRST), records).await
    }

    /// Refuses all that waits: each batch would take its own time to fail, and the last in line all of them together.
    /// How many that were.
    fn refuse_those_behind(&mut self, unavailable: &Unavailable) -> usize {
        let behind = self.batches.drain();
        let refused = behind.len();
        for waiting in behind {
            let _ = waiting.reply.send(Err(NotAccepted::Unavailable(unavailable.clone())));
        }
        refused
    }
}

fn not_accepted(error: &PublishError, id: OrderId) -> NotAccepted {
    match error {
        PublishError::NotTaken(unavailable) => NotAccepted::Unavailable(unavailable.clone()),
        PublishError::Unknown(unavailable) => NotAccepted::Unconfirmed { id, unavailable: unavailable.clone() },
    }
}

//! Accepts orders: group commit into the first stage's queue, or, while no queue takes them, into the outbox.
//!
//! The reply to a customer waits until the order is held durably and its record is written, so that 202 means
//! kept and the customer reads what he wrote. While one batch is being kept, the orders that arrive make the next one.
//! `keep` says in which order the places are written.
//!
//! # Failure handling
//! One task owns the keeping and is never cancelled: a customer who hangs up takes nothing back. When nothing can keep
//! orders they are refused at once, those behind them too, so that nobody waits in line for a server that is gone.

mod keep;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};

use crate::batch::{BatchLimits, Batches, Load};
use crate::domain::{Event, Order, OrderId, OrderRecord, TraceParent};
use crate::metrics::{Metrics, Refused};
use crate::ports::{Clock, Feed, Ports, Random, Unavailable};
use keep::{Keeper, Verdict};

/// Why an order was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotAccepted {
    /// It was not taken: more orders wait than [`IntakeOptions::waiting_max`], or [`Backlog`] is full, or the service
    /// is stopping.
    #[error("too many orders wait to be taken")]
    Overloaded,
    /// It was not taken: nothing that could keep it is in reach.
    #[error("not taken: {0}")]
    Unavailable(Unavailable),
    /// Nobody knows whether it was taken: perhaps it will be found under this id.
    #[error("perhaps taken, as {id}: {unavailable}")]
    Unconfirmed { id: OrderId, unavailable: Unavailable },
    /// Another order was placed with its key before.
    #[error("another order has {id}, of the same key")]
    KeyReused { id: OrderId },
}

/// Whether accepted orders are put into the journal even if nothing is amiss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journaling {
    /// Only those of which there would be no record otherwise.
    Needed,
    /// All: what is in flight is then known even when the in-flight store and the queues have lost it.
    All,
}

#[derive(Clone, Copy, Debug)]
pub struct IntakeOptions {
    pub batch: BatchLimits,
    /// Orders that may wait to be kept.
    pub waiting_max: usize,
    pub journaling: Journaling,
}

/// Whether more orders wait in the queues than the system should take on. Said by whoever watches them.
#[derive(Clone, Default)]
pub struct Backlog(Arc<AtomicBool>);

impl Backlog {
    pub fn set_full(&self, is_full: bool) {
        self.0.store(is_full, Ordering::Relaxed);
    }

    pub fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where new orders go in. Cheap to clone; the intake stops when the last clone is gone and all that waits is done.
#[derive(Clone)]
pub struct Intake {
    waiting: mpsc::Sender<Waiting>,
    backlog: Backlog,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

struct Waiting {
    record: OrderRecord,
    /// Its id is derived from a key.
    has_key: bool,
    reply: oneshot::Sender<Verdict>,
}

impl Load for Waiting {
    fn size_bytes(&self) -> usize {
        self.record.size_bytes()
    }
}

impl Intake {
    /// Starts the keeping task on the current runtime.
    pub fn start(options: IntakeOptions, ports: &Ports, backlog: Backlog, metrics: Arc<Metrics>) -> Intake {
        let (waiting, receiver) = mpsc::channel(options.waiting_max);
        let keeping = Keeping {
            batches: Batches::new(receiver, options.batch),
            keeper: Keeper::new(ports, options.journaling),
            feed: ports.feed.clone(),
            refused: 0,
        };
        tokio::spawn(keeping.run());
        Intake { waiting, backlog, metrics, clock: ports.clock.clone(), random: ports.random.clone() }
    }

    /// Takes an order, and gives it its id: the one its Idempotency-Key stands for, or a new one. Comes back when the
    /// order is kept, or is not. An order that comes again with its key is the same order: it is kept once.
    ///
    /// # Errors
    /// [`NotAccepted`]; passing, but for [`NotAccepted::KeyReused`].
    pub async fn accept(&self, order: Order, key: Option<&str>) -> Result<OrderId, NotAccepted> {
        self.accept_traced(order, key, None).await
    }

    /// As [`Intake::accept`]; the order is placed in a trace, if there is one.
    ///
    /// # Errors
    /// As [`Intake::accept`].
    pub async fn accept_traced(
        &self,
        order: Order,
        key: Option<&str>,
        trace: Option<TraceParent>,
    ) -> Result<OrderId, NotAccepted> {
        let accepted = self.take(order, key, trace).await;
        match &accepted {
            Ok(_) => self.metrics.accepted(1),
            Err(NotAccepted::Overloaded | NotAccepted::Unavailable(_)) => self.metrics.refused(Refused::Overloaded),
            Err(NotAccepted::Unconfirmed { .. }) => self.metrics.refused(Refused::Unconfirmed),
            Err(NotAccepted::KeyReused { .. }) => self.metrics.refused(Refused::KeyReused),
        }
        accepted
    }

    async fn take(&self, order: Order, key: Option<&str>, trace: Option<TraceParent>) -> Result<OrderId, NotAccepted> {
        if self.backlog.is_full() {
            return Err(NotAccepted::Overloaded);
        }
        // A place in the line first: a full line must not cost the work of preparing an order.
        let place = self.waiting.try_reserve().map_err(|_| NotAccepted::Overloaded)?;
        let now = self.clock.now();
        let id = key.map_or_else(|| OrderId::new(now, self.random.id_bytes()), OrderId::from_key);
        let (reply, kept) = oneshot::channel();
        let record = OrderRecord { trace, ..OrderRecord::new(id, now, order) };
        place.send(Waiting { record, has_key: key.is_some(), reply });
        // The reply is dropped unsent only if the keeping task died; then nobody knows how far it had come.
        kept.await.unwrap_or_else(|_| {
            Err(NotAccepted::Unconfirmed { id, unavailable: Unavailable::new("intake", "it has stopped") })
        })?;
        Ok(id)
    }
}

struct Keeping {
    batches: Batches<Waiting>,
    keeper: Keeper,
    feed: Option<Arc<dyn Feed>>,
    /// Orders that were not taken since the last that was.
    refused: usize,
}

impl Keeping {
    async fn run(mut self) {
        while let Some(batch) = self.batches.next().await {
            let (replies, orders): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|waiting| (waiting.reply, (waiting.record, waiting.has_key))).unzip();
            let events: Option<Vec<Event>> =
                self.feed.is_some().then(|| orders.iter().map(|(order, _)| Event::accepted(order)).collect());
            let verdicts = self.keeper.keep(orders).await;
            self.log(&verdicts);
            if let (Some(feed), Some(events)) = (&self.feed, events) {
                let accepted = events.into_iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok());
                feed.tell(accepted.map(|(event, _)| event).collect());
            }
            // A reply nobody waits for any more is a customer who hung up: his order is kept all the same.
            for (reply, verdict) in replies.into_iter().zip(verdicts) {
                let _ = reply.send(verdict);
            }
        }
    }

    /// Says that orders are not taken, once for an outage and not for each batch of it. While nothing takes any, those
    /// behind are refused too: each batch would take its own time to fail, and the last in line all of them together.
    fn log(&mut self, verdicts: &[Verdict]) {
        let (mut refused, mut reason) = (0, None);
        for verdict in verdicts {
            match verdict {
                Err(NotAccepted::Unavailable(unavailable) | NotAccepted::Unconfirmed { unavailable, .. }) => {
                    refused += 1;
                    reason = Some(unavailable);
                }
                Ok(()) | Err(NotAccepted::Overloaded | NotAccepted::KeyReused { .. }) => {}
            }
        }
        match reason {
            Some(unavailable) => {
                if self.refused == 0 {
                    tracing::warn!(%unavailable, "orders are not taken");
                }
                self.refused += refused;
                if self.keeper.takes_nothing() {
                    self.refused += refuse_all(self.batches.drain(), unavailable);
                }
            }
            None if self.refused > 0 && verdicts.iter().any(Result::is_ok) => {
                tracing::info!(refused = self.refused, "orders are taken again");
                self.refused = 0;
            }
            None => {}
        }
    }
}

/// Refuses orders with which nothing was done; how many that were.
fn refuse_all(waiting: Vec<Waiting>, unavailable: &Unavailable) -> usize {
    let refused = waiting.len();
    for waiting in waiting {
        let _ = waiting.reply.send(Err(NotAccepted::Unavailable(unavailable.clone())));
    }
    refused
}

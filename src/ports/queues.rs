//! What carries orders from stage to stage.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{DeadLetter, Unavailable};
use crate::domain::{Delay, Event, OrderRecord, Stage, Timestamp};

/// Orders were not put into a queue, as far as is known.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// Certainly not: no connection, refused, or no queue to hold them.
    #[error("not taken: {0}")]
    NotTaken(Unavailable),
    /// The reply never came: perhaps they are there.
    #[error("of unknown fate: {0}")]
    Unknown(Unavailable),
}

impl PublishError {
    pub fn unavailable(&self) -> &Unavailable {
        match self {
            PublishError::NotTaken(unavailable) | PublishError::Unknown(unavailable) => unavailable,
        }
    }
}

/// Where the queues can put orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The queue of a stage.
    Stage(Stage),
    /// The queue of a stage, after a wait.
    Delayed(Stage, Delay),
    /// The queue of ended orders that wait for the archive.
    Ending,
}

impl Place {
    /// Where an order of this history goes next: to the stage it is at, or, ended, to the archive's queue.
    pub fn next_of(order: &OrderRecord) -> Place {
        match Stage::ALL.into_iter().find(|stage| order.history.is_at(*stage)) {
            Some(stage) => Place::Stage(stage),
            None => Place::Ending,
        }
    }

    /// The source whose deliveries bring what is put here.
    pub fn source(self) -> Source {
        match self {
            Place::Stage(stage) | Place::Delayed(stage, _) => Source::Stage(stage),
            Place::Ending => Source::Ending,
        }
    }
}

/// Where the queues can take orders from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Stage(Stage),
    Ending,
}

/// The name as it stands in URLs, flags and logs: that of the stage, or `ending`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_kebab())
    }
}

/// The text names no queue that orders are taken from.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no queue; the queues are those of the stages, and ending")]
pub struct UnknownSource(pub String);

impl FromStr for Source {
    type Err = UnknownSource;

    fn from_str(text: &str) -> Result<Self, UnknownSource> {
        match text.parse() {
            Ok(stage) => Ok(Source::Stage(stage)),
            Err(_) if text == "ending" => Ok(Source::Ending),
            Err(_) => Err(UnknownSource(text.to_owned())),
        }
    }
}

impl From<Source> for Place {
    fn from(source: Source) -> Place {
        match source {
            Source::Stage(stage) => Place::Stage(stage),
            Source::Ending => Place::Ending,
        }
    }
}

impl Source {
    /// The name in JSON: `pre_processing`.
    pub fn as_snake(self) -> &'static str {
        match self {
            Source::Stage(stage) => stage.as_snake(),
            Source::Ending => "ending",
        }
    }

    /// The name in flags and URLs: `pre-processing`.
    pub fn as_kebab(self) -> &'static str {
        match self {
            Source::Stage(stage) => stage.as_kebab(),
            Source::Ending => "ending",
        }
    }

    /// Everything orders are taken from.
    pub fn all() -> impl Iterator<Item = Source> {
        Stage::ALL.into_iter().map(Source::Stage).chain([Source::Ending])
    }
}

/// Carries orders from stage to stage, durably, at least once.
#[async_trait]
pub trait Queues: Send + Sync + 'static {
    /// Puts `orders` (1 to 256, about 256 KiB, or one order of any size) into `place` as one message. `Ok` means that
    /// the message is held durably and will be delivered.
    ///
    /// Must be called from a task that is not cancelled, so that no reply is left without its receiver.
    ///
    /// # Errors
    /// [`PublishError`]; passing, all of them.
    async fn publish(&self, place: Place, orders: &[OrderRecord]) -> Result<(), PublishError>;

    /// Puts an order into the first stage's queue when its time has come, at `at`. Only where there is no journal, which is
    /// what orders wait in otherwise.
    ///
    /// # Errors
    /// As [`Queues::publish`]; for ever, where there is a journal.
    async fn publish_at(&self, at: Timestamp, order: &OrderRecord) -> Result<(), PublishError>;

    /// Whether a publish has any prospect at the moment; answers at once. For callers who would do something first.
    ///
    /// # Errors
    /// [`Unavailable`]: it would come to [`PublishError::NotTaken`].
    fn takes(&self) -> Result<(), Unavailable>;

    /// Starts deliveries from `source`, at most `prefetch` messages unsettled at a time. They go on over lost
    /// connections, without end, until the subscription is cancelled or [`Queues::close`] is called; while
    /// the queues are out of reach there are just none.
    fn subscribe(&self, source: Source, prefetch: u16) -> Subscription;

    /// Moves a message that nobody can read to the dead letters. `Ok` means that it is held there durably.
    ///
    /// # Errors
    /// [`PublishError`]; passing.
    async fn bury(&self, letter: &DeadLetter) -> Result<(), PublishError>;

    /// Starts deliveries of dead letters, as [`Queues::subscribe`] does of orders. `None`: this back end keeps what is
    /// buried at once where [`super::DeadLetters`] finds it.
    fn dead_letters(&self, prefetch: u16) -> Option<DeadSubscription>;

    /// Puts events where [`super::Webhooks`] will get them from, in this order. `Ok` means that they are held there
    /// durably.
    ///
    /// # Errors
    /// [`PublishError`]; passing.
    async fn publish_events(&self, events: &[Event]) -> Result<(), PublishError>;

    /// Starts deliveries of events, to one subscription at a time of all that there are, in the order in which they were
    /// published; as [`Queues::subscribe`] otherwise. `None`: this back end keeps what is published at once where
    /// [`super::Webhooks`] has it.
    fn events(&self, prefetch: u16) -> Option<EventSubscription>;

    /// Puts bytes that were a message of `source` back into its queue, to the letter.
    ///
    /// # Errors
    /// [`PublishError`]; passing.
    async fn replay(&self, source: Source, bytes: &Bytes) -> Result<(), PublishError>;

    /// How many messages wait in the queue of `source`; those that workers hold and those in delay queues not counted.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn waiting(&self, source: Source) -> Result<u64, Unavailable>;

    /// Of which sources this process found a queue missing since the last call, delay queues of a stage included: what the
    /// queue held is lost to it. A queue that was never there counts too.
    fn take_losses(&self) -> Vec<Source>;

    /// Whether orders can be taken and delivered at the moment.
    ///
    /// # Errors
    /// [`Unavailable`] with what is wrong.
    async fn check(&self) -> Result<(), Unavailable>;

    /// Ends all deliveries; what was settled before stays settled, what was not is delivered again to somebody else.
    async fn close(&self);
}

/// Deliveries and the means to settle them.
pub struct Subscription {
    pub deliveries: mpsc::Receiver<Delivery>,
    pub settle: Arc<dyn Settle>,
}

impl Subscription {
    /// Ends the deliveries and gives back what was delivered and not taken. What was taken can still be settled.
    pub async fn cancel(mut self) -> Arc<dyn Settle> {
        self.deliveries.close();
        while let Some(delivery) = self.deliveries.recv().await {
            self.settle.give_back(delivery.receipt);
        }
        self.settle
    }
}

/// Deliveries of dead letters and the means to settle them.
pub struct DeadSubscription {
    pub deliveries: mpsc::Receiver<DeadDelivery>,
    pub settle: Arc<dyn Settle>,
}

/// One message of the queue of dead letters.
#[derive(Debug)]
pub struct DeadDelivery {
    pub receipt: Receipt,
    pub letter: DeadLetter,
}

/// Deliveries of events and the means to settle them.
pub struct EventSubscription {
    pub deliveries: mpsc::Receiver<EventDelivery>,
    pub settle: Arc<dyn Settle>,
}

/// One message of the queue of events.
#[derive(Debug)]
pub struct EventDelivery {
    pub receipt: Receipt,
    pub events: Result<Vec<Event>, Unreadable>,
}

/// Says what became of a delivery. Neither call waits, and either may be lost with the connection: the message is
/// then delivered again. Receipts of a connection that is gone are ignored.
pub trait Settle: Send + Sync {
    /// All orders of the delivery have their next place.
    fn ack(&self, receipt: Receipt);
    /// Somebody else, or this worker later, is to have it.
    fn give_back(&self, receipt: Receipt);
}

/// Which delivery, on which of the connections there have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    pub connection: u64,
    pub tag: u64,
}

/// One message of a queue.
#[derive(Debug)]
pub struct Delivery {
    pub receipt: Receipt,
    pub contents: Result<Vec<OrderRecord>, Unreadable>,
}

/// Bytes that are no message of this system.
#[derive(Clone, Debug)]
pub struct Unreadable {
    pub reason: String,
    /// A message of a newer release: not for the dead letters, somebody else can read it.
    pub is_newer: bool,
    pub bytes: Bytes,
}

//! What the way of an order needs of the outside, naming no product.
//!
//! Two back ends stand behind these traits, `embedded` and `servers`; one conformance suite (`tests/contract.rs`)
//! runs against both. Everything here works on batches: a round trip is paid per batch, not per order.
//!
//! # Failure handling
//! Every method has a deadline of its own and answers [`Unavailable`] when what it needs is out of reach; none waits
//! for it to come back. Adapters rebuild lost connections by themselves, so that a caller only has to try again.
//! Every write may be repeated without harm: after an error nobody knows whether it took effect.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::domain::{Delay, OrderId, OrderRecord, RecordedOutcome, Stage, Timestamp};

/// A part of the system is out of reach, or did not answer in time. Passing: try again later.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{part}: {reason}")]
pub struct Unavailable {
    /// What it is, as the operator knows it: `RabbitMQ`.
    pub part: &'static str,
    /// What happened, without secrets and without an order's content.
    pub reason: String,
}

impl Unavailable {
    pub fn new(part: &'static str, reason: impl std::fmt::Display) -> Self {
        Unavailable { part, reason: reason.to_string() }
    }
}

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

/// Where the queues can take orders from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Stage(Stage),
    Ending,
}

impl Source {
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

/// A message that nobody can read, and where and why it was given up.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub source: Source,
    pub reason: String,
    pub at: Timestamp,
    pub bytes: Bytes,
}

/// Answers where an accepted order is, and fences its steps: of each attempt at a stage the first recorded outcome
/// counts.
///
/// The fence compares [`crate::domain::Progress`] points: what an order has passed is never done again.
#[async_trait]
pub trait InFlight: Send + Sync + 'static {
    /// Writes the records of `orders` with the history they bring, unless there are records that have come further.
    ///
    /// # Errors
    /// [`Unavailable`]; none, some or all of them may have been written.
    async fn put(&self, orders: &[OrderRecord]) -> Result<(), Unavailable>;

    /// Notes that `worker` begins the next attempt of each of `orders` at `stage`, at the moment `at`, and says of
    /// each what was there before. Nothing is written for those that are not [`Begun::Fresh`]. A record that knows
    /// less than the message (the store was out of reach for a step) takes the message's history in.
    ///
    /// # Errors
    /// [`Unavailable`]; none, some or all of them may have been written.
    async fn begin(
        &self,
        stage: Stage,
        worker: &Arc<str>,
        at: Timestamp,
        orders: &[OrderRecord],
    ) -> Result<Vec<Begun>, Unavailable>;

    /// Records the outcome of the attempt each of these orders is at (the next one by its history), unless one is
    /// recorded, and says of each which counts.
    ///
    /// # Errors
    /// [`Unavailable`]; none, some or all of them may have been recorded.
    async fn record(
        &self,
        stage: Stage,
        outcomes: &[(&OrderRecord, RecordedOutcome)],
    ) -> Result<Vec<Recorded>, Unavailable>;

    /// Notes that these orders (whose histories have ended) are in the archive: their records take nothing more, and
    /// go after a while. Records that are not there are not made.
    ///
    /// # Errors
    /// [`Unavailable`]; none, some or all of them may have been noted.
    async fn end(&self, orders: &[OrderRecord]) -> Result<(), Unavailable>;

    /// The order as far as it has come, the step at work included; `None` if there is no record. An order shows its
    /// end only after [`InFlight::end`]: before that it is not in the archive.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable>;

    /// Since when, at the moment `now` at the latest, every record that should be there is there: that there is no
    /// record says nothing of an order that may have been accepted before. A store that lost its memory, or could not
    /// take a record, begins anew.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn whole_since(&self, now: Timestamp) -> Result<Timestamp, Unavailable>;

    /// Whether records can be read and written at the moment.
    ///
    /// # Errors
    /// [`Unavailable`] with what is wrong.
    async fn check(&self) -> Result<(), Unavailable>;
}

/// What the in-flight store knew when an attempt was to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// No outcome of this attempt is recorded: do the work. `deliveries` counts how often the attempt was begun,
    /// this time included.
    Fresh { deliveries: u32 },
    /// This outcome is recorded, and nothing after it: a worker died between recording and carrying it out, or is
    /// slow. Carry it out again.
    Recorded(RecordedOutcome),
    /// The order has come further, or has ended: this delivery is a late duplicate.
    Passed,
    /// There is no record of the order.
    Absent,
}

/// Which outcome of an attempt counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The one that was given.
    First,
    /// One that was recorded before.
    Earlier(RecordedOutcome),
    /// None any more: the order has come further, or has ended.
    Passed,
    /// There is no record to hold it.
    Absent,
}

/// Keeps what has ended.
#[async_trait]
pub trait Archive: Send + Sync + 'static {
    /// Keeps these orders, whose histories have ended, all in one transaction. Of several ends of one order the
    /// first that was kept stays, and is told apart in the reply.
    ///
    /// # Errors
    /// [`Unavailable`]; all of them were kept, or none.
    async fn archive(&self, orders: &[OrderRecord]) -> Result<Vec<Archived>, Unavailable>;

    /// The order as it ended; `None` if it is not in the archive.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable>;

    /// Which of `ids` are in the archive, in the order of `ids`.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn contains(&self, ids: &[OrderId]) -> Result<Vec<bool>, Unavailable>;

    /// Whether orders can be kept and read at the moment.
    ///
    /// # Errors
    /// [`Unavailable`] with what is wrong.
    async fn check(&self) -> Result<(), Unavailable>;
}

/// What the archive did with one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archived {
    /// It keeps it now.
    Now,
    /// It has kept an end of this order before, and keeps that one.
    Before,
}

/// The time of day.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

/// The clock of the machine.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

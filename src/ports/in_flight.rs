//! Where an order that has not ended is, and the fence of its steps.

use std::sync::Arc;

use async_trait::async_trait;

use super::Unavailable;
use crate::domain::{Cancellation, Decision, OrderId, OrderRecord, RecordedOutcome, Stage, Timestamp};

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

    /// As [`InFlight::put`], for orders whose ids are derived from keys: writes the record of each unless there is one,
    /// and says what was there. So of several orders with one key the first has it, whichever process took it.
    ///
    /// # Errors
    /// [`Unavailable`]; none, some or all of them may have been written.
    async fn claim(&self, orders: &[OrderRecord]) -> Result<Vec<Claim>, Unavailable>;

    /// Notes that `worker` begins the next attempt of each of `orders` at `stage`, at the moment `at`, and says of
    /// each what was there before. Nothing is written for those that are not [`Begun::Fresh`]. A record that knows
    /// less than the message (the store was out of reach for a step) takes the message's history in.
    ///
    /// Of two contents of one derived id (a key was used for two orders while the stores were out of reach) the one
    /// that is begun first has it: a record that nobody has begun takes that content in, and the other one finds that it
    /// has [`Begun::Passed`]. So an order is never a mixture of both. [`InFlight::put`] and [`InFlight::record`] hold to
    /// it too, and [`InFlight::end`], which knows what the archive has, gives the record that content.
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
    /// recorded, and says of each which counts. The attempt need not have been begun: where its work takes no time this is
    /// all there is to note.
    ///
    /// # Errors
    /// [`Unavailable`]; none, some or all of them may have been recorded.
    async fn record(
        &self,
        stage: Stage,
        outcomes: &[(&OrderRecord, RecordedOutcome)],
    ) -> Result<Vec<Recorded>, Unavailable>;

    /// Marks the record of an order that is to go no further in this passage: no attempt of it is begun any more
    /// ([`Begun::Cancelled`]), and the outcome of one that is at work is recorded and not carried out
    /// ([`Recorded::Cancelled`]). The first mark stays. An end that is recorded already stands: nothing is marked then.
    ///
    /// # Errors
    /// [`Unavailable`]; it may have been marked.
    async fn cancel(&self, id: OrderId, passage: u32, cancellation: &Cancellation) -> Result<Cancelling, Unavailable>;

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

    /// Some of the orders that have not ended, as messages would carry them: with what was recorded, and without an
    /// attempt that is at work. `cursor` is 0 for the first call, then what the call before gave. All that are there from
    /// the first call to the last are given, some perhaps twice.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn scan(&self, cursor: u64) -> Result<Scan, Unavailable>;

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

/// Whose an id is that was derived from a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody had it; now it is this order's.
    New,
    /// It is this order's: one of the same content came before. `is_under_way`: a worker has begun it, or it has
    /// ended. A queue or the archive must have held it then; without that, nobody knows.
    Same { is_under_way: bool },
    /// It belongs to an order of other content.
    Other,
}

/// A part of the orders in flight.
#[derive(Clone, Debug)]
pub struct Scan {
    pub orders: Vec<Unmoved>,
    /// The cursor of the next call; `None` if this was the last part.
    pub next: Option<u64>,
}

/// An order in flight, and since when it could have moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmoved {
    /// With every outcome that is recorded, an end included that the archive may not have yet.
    pub order: OrderRecord,
    /// The last thing that is known of it (taken, begun, recorded), or, if it waits to be tried again or for its time,
    /// the moment its wait ends: whichever is later.
    pub since: Timestamp,
    /// An attempt was begun and no outcome of it is recorded: a handler may be working on it.
    pub is_at_work: bool,
}

impl Unmoved {
    /// An order of which nothing is known but what its history says.
    pub fn of(order: OrderRecord) -> Unmoved {
        Unmoved { since: Self::since(&order), order, is_at_work: false }
    }

    /// Since when an order has not moved of which nothing is known but what its history says.
    pub fn since(order: &OrderRecord) -> Timestamp {
        let since = order.placed_at.max(order.updated_at());
        order.order.not_before().map_or(since, |at| at.max(since))
    }

    /// Takes in that attempt number `attempt` at `stage` was begun at `entered_at`, and what was recorded of it.
    pub fn take_in(&mut self, stage: Stage, attempt: u32, entered_at: Timestamp, outcome: Option<&RecordedOutcome>) {
        self.since = self.since.max(entered_at);
        self.is_at_work = outcome.is_none();
        let Some(outcome) = outcome else { return };
        let moves_at = match outcome.decision {
            Decision::Retry { delay, .. } => outcome.finished_at.after(delay.as_duration()),
            Decision::Advance(_) | Decision::End(_) => outcome.finished_at,
        };
        self.since = self.since.max(moves_at);
        self.order.history.record_attempt(stage, attempt, outcome);
    }
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
    /// It is to go no further. `outcome` was recorded of this attempt and not carried out.
    Cancelled { cancellation: Cancellation, outcome: Option<RecordedOutcome> },
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
    /// This one, and it is not to be carried out: the order is to go no further.
    Cancelled { cancellation: Cancellation, outcome: RecordedOutcome },
    /// There is no record to hold it.
    Absent,
}

/// What marking an order's record came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelling {
    /// Nobody is at work on it, and nobody begins any more: this is how it ended, once the archive has it.
    Waits(Box<OrderRecord>),
    /// An attempt was begun: whoever ends it ends the order. Or its end is recorded, and counts.
    AtWork,
    /// It has ended, or is in a later passage.
    Ended,
    /// There is no record of this passage.
    Absent,
}

//! The arguments of the scripts, and what they reply.
//!
//! Orders of a batch are mostly at the same point, so what they have in common is said once for each run of them: a
//! script's arguments cost Redis nearly as much as what it does.

use bytes::Bytes;
use fred::types::{Key, Value};

use super::record::{self, Record};
use crate::domain::{Cancellation, OrderId, OrderRecord, Progress, RecordedOutcome, Stage};
use crate::ports::{Begun, Cancelling, Claim, Recorded};

/// What comes along for an order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Brings {
    Nothing,
    /// What tells its content apart.
    Digest,
    /// The whole of it, to be written where the record is behind, or another order's that makes way.
    Record,
}

impl Brings {
    /// What is enough for most: a second call brings the record where it was not.
    pub(super) fn at_first(order: &OrderRecord) -> Brings {
        if order.id.is_derived() { Brings::Digest } else { Brings::Nothing }
    }

    fn name(self) -> Value {
        Value::from_static_str(match self {
            Brings::Nothing => "nothing",
            Brings::Digest => "digest",
            Brings::Record => "record",
        })
    }
}

/// The attempt that comes next by an order's history.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    pub(super) entered: Progress,
    pub(super) finished: Progress,
}

impl Attempt {
    pub(super) fn next(order: &OrderRecord, stage: Stage) -> Attempt {
        let number = order.history.next_attempt(stage);
        Attempt {
            entered: Progress::entered(order.passage, stage, number),
            finished: Progress::finished(order.passage, stage, number),
        }
    }
}

/// Keys and arguments, as they come to be.
pub(super) struct Call<'a> {
    namespace: &'a str,
    pub(super) keys: Vec<Key>,
    pub(super) arguments: Vec<Value>,
    /// What the run under way has in common, and where its length stands.
    run: Option<(Run, usize)>,
}

/// What the keys of a run have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) known: Progress,
    /// The word that a record of that progress ends with, if it knows what the message knows; nothing for ends.
    pub(super) word: Option<&'static str>,
    /// The attempt that is begun or recorded, entered; nothing for ends.
    pub(super) entered: Option<Progress>,
    /// Whether the time to live is to start anew; `end` does not ask.
    pub(super) renews: Option<bool>,
    pub(super) brings: Brings,
}

impl<'a> Call<'a> {
    pub(super) fn new(namespace: &'a str, orders: usize, arguments: impl IntoIterator<Item = Value>) -> Call<'a> {
        let mut call =
            Call { namespace, keys: Vec::with_capacity(orders), arguments: Vec::with_capacity(orders + 16), run: None };
        call.arguments.extend(arguments);
        call
    }

    /// Adds an order, and what is written for it.
    pub(super) fn push(&mut self, order: &OrderRecord, what: Vec<u8>) {
        self.keys.push(key(self.namespace, order.id));
        self.arguments.push(Value::Bytes(what.into()));
    }

    /// Adds an order to the run, or begins another one.
    pub(super) fn push_to_run(&mut self, order: &OrderRecord, run: Run, what: Option<Vec<u8>>) {
        self.keys.push(key(self.namespace, order.id));
        match self.run {
            Some((last, at)) if last == run => {
                if let Value::Integer(length) = &mut self.arguments[at] {
                    *length += 1;
                }
            }
            Some(_) | None => {
                self.run = Some((run, self.arguments.len()));
                self.arguments.extend([Value::Integer(1), number(run.known.as_u64())]);
                self.arguments.extend(run.word.map(Value::from_static_str));
                self.arguments.extend(run.entered.map(|entered| number(entered.as_u64())));
                self.arguments.extend(run.renews.map(|renews| number(u64::from(renews))));
                self.arguments.push(run.brings.name());
            }
        }
        self.arguments.extend(what.map(|what| Value::Bytes(what.into())));
        match run.brings {
            Brings::Nothing => {}
            Brings::Digest => self.arguments.push(Value::from(record::digest(order))),
            Brings::Record => self.arguments.push(Value::Bytes(record::encode(order).into())),
        }
    }
}

/// Where the record of an order is.
pub(super) fn key(namespace: &str, id: OrderId) -> Key {
    Key::from(format!("{namespace}:r:{id}"))
}

pub(super) fn number(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// What a script says of one order.
pub(super) enum Reply {
    /// Its number: of deliveries for `begin`, 1 for `record`.
    Done(u32),
    Absent,
    Passed,
    /// The record knows less than the message, or belongs to another order that makes way.
    Behind,
    Outcome(RecordedOutcome),
    /// The record is marked; of the last attempt its stage, its number and its outcome.
    Cancelled(Cancellation, Option<(Stage, u32, RecordedOutcome)>),
}

impl Reply {
    pub(super) fn read(reply: Value) -> Reply {
        match reply {
            Value::Integer(-1) => Reply::Passed,
            Value::Integer(-2) => Reply::Behind,
            Value::Integer(count @ 1..) => Reply::Done(u32::try_from(count).unwrap_or(u32::MAX)),
            Value::Integer(_) => Reply::Absent,
            other => match other.into_bytes().map(last_of).unwrap_or_default() {
                (Some(cancellation), last) => Reply::Cancelled(cancellation, last),
                (None, Some((_, _, outcome))) => Reply::Outcome(outcome),
                // It cannot be carried out again, so it fences nothing.
                (None, None) => {
                    tracing::warn!("a recorded outcome in Redis cannot be read");
                    Reply::Absent
                }
            },
        }
    }

    /// Of the attempt of `order` at `stage` that was to begin.
    pub(super) fn into_begun(self, order: &OrderRecord, stage: Stage) -> Begun {
        match self {
            Reply::Done(deliveries) => Begun::Fresh { deliveries },
            Reply::Outcome(outcome) => Begun::Recorded(outcome),
            Reply::Passed => Begun::Passed,
            Reply::Cancelled(cancellation, last) => {
                Begun::Cancelled { cancellation, outcome: of_attempt(last, order, stage) }
            }
            // Behind says only a script that was not given the record.
            Reply::Absent | Reply::Behind => Begun::Absent,
        }
    }

    /// Of the attempt of `order` at `stage` whose `outcome` was to be recorded.
    pub(super) fn into_recorded(self, order: &OrderRecord, stage: Stage, outcome: &RecordedOutcome) -> Recorded {
        match self {
            Reply::Done(_) => Recorded::First,
            Reply::Outcome(outcome) => Recorded::Earlier(outcome),
            Reply::Passed => Recorded::Passed,
            Reply::Cancelled(cancellation, last) => {
                let outcome = of_attempt(last, order, stage).unwrap_or_else(|| outcome.clone());
                Recorded::Cancelled { cancellation, outcome }
            }
            Reply::Absent | Reply::Behind => Recorded::Absent,
        }
    }
}

/// The outcome of the last attempt, if that is the next one of `order` at `stage`.
fn of_attempt(
    last: Option<(Stage, u32, RecordedOutcome)>,
    order: &OrderRecord,
    stage: Stage,
) -> Option<RecordedOutcome> {
    let (at, number, outcome) = last?;
    (at == stage && number == order.history.next_attempt(stage)).then_some(outcome)
}

fn last_of(text: Bytes) -> (Option<Cancellation>, Option<(Stage, u32, RecordedOutcome)>) {
    Record::read(&text).ok().flatten().map(Record::into_last).unwrap_or_default()
}

/// What `cancel` says.
pub(super) fn read_cancelling(reply: Value) -> Cancelling {
    match reply {
        Value::Integer(-1) => Cancelling::Ended,
        Value::Integer(-2) => Cancelling::AtWork,
        Value::Integer(_) => Cancelling::Absent,
        other => match other.into_bytes().and_then(|text| Record::read(&text).ok().flatten()) {
            Some(record) => record.into_cancelling(),
            None => Cancelling::Absent,
        },
    }
}

/// Which of the replies say that the record is to be brought.
pub(super) fn behind(replies: &[Reply]) -> Vec<usize> {
    (0..replies.len()).filter(|n| matches!(replies[*n], Reply::Behind)).collect()
}

/// What `claim` says of one order; `None` if it is no such reply.
pub(super) fn read_claim(reply: &Value) -> Option<Claim> {
    match reply {
        Value::Integer(0) => Some(Claim::New),
        Value::Integer(1) => Some(Claim::Same { is_under_way: false }),
        Value::Integer(2) => Some(Claim::Same { is_under_way: true }),
        Value::Integer(3) => Some(Claim::Other),
        _ => None,
    }
}

//! What a run saw from outside: what was promised, what readers were told, and what the archive holds at the end.
//!
//! Plain data, so that the checker can be fed with a log that nobody lived through.

use std::collections::BTreeSet;
use std::time::Duration;

/// One of the orders that customers placed, by its number: it stands in the order's metadata, too.
pub type Number = usize;

/// All that a run saw. Times are since its begin, of one clock.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// How many orders were placed: their numbers are 0 and on.
    pub placed: usize,
    pub promises: Vec<Promise>,
    pub reads: Vec<Read>,
    pub rows: Vec<Row>,
    /// Orders that the service of [`SERVED`] declines, and no other stage.
    pub declined: BTreeSet<Number>,
}

/// The stage whose work a service does that cannot be relied on.
pub const SERVED: &str = "pre_processing";
/// After so many calls that came to nothing an order fails there.
pub const ATTEMPTS_MAX: u64 = 5;

/// A 202. An order that was sent again may have several.
#[derive(Clone, Debug)]
pub struct Promise {
    pub number: Number,
    pub id: String,
    pub at: Duration,
}

/// An answer to a reader who asked for an order that was promised before.
#[derive(Clone, Debug)]
pub struct Read {
    pub number: Number,
    pub asked_at: Duration,
    pub answered_at: Duration,
    pub answer: Answer,
}

#[derive(Clone, Debug)]
pub enum Answer {
    Found(View),
    /// 404.
    NotFound,
    /// 503 with `Retry-After`.
    CannotTell,
    /// None came: the connection was refused, lost, or silent for too long.
    Silence,
    /// Anything else, which must not be: its status code and the problem's type.
    Odd(String),
}

/// An order as it was shown, or as the archive holds it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// As in JSON: `accepted`, `pre_processing`, `completed`.
    pub status: String,
    pub steps: Vec<Step>,
    /// The fields in which it is not what was placed.
    pub differing: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// As in JSON: `pre_processing`.
    pub stage: String,
    /// What a stage came to; `None` while it is at work.
    pub outcome: Option<Outcome>,
}

/// An outcome, told apart from another one of the same stage by who came to it and when.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Outcome {
    /// `done` or `rejected`.
    pub name: String,
    pub attempts: u64,
    /// RFC 3339.
    pub finished_at: String,
    pub worker: String,
}

/// A row of the archive.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    /// The number that its metadata hold; `None` if they hold none.
    pub number: Option<Number>,
    pub view: View,
}

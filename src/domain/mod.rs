//! What an order is and how it moves, as plain values and pure functions.
//!
//! Nothing here awaits, opens, reads a clock or draws a random number: the time and the jitter come in as
//! arguments. So every rule of this folder can be tested by calling it, and replayed by a simulation.

pub mod decision;
pub mod event;
pub mod history;
mod json_tree;
pub mod order;
pub mod progress;
pub mod report;
pub mod retry;
pub mod stage;
pub mod timestamp;
pub mod trace;
pub mod validation;

pub use decision::{Attempts, Decision, End, Outcome, decide};
pub use event::{Event, EventKind, EventKinds};
pub use history::{
    Cancellation, EarlierPassage, Failure, History, RecordedOutcome, RetriedAttempt, Status, Step, StepOutcome,
};
pub use order::{Order, OrderId, OrderRecord, Placed, Problem, Refusal};
pub use progress::Progress;
pub use report::{Json, Report};
pub use retry::{Delay, RetryPolicy};
pub use stage::Stage;
pub use timestamp::Timestamp;
pub use trace::TraceParent;

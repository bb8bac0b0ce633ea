//! What a record looks like, and how an order is read off it.
//!
//! | field | what | written by |
//! |---|---|---|
//! | `o` | the order as a message brought it ([`wire::encode_record`]); a record without it counts as absent | `put` |
//! | `g` | [`Progress`] as a number | `put`, `begin`, `record` |
//! | `d` | how often the attempt under way was begun | `begin` |
//! | `e{passage}.{stage}.{attempt}` | when the attempt was begun, in ms, and by whom; the first one stays | `begin` |
//! | `r{passage}.{stage}.{attempt}` | the outcome that counts ([`wire::encode_outcome`]); the first one stays | `record` |
//! | `x` | the steps of the order that ended ([`wire::encode_steps`]); from then on nothing else is written | `end` |
//!
//! `stage` counts from 0, `attempt` from 1. Invariant: a record of progress `g` knows every outcome up to `g`, from
//! `o` or from an `r`; what would raise `g` past a gap is refused until `o` has been replaced by one that closes it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::domain::{OrderRecord, Progress, Stage, Timestamp};
use crate::wire;

/// How far the order has come by its history. A history travels only between steps: its last step is finished, or
/// has had its last attempt recorded.
pub(super) fn progress_of(order: &OrderRecord) -> Progress {
    match order.history.steps().last() {
        None => Progress::accepted(order.passage),
        Some(last) => Progress::finished(order.passage, last.stage, last.attempts),
    }
}

/// One attempt at one stage.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    passage: u32,
    stage: Stage,
    number: u32,
}

impl Attempt {
    /// The one that comes next at `stage`, by the order's history.
    pub(super) fn next(order: &OrderRecord, stage: Stage) -> Attempt {
        Attempt { passage: order.passage, stage, number: order.history.next_attempt(stage) }
    }

    /// What its fields are named after.
    pub(super) fn name(self) -> String {
        format!("{}.{}.{}", self.passage, self.stage.index(), self.number)
    }

    pub(super) fn entered(self) -> Progress {
        Progress::entered(self.passage, self.stage, self.number)
    }

    pub(super) fn finished(self) -> Progress {
        Progress::finished(self.passage, self.stage, self.number)
    }
}

/// Who began an attempt, and when.
pub(super) fn encode_entry(at: Timestamp, worker: &str) -> String {
    format!("{} {worker}", at.as_millis())
}

fn decode_entry(entry: &Bytes) -> Option<(Timestamp, Arc<str>)> {
    let (ms, worker) = std::str::from_utf8(entry).ok()?.split_once(' ')?;
    Some((Timestamp::from_millis(ms.parse().ok()?), Arc::from(worker)))
}

/// The order as far as it has come; `None` if the record has no content.
///
/// # Errors
/// The reason, if what is there cannot be read; without content.
pub(super) fn read(fields: &HashMap<String, Bytes>) -> Result<Option<OrderRecord>, String> {
    let Some(order) = fields.get("o") else {
        return Ok(None);
    };
    let mut order = wire::decode_record(order)?;
    if let Some(steps) = fields.get("x") {
        order.history = wire::decode_steps(text(steps)?)?;
        return Ok(Some(order));
    }
    // Each turn takes in one attempt, so this ends with the fields.
    while let Some(stage) = Stage::ALL.into_iter().find(|stage| order.history.is_at(*stage)) {
        let attempt = Attempt::next(&order, stage);
        let name = attempt.name();
        let outcome = match fields.get(&format!("r{name}")) {
            Some(outcome) => Some(wire::decode_outcome(text(outcome)?)?),
            None => None,
        };
        let entry = fields.get(&format!("e{name}")).and_then(decode_entry);
        let entry = entry.or_else(|| outcome.as_ref().map(|outcome| (outcome.entered_at, outcome.worker.clone())));
        let Some((at, worker)) = entry else { break };
        order.history.show_attempt(stage, attempt.number, at, &worker, outcome.as_ref());
    }
    Ok(Some(order))
}

fn text(bytes: &Bytes) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| error.to_string())
}

//! What a record looks like, and how an order is read off it.
//!
//! A record is a text that only grows: JSON values one after the other, nothing between them.
//!
//! | value | what | written by |
//! |---|---|---|
//! | `"0f…"` | digest of the content: 16 bytes of its SHA-256 in hexadecimal; only if the id is derived from a key | with the next |
//! | `{…}` | the order as a message brought it ([`wire::encode_record`]) | `put`, `claim`, and what takes a message in |
//! | `["put",g]` | how far the order had come by that message | with the one before |
//! | `[at,worker,n,g]` | the attempt was begun for the n-th time; the first one says when and by whom | `begin` |
//! | `[entered_at,finished_at,worker,stage,"advance",g]` | its outcome, of which there is one; `stage` counts from 0 | `record` |
//! | `[entered_at,finished_at,worker,delay_secs,reason,"retry",g]` | | |
//! | `[entered_at,finished_at,worker,delay_secs,reason,"wait",g]` | the same, of an attempt that is not counted | |
//! | `[entered_at,finished_at,worker,"complete",g]` | | |
//! | `[entered_at,finished_at,worker,reason,"fail",g]` | | |
//! | `[at,reason,g,"cancel"]` | the order is to go no further; `reason` may be `null` | `cancel` |
//! | `[g,"cancel"]` | the same, after the outcome of the attempt that was at work | `record` |
//! | `[steps,g,"end"]` | the order has ended with these steps, each `[entered_at,finished_at,attempts,outcome,reason,worker]`, or, if there is more to say of one, all as in a message ([`wire::encode_steps`]); nothing comes after it | `end` |
//!
//! Before `"advance"` and `"complete"` stands what the handler had to say, if anything: `{"note","result"}`.
//!
//! `g` is [`Progress`] as a number; times are in ms. So the last bytes of a record say how far it is, which is all the
//! scripts look at, and one command writes a step.
//!
//! `doc/decisions/0014-a-record-is-a-text-that-grows.md` says why, with figures.
//!
//! Invariants: a record has its content, being written with it. One of progress `g` knows every outcome up to `g`, and each
//! led to what stands behind it; what would break that is refused until the message that closes the gap has been taken in,
//! which begins the text anew. (A worker that cannot reach the store goes on by what its handler said, whatever another one
//! recorded.)

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::domain::{
    Cancellation, Decision, Delay, End, History, Json, OrderRecord, Progress, RecordedOutcome, Report, RetriedAttempt,
    Stage, Step, StepOutcome, Timestamp,
};
use crate::ports::{Cancelling, Unmoved};
use crate::wire;

/// How far the order has come by its history. A history travels only between steps: its last step is finished, or
/// has had its last attempt recorded.
pub(super) fn progress_of(order: &OrderRecord) -> Progress {
    match order.history.steps().last() {
        None => Progress::accepted(order.passage),
        Some(last) => Progress::finished(order.passage, last.stage, last.attempts),
    }
}

/// The word that a record with this progress ends with, if it is the record of an order of this history: what was decided
/// last.
pub(super) fn last_word_of(order: &OrderRecord) -> &'static str {
    match order.history.steps().last() {
        None => "put",
        Some(Step { outcome: Some(StepOutcome::Done), .. }) => "advance",
        Some(Step { outcome: Some(StepOutcome::Rejected), .. }) => "fail",
        Some(Step { outcome: None, retries, .. }) => match retries.last() {
            Some(RetriedAttempt { counts: false, .. }) => "wait",
            Some(RetriedAttempt { counts: true, .. }) | None => "retry",
        },
    }
}

/// A record as a message brings it.
pub(super) fn encode(order: &OrderRecord) -> Vec<u8> {
    let mut text = Vec::with_capacity(order.size_bytes() + 64);
    if order.id.is_derived() {
        push(&mut text, format_args!("\"{}\"", digest(order)));
    }
    text.extend_from_slice(&wire::encode_record(order));
    push(&mut text, format_args!("[\"put\",{}]", progress_of(order).as_u64()));
    text
}

/// What tells the contents of two orders with one id apart, in hexadecimal.
pub(super) fn digest(order: &OrderRecord) -> String {
    let digest = Sha256::digest(order.order.json());
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// That an attempt begins, up to how often it was.
pub(super) fn encode_entry(at: Timestamp, worker: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(64);
    push(&mut text, format_args!("[{},", at.as_millis()));
    push_json(&mut text, worker);
    text.push(b',');
    text
}

/// The outcome of the attempt that is `finished` with it.
pub(super) fn encode_outcome(outcome: &RecordedOutcome, finished: Progress) -> Vec<u8> {
    let mut text = Vec::with_capacity(96);
    push(&mut text, format_args!("[{},{},", outcome.entered_at.as_millis(), outcome.finished_at.as_millis()));
    push_json(&mut text, &*outcome.worker);
    match &outcome.decision {
        Decision::Advance(stage) => {
            push(&mut text, format_args!(",{}", stage.index()));
            push_report(&mut text, &outcome.report);
            text.extend_from_slice(b",\"advance\",");
        }
        Decision::Retry { reason, delay, counts } => {
            push(&mut text, format_args!(",{},", delay.as_secs()));
            push_json(&mut text, reason);
            text.extend_from_slice(if *counts { b",\"retry\"," } else { b",\"wait\"," });
        }
        Decision::End(End::Completed) => {
            push_report(&mut text, &outcome.report);
            text.extend_from_slice(b",\"complete\",");
        }
        Decision::End(End::Failed { reason }) => {
            text.push(b',');
            push_json(&mut text, reason);
            text.extend_from_slice(b",\"fail\",");
        }
    }
    push(&mut text, format_args!("{}]", finished.as_u64()));
    text
}

/// That an order is to go no further, up to how far it had come.
pub(super) fn encode_cancellation(cancellation: &Cancellation) -> Vec<u8> {
    let mut text = Vec::with_capacity(64);
    push(&mut text, format_args!("[{},", cancellation.at.as_millis()));
    push_json(&mut text, &cancellation.reason);
    text.push(b',');
    text
}

/// What a handler had to say.
#[derive(Serialize, Deserialize)]
struct ReportJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
}

fn push_report(text: &mut Vec<u8>, report: &Report) {
    if *report == Report::default() {
        return;
    }
    let result = report.result().and_then(|result| RawValue::from_string(result.as_str().to_owned()).ok());
    text.push(b',');
    push_json(text, &ReportJson { note: report.note().map(str::to_owned), result });
}

/// That the order has ended as its history says.
pub(super) fn encode_end(order: &OrderRecord) -> Vec<u8> {
    let steps = order.history.steps();
    let mut text = Vec::with_capacity(steps.len() * 80 + 32);
    text.push(b'[');
    let is_one_passage = order.history.earlier().is_empty() && order.history.cancellation().is_none();
    match is_one_passage && steps.iter().all(is_plain) {
        true => push_plain_steps(&mut text, steps),
        false => text.extend_from_slice(wire::encode_steps(&order.history).as_bytes()),
    }
    push(&mut text, format_args!(",{},\"end\"]", progress_of(order).as_u64()));
    text
}

/// Whether nothing is to be said of a step but what every step has.
fn is_plain(step: &Step) -> bool {
    step.report == Report::default() && step.retries.is_empty() && step.uncounted == 0
}

fn push_plain_steps(text: &mut Vec<u8>, steps: &[Step]) {
    text.push(b'[');
    for (n, step) in steps.iter().enumerate() {
        // Its stage is its place. All fields are named, so that one that is added is not forgotten.
        let Step {
            stage: _,
            entered_at,
            finished_at,
            attempts,
            outcome,
            reason,
            worker,
            report: _,
            retries: _,
            uncounted: _,
        } = step;
        if n > 0 {
            text.push(b',');
        }
        let finished_at = finished_at.map(Timestamp::as_millis);
        let outcome = outcome.map(StepOutcome::as_str);
        push_json(text, &(entered_at.as_millis(), finished_at, attempts, outcome, reason, &**worker));
    }
    text.push(b']');
}

/// The steps of [`encode_end`]; `None` if they are no history of an order.
fn decode_steps(json: &str) -> Option<History> {
    if json.starts_with('{') || json.starts_with("[{") {
        return wire::decode_steps(json).ok();
    }
    type StepJson<'a> = (i64, Option<i64>, u32, Option<Cow<'a, str>>, Option<String>, Cow<'a, str>);
    let steps: Vec<StepJson> = parse(json)?;
    let steps = steps.into_iter().zip(Stage::ALL).map(
        |((entered_at, finished_at, attempts, outcome, reason, worker), stage)| {
            let outcome = match outcome.as_deref() {
                None => None,
                Some("done") => Some(StepOutcome::Done),
                Some("rejected") => Some(StepOutcome::Rejected),
                Some(_) => return None,
            };
            Some(Step {
                stage,
                entered_at: Timestamp::from_millis(entered_at),
                finished_at: finished_at.map(Timestamp::from_millis),
                attempts,
                outcome,
                reason,
                worker: Arc::from(&*worker),
                report: Report::default(),
                retries: Vec::new(),
                uncounted: 0,
            })
        },
    );
    History::of(steps.collect::<Option<Vec<Step>>>()?)
}

fn push(text: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("writing to memory does not fail");
}

fn push_json<T: Serialize + ?Sized>(text: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(text, value).expect("writing strings to memory does not fail");
}

/// A record that was read.
pub(super) struct Record {
    /// As the message brought it.
    order: OrderRecord,
    /// What came after it.
    attempts: Vec<Attempt>,
    /// That it is to go no further.
    cancellation: Option<Cancellation>,
    /// How the order ended.
    end: Option<History>,
}

/// One attempt at one stage.
struct Attempt {
    stage: Stage,
    number: u32,
    /// When it was begun for the first time, and by whom.
    begun: (Timestamp, Arc<str>),
    begun_last_at: Timestamp,
    outcome: Option<RecordedOutcome>,
}

impl Record {
    /// Reads a record; `None` if it has no content.
    ///
    /// # Errors
    /// The reason, if it is none of this release; without content.
    pub(super) fn read(text: &Bytes) -> Result<Option<Record>, String> {
        let mut record = None;
        for value in serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>() {
            let value = value.map_err(|_| "it is no JSON")?.get();
            match (&mut record, value.as_bytes().first()) {
                // The digest: a reader has no use for it.
                (None, Some(b'"')) => {}
                (None, Some(b'{')) => {
                    let order = wire::decode_record(&text.slice_ref(value.as_bytes()))?;
                    record = Some(Record { order, attempts: Vec::new(), cancellation: None, end: None });
                }
                (Some(record), Some(b'[')) => record.take_in(value).ok_or("it has a value of another kind")?,
                (_, _) => return Err("it has a value of another kind".into()),
            }
        }
        Ok(record)
    }

    /// Takes in what was written after the content; `None` if it is nothing this release writes.
    fn take_in(&mut self, value: &str) -> Option<()> {
        let values: Vec<&RawValue> = parse(value)?;
        if let [steps, _, word] = *values
            && word.get() == "\"end\""
        {
            self.end = Some(decode_steps(steps.get())?);
            return Some(());
        }
        if let [values @ .., _, word] = &values[..]
            && word.get() == "\"cancel\""
        {
            if let [at, reason] = values {
                let at = Timestamp::from_millis(read(at)?);
                self.cancellation = Some(Cancellation { at, reason: read(reason)? });
            }
            return Some(());
        }
        let (progress, values) = values.split_last()?;
        let (_, stage, number) = Progress::from(read::<u64>(progress)?).attempt();
        let (word, values) = values.split_last()?;
        let is_same = self.attempts.last().is_some_and(|last| (last.stage, last.number) == (stage, number));
        if word.get().starts_with('"') {
            let word: String = read(word)?;
            if word == "put" {
                return Some(());
            }
            let outcome = decode_outcome(&word, values)?;
            if !is_same {
                let begun = (outcome.entered_at, outcome.worker.clone());
                self.attempts.push(Attempt { stage, number, begun, begun_last_at: outcome.entered_at, outcome: None });
            }
            self.attempts.last_mut()?.outcome = Some(outcome);
            return Some(());
        }
        let [at, worker] = values else { return None };
        let at = Timestamp::from_millis(read(at)?);
        if is_same {
            self.attempts.last_mut()?.begun_last_at = at;
        } else {
            let begun = (at, Arc::from(read::<String>(worker)?));
            self.attempts.push(Attempt { stage, number, begun, begun_last_at: at, outcome: None });
        }
        Some(())
    }

    /// The order as far as it has come, for readers.
    pub(super) fn into_order(self) -> OrderRecord {
        let mut order = self.order;
        if let Some(end) = self.end {
            order.history = end;
            return order;
        }
        for Attempt { stage, number, begun: (at, worker), outcome, .. } in self.attempts {
            order.history.show_attempt(stage, number, at, &worker, outcome.as_ref());
        }
        order
    }

    /// The order as a message would carry it; `None` if it has ended.
    pub(super) fn into_unmoved(self) -> Option<Unmoved> {
        if self.end.is_some() {
            return None;
        }
        let mut unmoved = Unmoved::of(self.order);
        for attempt in self.attempts {
            unmoved.take_in(attempt.stage, attempt.number, attempt.begun_last_at, attempt.outcome.as_ref());
        }
        Some(unmoved)
    }

    /// The cancellation, if there is one, and of the last attempt its stage, its number and what was recorded of it.
    pub(super) fn into_last(mut self) -> (Option<Cancellation>, Option<(Stage, u32, RecordedOutcome)>) {
        let last = self.attempts.pop();
        (self.cancellation, last.and_then(|last| Some((last.stage, last.number, last.outcome?))))
    }

    /// What a cancelled record came to.
    pub(super) fn into_cancelling(mut self) -> Cancelling {
        let (None, Some(cancellation)) = (&self.end, self.cancellation.take()) else { return Cancelling::Ended };
        if self.attempts.last().is_some_and(|last| last.outcome.is_none()) {
            return Cancelling::AtWork;
        }
        let mut order = self.order;
        for attempt in &self.attempts {
            if let Some(outcome) = &attempt.outcome {
                order.history.record_attempt(attempt.stage, attempt.number, outcome);
            }
        }
        order.history.cancel(cancellation);
        Cancelling::Waits(Box::new(order))
    }
}

fn decode_outcome(word: &str, values: &[&RawValue]) -> Option<RecordedOutcome> {
    let [entered_at, finished_at, worker, values @ ..] = values else { return None };
    let mut report = Report::default();
    let decision = match (word, values) {
        ("advance", [stage, said @ ..]) => {
            report = read_report(said)?;
            Decision::Advance(*Stage::ALL.get(read::<usize>(stage)?)?)
        }
        ("retry" | "wait", [secs, reason]) => {
            let delay = Delay::at_least(std::time::Duration::from_secs(read(secs)?));
            Decision::Retry { reason: read(reason)?, delay, counts: word == "retry" }
        }
        ("complete", said) => {
            report = read_report(said)?;
            Decision::End(End::Completed)
        }
        ("fail", [reason]) => Decision::End(End::Failed { reason: read(reason)? }),
        (_, _) => return None,
    };
    Some(RecordedOutcome {
        entered_at: Timestamp::from_millis(read(entered_at)?),
        finished_at: Timestamp::from_millis(read(finished_at)?),
        worker: Arc::from(read::<String>(worker)?),
        decision,
        report,
    })
}

/// `said` is nothing or one value.
fn read_report(said: &[&RawValue]) -> Option<Report> {
    let ReportJson { note, result } = match said {
        [] => return Some(Report::default()),
        [said] => read(said)?,
        [..] => return None,
    };
    let report = note.map_or_else(Report::default, |note| Report::default().with_note(&note));
    Some(match result {
        Some(result) => report.with_result(Json::from_checked(result.get())),
        None => report,
    })
}

fn read<T: DeserializeOwned>(value: &RawValue) -> Option<T> {
    parse(value.get())
}

fn parse<'a, T: serde::Deserialize<'a>>(json: &'a str) -> Option<T> {
    serde_json::from_str(json).ok()
}

//! What happened to an order: its steps, the passages before, and that it was cancelled.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{push_json, without_content};
use crate::domain::{
    Cancellation, EarlierPassage, History, Json, Report, RetriedAttempt, Stage, Step, StepOutcome, Timestamp,
};

/// A history as JSON: the array of its steps or, if there is more to it, `{"steps","earlier","cancelled"}`.
pub fn encode_steps(history: &History) -> String {
    let mut bytes = Vec::with_capacity(160 * history.all_steps().count() + 2);
    if history.earlier().is_empty() && history.cancellation().is_none() {
        push_steps(&mut bytes, history.steps());
    } else {
        bytes.extend_from_slice(b"{\"steps\":");
        push_history(&mut bytes, history);
        bytes.push(b'}');
    }
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

/// Reads what [`encode_steps`] wrote.
///
/// # Errors
/// The reason, if it is something else. Final.
pub fn decode_steps(json: &str) -> Result<History, String> {
    if json.starts_with('[') {
        let steps: Vec<StepJson> = serde_json::from_str(json).map_err(|error| without_content(&error))?;
        return read_steps(steps);
    }
    let history: HistoryJson = serde_json::from_str(json).map_err(|error| without_content(&error))?;
    history.read()
}

/// A cancellation as JSON.
pub fn encode_cancellation(cancellation: &Cancellation) -> String {
    serde_json::to_string(&CancelledJson::of(cancellation)).expect("writing strings and numbers does not fail")
}

/// Reads what [`encode_cancellation`] wrote.
///
/// # Errors
/// The reason, if it is something else. Final.
pub fn decode_cancellation(json: &str) -> Result<Cancellation, String> {
    serde_json::from_str::<CancelledJson>(json).map(CancelledJson::read).map_err(|error| without_content(&error))
}

#[derive(Deserialize)]
pub(super) struct HistoryJson<'a> {
    #[serde(borrow)]
    pub(super) steps: Vec<StepJson<'a>>,
    #[serde(borrow, default)]
    pub(super) earlier: Vec<EarlierJson<'a>>,
    #[serde(borrow, default)]
    pub(super) cancelled: Option<CancelledJson<'a>>,
}

#[derive(Deserialize)]
pub(super) struct EarlierJson<'a> {
    passage: u32,
    retried_at: i64,
    #[serde(borrow)]
    steps: Vec<StepJson<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct CancelledJson<'a> {
    at: i64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
}

impl<'a> CancelledJson<'a> {
    fn of(cancellation: &'a Cancellation) -> Self {
        CancelledJson { at: cancellation.at.as_millis(), reason: cancellation.reason.as_deref().map(Cow::Borrowed) }
    }

    fn read(self) -> Cancellation {
        Cancellation { at: Timestamp::from_millis(self.at), reason: self.reason.map(Cow::into_owned) }
    }
}

impl HistoryJson<'_> {
    pub(super) fn read(self) -> Result<History, String> {
        let earlier = self.earlier.into_iter().map(|EarlierJson { passage, retried_at, steps }| {
            let retried_at = Timestamp::from_millis(retried_at);
            Ok::<_, String>(EarlierPassage { passage, steps: read_steps(steps)?.steps().to_vec(), retried_at })
        });
        let earlier = earlier.collect::<Result<_, _>>()?;
        let cancellation = self.cancelled.map(CancelledJson::read);
        Ok(read_steps(self.steps)?.with_earlier(earlier).with_cancellation(cancellation))
    }
}

#[derive(Deserialize)]
pub(super) struct StepJson<'a> {
    #[serde(borrow)]
    stage: Cow<'a, str>,
    entered_at: i64,
    #[serde(default)]
    finished_at: Option<i64>,
    attempts: u32,
    #[serde(borrow, default)]
    outcome: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    worker: Cow<'a, str>,
    #[serde(borrow, default)]
    note: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    retries: Vec<RetriedJson<'a>>,
    #[serde(default)]
    uncounted: u32,
}

#[derive(Serialize, Deserialize)]
struct RetriedJson<'a> {
    attempt: u32,
    at: i64,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    uncounted: bool,
}

fn read_steps(steps: Vec<StepJson<'_>>) -> Result<History, String> {
    let steps = steps.into_iter().map(StepJson::read).collect::<Result<_, _>>()?;
    History::of(steps).ok_or_else(|| "steps that are no history of an order".into())
}

pub(super) fn read_stage(name: &str) -> Result<Stage, String> {
    name.parse().map_err(|error: crate::domain::stage::UnknownStage| error.to_string())
}

impl StepJson<'_> {
    fn read(self) -> Result<Step, String> {
        let outcome = match self.outcome.as_deref() {
            None => None,
            Some("done") => Some(StepOutcome::Done),
            Some("rejected") => Some(StepOutcome::Rejected),
            Some(other) => return Err(format!("unknown outcome `{other}`")),
        };
        Ok(Step {
            stage: read_stage(&self.stage)?,
            entered_at: Timestamp::from_millis(self.entered_at),
            finished_at: self.finished_at.map(Timestamp::from_millis),
            attempts: self.attempts,
            outcome,
            reason: self.reason.map(Cow::into_owned),
            worker: Arc::from(&*self.worker),
            report: read_report(self.note.as_deref(), self.result),
            retries: self.retries.into_iter().map(RetriedJson::read).collect(),
            uncounted: self.uncounted,
        })
    }
}

impl<'a> RetriedJson<'a> {
    fn of(retried: &'a RetriedAttempt) -> Self {
        RetriedJson {
            attempt: retried.attempt,
            at: retried.at.as_millis(),
            reason: Cow::Borrowed(&retried.reason),
            uncounted: !retried.counts,
        }
    }

    fn read(self) -> RetriedAttempt {
        RetriedAttempt {
            attempt: self.attempt,
            at: Timestamp::from_millis(self.at),
            reason: self.reason.into_owned(),
            counts: !self.uncounted,
        }
    }
}

pub(super) fn read_report(note: Option<&str>, result: Option<&RawValue>) -> Report {
    let report = note.map_or_else(Report::default, |note| Report::default().with_note(note));
    match result {
        Some(result) => report.with_result(Json::from_checked(result.get())),
        None => report,
    }
}

/// The steps, and as further members what else there is to a history.
pub(super) fn push_history(bytes: &mut Vec<u8>, history: &History) {
    push_steps(bytes, history.steps());
    for (n, earlier) in history.earlier().iter().enumerate() {
        let before: &[u8] = if n == 0 { b",\"earlier\":[{\"passage\":" } else { b",{\"passage\":" };
        bytes.extend_from_slice(before);
        push_json(bytes, &earlier.passage);
        bytes.extend_from_slice(b",\"retried_at\":");
        push_json(bytes, &earlier.retried_at.as_millis());
        bytes.extend_from_slice(b",\"steps\":");
        push_steps(bytes, &earlier.steps);
        bytes.push(b'}');
    }
    if !history.earlier().is_empty() {
        bytes.push(b']');
    }
    if let Some(cancellation) = history.cancellation() {
        bytes.extend_from_slice(b",\"cancelled\":");
        push_json(bytes, &CancelledJson::of(cancellation));
    }
}

fn push_steps(bytes: &mut Vec<u8>, steps: &[Step]) {
    bytes.push(b'[');
    for (n, step) in steps.iter().enumerate() {
        bytes.extend_from_slice(if n == 0 { b"{\"stage\":\"" } else { b",{\"stage\":\"" });
        bytes.extend_from_slice(step.stage.as_snake().as_bytes());
        bytes.extend_from_slice(b"\",\"entered_at\":");
        push_json(bytes, &step.entered_at.as_millis());
        if let Some(finished_at) = step.finished_at {
            bytes.extend_from_slice(b",\"finished_at\":");
            push_json(bytes, &finished_at.as_millis());
        }
        bytes.extend_from_slice(b",\"attempts\":");
        push_json(bytes, &step.attempts);
        if let Some(outcome) = step.outcome {
            bytes.extend_from_slice(b",\"outcome\":\"");
            bytes.extend_from_slice(outcome.as_str().as_bytes());
            bytes.push(b'"');
        }
        if let Some(reason) = &step.reason {
            bytes.extend_from_slice(b",\"reason\":");
            push_json(bytes, reason);
        }
        bytes.extend_from_slice(b",\"worker\":");
        push_json(bytes, &*step.worker);
        if let Some(note) = step.report.note() {
            bytes.extend_from_slice(b",\"note\":");
            push_json(bytes, note);
        }
        if let Some(result) = step.report.result() {
            bytes.extend_from_slice(b",\"result\":");
            bytes.extend_from_slice(result.as_str().as_bytes());
        }
        if !step.retries.is_empty() {
            bytes.extend_from_slice(b",\"retries\":");
            push_json(bytes, &step.retries.iter().map(RetriedJson::of).collect::<Vec<_>>());
        }
        if step.uncounted > 0 {
            bytes.extend_from_slice(b",\"uncounted\":");
            push_json(bytes, &step.uncounted);
        }
        bytes.push(b'}');
    }
    bytes.push(b']');
}

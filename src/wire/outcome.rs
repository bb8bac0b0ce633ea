//! What was recorded of an attempt.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::history::{read_report, read_stage};
use super::without_content;
use crate::domain::{Decision, Delay, End, Json, RecordedOutcome, Timestamp};

/// A recorded outcome as JSON.
pub fn encode_outcome(outcome: &RecordedOutcome) -> String {
    let (decision, stage, reason, delay_secs, uncounted) = match &outcome.decision {
        Decision::Advance(stage) => ("advance", Some(stage.as_snake()), None, None, false),
        Decision::Retry { reason, delay, counts } => {
            ("retry", None, Some(reason.as_str()), Some(delay.as_secs()), !counts)
        }
        Decision::End(End::Completed) => ("complete", None, None, None, false),
        Decision::End(End::Failed { reason }) => ("fail", None, Some(reason.as_str()), None, false),
    };
    let result = outcome.report.result().map(as_raw);
    let json = OutcomeJson {
        entered_at: outcome.entered_at.as_millis(),
        finished_at: outcome.finished_at.as_millis(),
        worker: Cow::Borrowed(&outcome.worker),
        decision: Cow::Borrowed(decision),
        stage: stage.map(Cow::Borrowed),
        reason: reason.map(Cow::Borrowed),
        delay_secs,
        uncounted,
        note: outcome.report.note().map(Cow::Borrowed),
        result: result.as_deref(),
    };
    serde_json::to_string(&json).expect("writing strings and numbers does not fail")
}

/// Reads what [`encode_outcome`] wrote.
///
/// # Errors
/// The reason, if it is something else. Final.
pub fn decode_outcome(json: &str) -> Result<RecordedOutcome, String> {
    let json: OutcomeJson = serde_json::from_str(json).map_err(|error| without_content(&error))?;
    let reason = json.reason.map(Cow::into_owned).unwrap_or_default();
    let decision = match &*json.decision {
        "advance" => Decision::Advance(read_stage(json.stage.as_deref().unwrap_or_default())?),
        "retry" => Decision::Retry {
            reason,
            delay: Delay::at_least(std::time::Duration::from_secs(json.delay_secs.unwrap_or_default().into())),
            counts: !json.uncounted,
        },
        "complete" => Decision::End(End::Completed),
        "fail" => Decision::End(End::Failed { reason }),
        other => return Err(format!("unknown decision `{other}`")),
    };
    Ok(RecordedOutcome {
        entered_at: Timestamp::from_millis(json.entered_at),
        finished_at: Timestamp::from_millis(json.finished_at),
        worker: Arc::from(&*json.worker),
        decision,
        report: read_report(json.note.as_deref(), json.result),
    })
}

/// What was checked when it was taken is JSON; should a store have been tampered with, it counts for nothing.
fn as_raw(json: &Json) -> Box<RawValue> {
    RawValue::from_string(json.as_str().to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[derive(Serialize, Deserialize)]
struct OutcomeJson<'a> {
    entered_at: i64,
    finished_at: i64,
    #[serde(borrow)]
    worker: Cow<'a, str>,
    #[serde(borrow)]
    decision: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    stage: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay_secs: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    uncounted: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    note: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
}

//! The versioned JSON of messages, and of what the stores keep of an order.
//!
//! A message is `{"v":1,"orders":[…]}`, an order `{"id","passage","placed_at","total","steps":[…],"order":{…}}`, with
//! `"trace"` before `steps` if it was placed in one. Times are milliseconds since the Unix epoch. An order that was tried
//! again has `earlier` (`[{"passage","retried_at","steps"}]`), one that was cancelled `cancelled` (`{"at","reason"}`). What the customer placed (`order`) comes last and passes through as the
//! bytes it is: it is found again, not parsed.
//!
//! A release reads its own version and the one before. Fields it does not know are passed over, so that a field can
//! be added without a new version.

mod events;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::{
    Cancellation, Decision, Delay, EarlierPassage, End, History, Json, Order, OrderId, OrderRecord, RecordedOutcome,
    Report, RetriedAttempt, Stage, Step, StepOutcome, Timestamp,
};
use crate::ports::Unreadable;
pub use events::{decode_events, encode_events};

/// The version this release writes.
pub const VERSION: u32 = 1;

/// A batch as the bytes of one message.
pub fn encode_batch(orders: &[OrderRecord]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32 + orders.iter().map(OrderRecord::size_bytes).sum::<usize>());
    bytes.extend_from_slice(b"{\"v\":1,\"orders\":[");
    for (n, order) in orders.iter().enumerate() {
        if n > 0 {
            bytes.push(b',');
        }
        push_record(&mut bytes, order);
    }
    bytes.extend_from_slice(b"]}");
    bytes
}

/// The orders of a message.
///
/// # Errors
/// [`Unreadable`] with the reason, if they are no message of this version. Final.
pub fn decode_batch(bytes: &Bytes) -> Result<Vec<OrderRecord>, Unreadable> {
    #[derive(Deserialize)]
    struct Message<'a> {
        v: u32,
        #[serde(borrow)]
        orders: Vec<RecordJson<'a>>,
    }
    let unreadable = |reason: String| Unreadable { reason, is_newer: false, bytes: bytes.clone() };
    let message: Message = match serde_json::from_slice(bytes) {
        Ok(message) => message,
        // The orders of another version need not look like ours.
        Err(error) => return Err(other_version(bytes).unwrap_or_else(|| unreadable(without_content(&error)))),
    };
    if message.v != VERSION {
        return Err(other_version(bytes).unwrap_or_else(|| unreadable("a message of another version".into())));
    }
    if message.orders.is_empty() {
        return Err(unreadable("a message without orders".into()));
    }
    message.orders.into_iter().map(|order| order.read(bytes)).collect::<Result<_, _>>().map_err(unreadable)
}

/// Says so if the bytes are a message of a version this release does not know.
fn other_version(bytes: &Bytes) -> Option<Unreadable> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let Version { v } = serde_json::from_slice(bytes).ok()?;
    let reason = format!("message of version {v}, this release reads version {VERSION}");
    (v != VERSION).then(|| Unreadable { reason, is_newer: v > VERSION, bytes: bytes.clone() })
}

/// What is wrong and where, for logs: serde's own text quotes the value it did not expect.
fn without_content(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Io | serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax => "it is no JSON",
        serde_json::error::Category::Data => "it is JSON of another kind",
    };
    format!("{what}, at line {} column {}", error.line(), error.column())
}

/// One order as JSON, as it stands in a message.
pub fn encode_record(order: &OrderRecord) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(order.size_bytes());
    push_record(&mut bytes, order);
    bytes
}

/// Reads what [`encode_record`] wrote.
///
/// # Errors
/// The reason, if it is something else. Final.
pub fn decode_record(bytes: &Bytes) -> Result<OrderRecord, String> {
    serde_json::from_slice::<RecordJson>(bytes).map_err(|error| without_content(&error))?.read(bytes)
}

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
        let steps: Vec<StepJson> = serde_json::from_str(json).map_err(|error| error.to_string())?;
        return read_steps(steps);
    }
    let history: HistoryJson = serde_json::from_str(json).map_err(|error| error.to_string())?;
    history.read()
}

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
    let json: OutcomeJson = serde_json::from_str(json).map_err(|error| error.to_string())?;
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

/// A cancellation as JSON.
pub fn encode_cancellation(cancellation: &Cancellation) -> String {
    serde_json::to_string(&CancelledJson::of(cancellation)).expect("writing strings and numbers does not fail")
}

/// Reads what [`encode_cancellation`] wrote.
///
/// # Errors
/// The reason, if it is something else. Final.
pub fn decode_cancellation(json: &str) -> Result<Cancellation, String> {
    serde_json::from_str::<CancelledJson>(json).map(CancelledJson::read).map_err(|error| error.to_string())
}

/// What was checked when it was taken is JSON; should a store have been tampered with, it counts for nothing.
fn as_raw(json: &Json) -> Box<RawValue> {
    RawValue::from_string(json.as_str().to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn read_report(note: Option<&str>, result: Option<&RawValue>) -> Report {
    let report = note.map_or_else(Report::default, |note| Report::default().with_note(note));
    match result {
        Some(result) => report.with_result(Json::from_checked(result.get())),
        None => report,
    }
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

#[derive(Deserialize)]
struct RecordJson<'a> {
    id: Uuid,
    passage: u32,
    placed_at: i64,
    #[serde(borrow)]
    total: Cow<'a, str>,
    #[serde(borrow, default)]
    trace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    steps: Vec<StepJson<'a>>,
    #[serde(borrow, default)]
    earlier: Vec<EarlierJson<'a>>,
    #[serde(borrow, default)]
    cancelled: Option<CancelledJson<'a>>,
    #[serde(borrow)]
    order: &'a RawValue,
}

impl RecordJson<'_> {
    /// `bytes` are those it was parsed from: the order's content shares them.
    fn read(self, bytes: &Bytes) -> Result<OrderRecord, String> {
        Ok(OrderRecord {
            id: OrderId::from_uuid(self.id),
            passage: self.passage,
            placed_at: Timestamp::from_millis(self.placed_at),
            order: Order::from_parts(bytes.slice_ref(self.order.get().as_bytes()), self.total.into()),
            history: HistoryJson { steps: self.steps, earlier: self.earlier, cancelled: self.cancelled }.read()?,
            // One that cannot be read is worth no order.
            trace: self.trace.and_then(|trace| trace.parse().ok()),
        })
    }
}

#[derive(Deserialize)]
struct HistoryJson<'a> {
    #[serde(borrow)]
    steps: Vec<StepJson<'a>>,
    #[serde(borrow, default)]
    earlier: Vec<EarlierJson<'a>>,
    #[serde(borrow, default)]
    cancelled: Option<CancelledJson<'a>>,
}

#[derive(Deserialize)]
struct EarlierJson<'a> {
    passage: u32,
    retried_at: i64,
    #[serde(borrow)]
    steps: Vec<StepJson<'a>>,
}

#[derive(Serialize, Deserialize)]
struct CancelledJson<'a> {
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
    fn read(self) -> Result<History, String> {
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
struct StepJson<'a> {
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

fn read_stage(name: &str) -> Result<Stage, String> {
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

fn push_record(bytes: &mut Vec<u8>, record: &OrderRecord) {
    bytes.extend_from_slice(b"{\"id\":\"");
    let mut hyphenated = [0; uuid::fmt::Hyphenated::LENGTH];
    bytes.extend_from_slice(record.id.as_uuid().as_hyphenated().encode_lower(&mut hyphenated).as_bytes());
    bytes.extend_from_slice(b"\",\"passage\":");
    push_json(bytes, &record.passage);
    bytes.extend_from_slice(b",\"placed_at\":");
    push_json(bytes, &record.placed_at.as_millis());
    bytes.extend_from_slice(b",\"total\":");
    push_json(bytes, record.order.total());
    if let Some(trace) = &record.trace {
        bytes.extend_from_slice(b",\"trace\":");
        push_json(bytes, &trace.to_string());
    }
    bytes.extend_from_slice(b",\"steps\":");
    push_history(bytes, &record.history);
    bytes.extend_from_slice(b",\"order\":");
    bytes.extend_from_slice(record.order.json());
    bytes.push(b'}');
}

/// The steps, and as further members what else there is to a history.
fn push_history(bytes: &mut Vec<u8>, history: &History) {
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

fn push_json<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(bytes, value).expect("writing strings and numbers to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"customer_id":"ä \"q\"","currency":"EUR","items":[{"sku":"s","quantity":2,"unit_price":"1.50"}],"metadata":{"n":1.50}}"#;

    fn orders() -> Vec<OrderRecord> {
        let order = Order::from_json(JSON.as_bytes()).unwrap();
        let placed_at = Timestamp::from_millis(1_764_000_000_000);
        let mut order = OrderRecord::new(OrderId::from_uuid(Uuid::from_u128(7)), placed_at, order);
        let mut orders = vec![order.clone()];
        let outcome = |decision| RecordedOutcome {
            entered_at: placed_at,
            finished_at: placed_at.after(std::time::Duration::from_millis(3)),
            worker: "w \"1\"".into(),
            decision,
            report: Report::default(),
        };
        let delay = Delay::at_least(std::time::Duration::ZERO);
        let busy = |counts| Decision::Retry { reason: "bu\nsy".into(), delay, counts };
        order.history.record(Stage::Scheduling, &outcome(busy(true)));
        order.history.record(Stage::Scheduling, &outcome(busy(false)));
        orders.push(order.clone());
        let report = Report::default().with_note("\"ok\"").with_result(Json::parse("{\"n\":1.50}").unwrap());
        let done = RecordedOutcome { report, ..outcome(Decision::Advance(Stage::PreProcessing)) };
        order.history.record(Stage::Scheduling, &done);
        orders.push(order.clone());
        let failed = Decision::End(End::Failed { reason: "no \u{1F980}".into() });
        order.history.record(Stage::PreProcessing, &outcome(failed));
        order.passage = 2;
        orders.push(order.clone());
        let mut order = order.next_passage(Stage::PreProcessing, placed_at).unwrap();
        orders.push(order.clone());
        order.history.cancel(Cancellation { at: placed_at, reason: Some("\"".into()) });
        orders.push(order);
        orders
    }

    #[test]
    fn a_batch_is_read_as_it_was_written() {
        let bytes = Bytes::from(encode_batch(&orders()));
        assert_eq!(decode_batch(&bytes).unwrap(), orders());
        for order in orders() {
            assert_eq!(decode_record(&Bytes::from(encode_record(&order))).unwrap(), order);
            assert_eq!(decode_steps(&encode_steps(&order.history)).unwrap(), order.history);
        }
    }

    /// The form on the wire is a promise to the release before: change [`VERSION`] when this changes.
    #[test]
    fn the_wire_form_is_what_it_was() {
        let mut order = orders().remove(3);
        let mut steps = order.history.steps().to_vec();
        (steps[0].report, steps[0].retries, steps[0].uncounted) = (Report::default(), Vec::new(), 0);
        order.history = History::of(steps).unwrap();
        let bytes = encode_batch(&[order]);
        let expected = r#"{"v":1,"orders":[{"id":"00000000-0000-0000-0000-000000000007","passage":2,"placed_at":1764000000000,"total":"3.00","steps":[{"stage":"scheduling","entered_at":1764000000000,"finished_at":1764000000003,"attempts":3,"outcome":"done","worker":"w \"1\""},{"stage":"pre_processing","entered_at":1764000000000,"finished_at":1764000000003,"attempts":1,"outcome":"rejected","reason":"no 🦀","worker":"w \"1\""}],"order":{"customer_id":"ä \"q\"","reference":null,"currency":"EUR","items":[{"sku":"s","description":null,"quantity":2,"unit_price":"1.50"}],"metadata":{"n":1.50}}}]}"#;
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    /// What was said is added to a step's own fields, so that a reader of before passes over it.
    #[test]
    fn what_was_said_is_added_to_a_step() {
        let json = encode_steps(&orders()[3].history);
        let added = r#""worker":"w \"1\"","note":"\"ok\"","result":{"n":1.50},"retries":[{"attempt":1,"at":1764000000003,"reason":"bu\nsy"},{"attempt":2,"at":1764000000003,"reason":"bu\nsy","uncounted":true}],"uncounted":1},"#;
        assert!(json.contains(added), "{json}");
    }

    #[test]
    fn outcomes_are_read_as_they_were_written() {
        for decision in [
            Decision::Advance(Stage::PostProcessing),
            Decision::Retry {
                reason: "\"".into(),
                delay: Delay::at_least(std::time::Duration::from_secs(9)),
                counts: true,
            },
            Decision::Retry { reason: "".into(), delay: Delay::at_least(std::time::Duration::ZERO), counts: false },
            Decision::End(End::Completed),
            Decision::End(End::Failed { reason: String::new() }),
        ] {
            let moment = Timestamp::from_millis(5);
            let report = Report::default();
            let outcome =
                RecordedOutcome { entered_at: moment, finished_at: moment, worker: "w".into(), decision, report };
            assert_eq!(decode_outcome(&encode_outcome(&outcome)).unwrap(), outcome);
            let report = Report::default().with_note("ä \"").with_result(Json::parse("[1.0]").unwrap());
            let outcome = RecordedOutcome { report, ..outcome };
            assert_eq!(decode_outcome(&encode_outcome(&outcome)).unwrap(), outcome);
        }
    }

    #[test]
    fn what_is_no_message_is_refused_with_the_reason() {
        let reason = |bytes: &'static [u8]| decode_batch(&Bytes::from_static(bytes)).unwrap_err().reason;
        assert!(reason(b"\x00\xff").contains("no JSON"));
        assert!(reason(b"{\"v\":1,\"orders\":[]}").contains("without orders"));
        assert!(reason(b"{\"v\":2,\"orders\":\"packed\"}").contains("version 2"));
        assert!(reason(b"{\"v\":2,\"orders\":[]}").contains("version 2"));
        assert!(reason(b"{\"v\":1,\"orders\":[{}]}").contains("JSON of another kind"));
        assert!(!reason(b"{\"v\":1,\"orders\":[\"secret\"]}").contains("secret"), "content has no place in a log");
        let newer = |bytes: &'static [u8]| decode_batch(&Bytes::from_static(bytes)).unwrap_err().is_newer;
        assert!(newer(b"{\"v\":2,\"orders\":[]}") && newer(b"{\"v\":2}"));
        assert!(!newer(b"{\"v\":0,\"orders\":[]}") && !newer(b"{}"));
    }

    #[test]
    fn a_trace_is_added_to_an_order_and_one_that_is_none_is_passed_over() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let order = OrderRecord { trace: trace.parse().ok(), ..orders().remove(0) };
        let text = String::from_utf8(encode_batch(std::slice::from_ref(&order))).unwrap();
        assert!(text.contains(&format!(",\"trace\":\"{trace}\",\"steps\":")), "{text}");
        assert_eq!(decode_batch(&Bytes::from(text.clone())).unwrap(), [order]);
        assert_eq!(decode_batch(&Bytes::from(text.replace(trace, "00-oops"))).unwrap(), orders()[..1]);
    }

    #[test]
    fn unknown_fields_are_passed_over() {
        let text = String::from_utf8(encode_batch(&orders()[..1])).unwrap();
        let text =
            text.replace("{\"v\":1,", "{\"v\":1,\"trace\":[{}],").replace("\"passage\"", "\"new\":1,\"passage\"");
        assert_eq!(decode_batch(&Bytes::from(text)).unwrap(), orders()[..1]);
    }
}

//! An order and its steps as others see them: readers of the API, and handlers that are called over HTTP. Absent values
//! are `null`, never left out.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::{Event, OrderRecord, RetriedAttempt, Step, Timestamp};

#[derive(Serialize)]
struct StepView<'a> {
    stage: &'static str,
    entered_at: String,
    finished_at: Option<String>,
    attempts: u32,
    outcome: Option<&'static str>,
    reason: Option<&'a str>,
    note: Option<&'a str>,
    result: Option<Box<RawValue>>,
    retries: Vec<RetriedView<'a>>,
    worker: &'a str,
}

#[derive(Serialize)]
struct RetriedView<'a> {
    attempt: u32,
    at: String,
    reason: &'a str,
    counted: bool,
}

impl<'a> StepView<'a> {
    fn of(step: &'a Step) -> Self {
        // It was checked when it was taken; should a store have been tampered with, the order is shown all the same.
        let result = step.report.result().and_then(|json| RawValue::from_string(json.as_str().to_owned()).ok());
        StepView {
            stage: step.stage.as_snake(),
            entered_at: step.entered_at.to_string(),
            finished_at: step.finished_at.map(|at| at.to_string()),
            attempts: step.attempts,
            outcome: step.outcome.map(|outcome| outcome.as_str()),
            reason: step.reason.as_deref(),
            note: step.report.note(),
            result,
            retries: step.retries.iter().map(RetriedView::of).collect(),
            worker: &step.worker,
        }
    }
}

impl<'a> RetriedView<'a> {
    fn of(retried: &'a RetriedAttempt) -> Self {
        RetriedView {
            attempt: retried.attempt,
            at: retried.at.to_string(),
            reason: &retried.reason,
            counted: retried.counts,
        }
    }
}

#[derive(Serialize)]
struct EventView<'a> {
    id: &'a str,
    r#type: &'static str,
    order_id: Option<&'a str>,
    sequence: Option<u64>,
    at: String,
    stage: Option<&'static str>,
    attempt: Option<u32>,
    reason: Option<&'a str>,
}

/// An event as a JSON object.
pub fn event(event: &Event) -> Vec<u8> {
    let mut json = Vec::with_capacity(256);
    let view = EventView {
        id: &event.id(),
        r#type: event.kind.as_str(),
        order_id: Some(&event.order.to_string()),
        sequence: Some(event.sequence),
        at: event.at.to_string(),
        stage: event.stage.map(|stage| stage.as_snake()),
        attempt: event.attempt,
        reason: event.reason.as_deref(),
    };
    push(&mut json, &view);
    json
}

/// What looks like an event and is a test.
pub fn test_event(id: &str, at: Timestamp) -> Vec<u8> {
    let mut json = Vec::with_capacity(256);
    let (order_id, sequence, at) = (None, None, at.to_string());
    let view =
        EventView { id, r#type: "webhook.test", order_id, sequence, at, stage: None, attempt: None, reason: None };
    push(&mut json, &view);
    json
}

/// Writes the steps of an order as a JSON array.
pub fn push_steps(json: &mut Vec<u8>, steps: &[Step]) {
    push(json, &steps.iter().map(StepView::of).collect::<Vec<_>>());
}

/// Writes what never changes of an order as members of an object: a comma before and between them, none behind.
pub fn push_placed(json: &mut Vec<u8>, record: &OrderRecord) {
    // What the customer placed is an object of its own: its members are put between ours as the text they are.
    let placed = record.order.json();
    json.push(b',');
    json.extend_from_slice(placed.get(1..placed.len().saturating_sub(1)).unwrap_or_default());
    if record.order.not_before().is_none() {
        json.extend_from_slice(b",\"not_before\":null");
    }
    json.extend_from_slice(b",\"total\":");
    push(json, record.order.total());
    json.extend_from_slice(b",\"placed_at\":");
    push(json, &record.placed_at.to_string());
}

/// Writes one JSON value.
pub fn push<T: Serialize + ?Sized>(json: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(json, value).expect("writing strings and numbers to memory does not fail");
}

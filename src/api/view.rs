//! An order as its readers see it. Absent values are `null`, never left out.

use serde::Serialize;

use crate::domain::{OrderRecord, Step};

#[derive(Serialize)]
struct StepView<'a> {
    stage: &'static str,
    entered_at: String,
    finished_at: Option<String>,
    attempts: u32,
    outcome: Option<&'static str>,
    reason: Option<&'a str>,
    worker: &'a str,
}

impl<'a> StepView<'a> {
    fn of(step: &'a Step) -> Self {
        StepView {
            stage: step.stage.as_snake(),
            entered_at: step.entered_at.to_string(),
            finished_at: step.finished_at.map(|at| at.to_string()),
            attempts: step.attempts,
            outcome: step.outcome.map(|outcome| outcome.as_str()),
            reason: step.reason.as_deref(),
            worker: &step.worker,
        }
    }
}

#[derive(Serialize)]
struct FailureView {
    stage: &'static str,
    reason: String,
}

/// The JSON of `GET /v1/orders/{id}`.
pub fn order(record: &OrderRecord) -> Vec<u8> {
    let history = &record.history;
    let mut json = Vec::with_capacity(record.order.json().len() + 1_024);
    json.extend_from_slice(b"{\"id\":");
    push(&mut json, &record.id.to_string());
    json.extend_from_slice(b",\"status\":");
    push(&mut json, history.status().as_str());
    // What the customer placed is an object of its own: its members are put between ours as the text they are.
    let placed = record.order.json();
    json.push(b',');
    json.extend_from_slice(placed.get(1..placed.len().saturating_sub(1)).unwrap_or_default());
    json.extend_from_slice(b",\"total\":");
    push(&mut json, record.order.total());
    json.extend_from_slice(b",\"placed_at\":");
    push(&mut json, &record.placed_at.to_string());
    json.extend_from_slice(b",\"updated_at\":");
    push(&mut json, &record.updated_at().to_string());
    json.extend_from_slice(b",\"finished_at\":");
    push(&mut json, &history.finished_at().map(|at| at.to_string()));
    json.extend_from_slice(b",\"failure\":");
    push(
        &mut json,
        &history.failure().map(|failure| FailureView { stage: failure.stage.as_snake(), reason: failure.reason }),
    );
    json.extend_from_slice(b",\"steps\":");
    push(&mut json, &history.steps().iter().map(StepView::of).collect::<Vec<_>>());
    json.push(b'}');
    json
}

fn push<T: Serialize + ?Sized>(json: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(json, value).expect("writing strings and numbers to memory does not fail");
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::domain::{Decision, End, Order, OrderId, RecordedOutcome, Stage, Timestamp};

    #[test]
    fn an_order_is_shown_whole() {
        let placed = r#"{"customer_id":"c","currency":"EUR","items":[{"sku":"s","quantity":3,"unit_price":"0.10"}]}"#;
        let placed_at = Timestamp::from_millis(1_764_000_000_000);
        let id = OrderId::from_uuid(Uuid::from_u128(5));
        let mut record = OrderRecord::new(id, placed_at, Order::from_json(placed.as_bytes()).unwrap());
        let shown: Value = serde_json::from_slice(&order(&record)).unwrap();
        let expected = json!({
            "id": "00000000-0000-0000-0000-000000000005", "status": "accepted", "customer_id": "c",
            "reference": null, "currency": "EUR",
            "items": [{"sku": "s", "description": null, "quantity": 3, "unit_price": "0.10"}],
            "metadata": null, "total": "0.30", "placed_at": "2025-11-24T16:00:00.000Z",
            "updated_at": "2025-11-24T16:00:00.000Z", "finished_at": null, "failure": null, "steps": [],
        });
        assert_eq!(shown, expected);

        let at = placed_at.after(std::time::Duration::from_millis(5));
        let decision = Decision::End(End::Failed { reason: "no stock".into() });
        let outcome = RecordedOutcome { entered_at: placed_at, finished_at: at, worker: "w".into(), decision };
        record.history.record(Stage::Scheduling, &outcome);
        let shown: Value = serde_json::from_slice(&order(&record)).unwrap();
        assert_eq!(shown["status"], "failed");
        assert_eq!(shown["failure"], json!({"stage": "scheduling", "reason": "no stock"}));
        assert_eq!(shown["finished_at"], "2025-11-24T16:00:00.005Z");
        let step = json!({
            "stage": "scheduling", "entered_at": "2025-11-24T16:00:00.000Z",
            "finished_at": "2025-11-24T16:00:00.005Z", "attempts": 1, "outcome": "rejected", "reason": "no stock",
            "worker": "w",
        });
        assert_eq!(shown["steps"], json!([step]));
    }
}

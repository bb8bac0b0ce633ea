//! An order as its readers see it. Absent values are `null`, never left out.

use serde::Serialize;

use crate::domain::OrderRecord;
use crate::view::{push, push_placed, push_steps};

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
    push_placed(&mut json, record);
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
    push_steps(&mut json, history.steps());
    json.extend_from_slice(b",\"cancellation\":");
    let cancellation = history.cancellation();
    push(
        &mut json,
        &cancellation.map(|cancellation| CancellationView {
            at: cancellation.at.to_string(),
            reason: cancellation.reason.as_deref(),
        }),
    );
    json.extend_from_slice(b",\"passage\":");
    push(&mut json, &record.passage);
    json.extend_from_slice(b",\"earlier_passages\":[");
    for (n, earlier) in history.earlier().iter().enumerate() {
        let before: &[u8] = if n == 0 { b"{" } else { b",{" };
        json.extend_from_slice(before);
        json.extend_from_slice(b"\"passage\":");
        push(&mut json, &earlier.passage);
        json.extend_from_slice(b",\"retried_at\":");
        push(&mut json, &earlier.retried_at.to_string());
        json.extend_from_slice(b",\"steps\":");
        push_steps(&mut json, &earlier.steps);
        json.push(b'}');
    }
    json.extend_from_slice(b"]}");
    json
}

/// What was said when the order was cancelled.
#[derive(Serialize)]
struct CancellationView<'a> {
    at: String,
    reason: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::domain::{
        Cancellation, Decision, Delay, End, Json, Order, OrderId, RecordedOutcome, Report, Stage, Timestamp,
    };

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
            "not_before": null, "cancellation": null, "passage": 1, "earlier_passages": [],
        });
        assert_eq!(shown, expected);

        let at = placed_at.after(std::time::Duration::from_millis(5));
        let outcome = |decision, report| RecordedOutcome {
            entered_at: placed_at,
            finished_at: at,
            worker: "w".into(),
            decision,
            report,
        };
        let delay = Delay::at_least(std::time::Duration::ZERO);
        let busy = Decision::Retry { reason: "busy".into(), delay, counts: false };
        record.history.record(Stage::Scheduling, &outcome(busy, Report::default()));
        let report = Report::default().with_note("ok").with_result(Json::parse("{\"n\":1}").unwrap());
        record.history.record(Stage::Scheduling, &outcome(Decision::Advance(Stage::PreProcessing), report));
        let failed = Decision::End(End::Failed { reason: "no stock".into() });
        record.history.record(Stage::PreProcessing, &outcome(failed, Report::default()));
        let shown: Value = serde_json::from_slice(&order(&record)).unwrap();
        assert_eq!(shown["status"], "failed");
        assert_eq!(shown["failure"], json!({"stage": "pre_processing", "reason": "no stock"}));
        assert_eq!(shown["finished_at"], "2025-11-24T16:00:00.005Z");
        let done = json!({
            "stage": "scheduling", "entered_at": "2025-11-24T16:00:00.000Z",
            "finished_at": "2025-11-24T16:00:00.005Z", "attempts": 2, "outcome": "done", "reason": null, "note": "ok",
            "result": {"n": 1}, "worker": "w",
            "retries": [{"attempt": 1, "at": "2025-11-24T16:00:00.005Z", "reason": "busy", "counted": false}],
        });
        let rejected = json!({
            "stage": "pre_processing", "entered_at": "2025-11-24T16:00:00.000Z",
            "finished_at": "2025-11-24T16:00:00.005Z", "attempts": 1, "outcome": "rejected", "reason": "no stock",
            "note": null, "result": null, "worker": "w", "retries": [],
        });
        assert_eq!(shown["steps"], json!([done, rejected]));

        let mut record = record.next_passage(Stage::PreProcessing, at).unwrap();
        let reason = Some("changed her mind".to_owned());
        record.history.cancel(Cancellation { at, reason });
        let shown: Value = serde_json::from_slice(&order(&record)).unwrap();
        assert_eq!(
            (&shown["status"], &shown["failure"], &shown["passage"]),
            (&json!("cancelled"), &json!(null), &json!(2))
        );
        assert_eq!(shown["cancellation"], json!({"at": "2025-11-24T16:00:00.005Z", "reason": "changed her mind"}));
        assert_eq!(shown["steps"], json!([done]));
        assert_eq!(
            shown["earlier_passages"],
            json!([{"passage": 1, "retried_at": "2025-11-24T16:00:00.005Z", "steps": [done, rejected]}])
        );
    }
}

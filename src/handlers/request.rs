//! What a service is sent: one order, where it is on its way, and what came of it so far.

use std::time::SystemTime;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::Call;
use super::signature::{self, Secret};
use crate::view::{push, push_placed, push_steps};

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The headers that are ours to set; and those of the connection, which are nobody's.
pub const RESERVED_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "traceparent",
    "transfer-encoding",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

/// `{"key","order","stage","attempt","history"}`; order and steps in the form in which readers of the API see them.
pub fn body(call: &Call<'_>) -> Vec<u8> {
    let mut json = Vec::with_capacity(call.order.size_bytes() + 512);
    json.extend_from_slice(b"{\"key\":");
    push(&mut json, &call.key().to_string());
    json.extend_from_slice(b",\"order\":{\"id\":");
    push(&mut json, &call.order.id.to_string());
    push_placed(&mut json, call.order);
    json.extend_from_slice(b"},\"stage\":");
    push(&mut json, call.stage.as_snake());
    json.extend_from_slice(b",\"attempt\":");
    push(&mut json, &call.attempt);
    json.extend_from_slice(b",\"history\":");
    push_steps(&mut json, call.order.history.steps());
    json.push(b'}');
    json
}

/// The headers of a call with this body: `more`, and ours. Signed if there are secrets.
pub fn headers(call: &Call<'_>, body: &[u8], more: &HeaderMap, secrets: &[Secret], now: SystemTime) -> HeaderMap {
    let visible = |text: &str| HeaderValue::from_str(text).expect("ids, stages, numbers and base64 are visible ASCII");
    let key = call.key().to_string();
    let mut headers = more.clone();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(IDEMPOTENCY_KEY, visible(&key));
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let timestamp_secs = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    headers.insert(WEBHOOK_TIMESTAMP, timestamp_secs.into());
    if !secrets.is_empty() {
        let mut signature = visible(&signature::sign(secrets, &key, timestamp_secs, body));
        signature.set_sensitive(true);
        headers.insert(WEBHOOK_SIGNATURE, signature);
    }
    headers.insert(WEBHOOK_ID, visible(&key));
    if let Some(trace) = &call.order.trace {
        headers.insert(TRACEPARENT, visible(&trace.to_string()));
    }
    headers
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::domain::{Decision, Order, OrderId, OrderRecord, RecordedOutcome, Report, Stage, Timestamp};

    #[test]
    fn a_service_is_sent_the_order_as_readers_see_it() {
        let placed = r#"{"customer_id":"c","currency":"EUR","items":[{"sku":"s","quantity":3,"unit_price":"0.10"}]}"#;
        let placed_at = Timestamp::from_millis(1_764_000_000_000);
        let id = OrderId::from_uuid(Uuid::from_u128(5));
        let mut record = OrderRecord::new(id, placed_at, Order::from_json(placed.as_bytes()).unwrap());
        let outcome = RecordedOutcome {
            entered_at: placed_at,
            finished_at: placed_at,
            worker: "w".into(),
            decision: Decision::Advance(Stage::PreProcessing),
            report: Report::default().with_note("ok"),
        };
        record.history.record(Stage::Scheduling, &outcome);
        let call = Call { order: &record, stage: Stage::PreProcessing, attempt: 2 };
        let sent: Value = serde_json::from_slice(&body(&call)).unwrap();
        let key = "00000000-0000-0000-0000-000000000005:pre-processing";
        let expected = json!({
            "key": key,
            "order": {
                "id": "00000000-0000-0000-0000-000000000005", "customer_id": "c", "reference": null, "currency": "EUR",
                "items": [{"sku": "s", "description": null, "quantity": 3, "unit_price": "0.10"}], "metadata": null,
                "not_before": null,
                "total": "0.30", "placed_at": "2025-11-24T16:00:00.000Z",
            },
            "stage": "pre_processing", "attempt": 2,
            "history": [{
                "stage": "scheduling", "entered_at": "2025-11-24T16:00:00.000Z",
                "finished_at": "2025-11-24T16:00:00.000Z", "attempts": 1, "outcome": "done", "reason": null,
                "note": "ok", "result": null, "retries": [], "worker": "w",
            }],
        });
        assert_eq!(sent, expected);

        let more = HeaderMap::from_iter([(HeaderName::from_static("x-team"), HeaderValue::from_static("payments"))]);
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_764_000_000_999);
        let unsigned = headers(&call, b"{}", &more, &[], at);
        let shown = |name: &str| unsigned.get(name).map(|value| value.to_str().unwrap());
        assert_eq!((shown("idempotency-key"), shown("webhook-id")), (Some(key), Some(key)));
        assert_eq!((shown("webhook-timestamp"), shown("x-team")), (Some("1764000000"), Some("payments")));
        assert_eq!(shown("webhook-signature"), None);
    }
}

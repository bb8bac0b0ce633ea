//! The versioned JSON of messages, and of what the stores keep of an order.
//!
//! A message is `{"v":1,"orders":[…]}`, an order `{"id","passage","placed_at","total","steps":[…],"order":{…}}`, with
//! `"trace"` before `steps` if it was placed in one. Times are milliseconds since the Unix epoch. An order that was tried
//! again has `earlier` (`[{"passage","retried_at","steps"}]`), one that was cancelled `cancelled` (`{"at","reason"}`). What
//! the customer placed (`order`) comes last and passes through as the bytes it is: it is found again, not parsed.
//!
//! A release reads its own version and the one before. Fields it does not know are passed over, so that a field can
//! be added without a new version.

mod events;
mod history;
mod outcome;

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::{Order, OrderId, OrderRecord, Timestamp};
use crate::ports::Unreadable;
pub use events::{decode_events, encode_events};
use history::{CancelledJson, EarlierJson, HistoryJson, StepJson, push_history};
pub use history::{decode_cancellation, decode_steps, encode_cancellation, encode_steps};
pub use outcome::{decode_outcome, encode_outcome};

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

fn push_json<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(bytes, value).expect("writing strings and numbers to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Cancellation, Decision, Delay, End, History, Json, RecordedOutcome, Report, Stage};

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

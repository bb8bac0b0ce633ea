//! An order: what a customer placed, and what travels with it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::history::History;
use super::stage::Stage;
use super::timestamp::Timestamp;
use super::trace::TraceParent;
use super::validation;

/// The id of an order: a UUID made by the server (version 7), or derived from an Idempotency-Key (version 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(Uuid);

impl OrderId {
    pub const fn from_uuid(uuid: Uuid) -> Self {
        OrderId(uuid)
    }

    pub fn as_uuid(self) -> Uuid {
        self.0
    }

    /// The id of the order that is placed with this Idempotency-Key: the same for the same key, on every process and
    /// after the loss of every cache.
    pub fn from_key(key: &str) -> Self {
        let digest = Sha256::new().chain_update(KEY_DOMAIN).chain_update(key).finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        OrderId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// The id of an order that is placed at `placed_at`; `random` makes it the only one of its millisecond.
    pub fn new(placed_at: Timestamp, random: [u8; 10]) -> Self {
        let ms = u64::try_from(placed_at.as_millis()).unwrap_or(0);
        OrderId(uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid())
    }

    /// Whether it was derived from an Idempotency-Key: only then can two orders of different content have it.
    pub fn is_derived(self) -> bool {
        self.0.get_version_num() == 8
    }

    /// When the order can have been placed, by its id.
    pub fn placed(self) -> Placed {
        match self.0.get_version_num() {
            7 => {
                let (secs, nanos) = self.0.get_timestamp().map_or((0, 0), |timestamp| timestamp.to_unix());
                let ms = secs.saturating_mul(1_000).saturating_add(u64::from(nanos / 1_000_000));
                Placed::At(Timestamp::from_millis(i64::try_from(ms).unwrap_or(i64::MAX)))
            }
            8 => Placed::AnyTime,
            _ => Placed::Never,
        }
    }

    /// Reads the hyphenated form, upper or lower case; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        // The uuid crate would also read braces, `urn:uuid:` and no hyphens at all: one order, one address.
        (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten().map(OrderId)
    }
}

/// What an id says of when its order was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The id was made then, by the clock of the process that took the order.
    At(Timestamp),
    /// The id is derived from a key and says nothing.
    AnyTime,
    /// No order has such an id.
    Never,
}

/// How far ahead an order may be placed: a year, a leap year too.
pub const NOT_BEFORE_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Keeps these digests apart from other uses of SHA-256. Part of every derived id: never to be changed.
const KEY_DOMAIN: &str = "ordering/idempotency-key/1:";

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

/// What a customer placed, valid, as one line of JSON with every field present (absent ones `null`).
///
/// It is parsed once, when it is taken, and passes everything after that as these bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Order {
    json: Bytes,
    total: Box<str>,
}

impl Order {
    /// Validates a customer's JSON.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] if it is not JSON, [`Refusal::Invalid`] with every problem if it is no valid order.
    pub fn from_json(json: &[u8]) -> Result<Order, Refusal> {
        validation::validate(json)
    }

    /// An order that was validated before: `json` as [`Order::json`] gave it, `total` as [`Order::total`] gave it.
    pub fn from_parts(json: Bytes, total: Box<str>) -> Order {
        Order { json, total }
    }

    /// The order as one line of JSON.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// When its work may begin; `None`: at once.
    pub fn not_before(&self) -> Option<Timestamp> {
        let text = self.json.strip_prefix(b"{")?.strip_prefix(validation::NOT_BEFORE)?.strip_prefix(b"\"")?;
        let end = text.iter().position(|byte| *byte == b'"')?;
        Timestamp::parse(std::str::from_utf8(&text[..end]).ok()?)
    }

    /// Whether its work must wait at the moment `now`.
    pub fn waits_at(&self, now: Timestamp) -> bool {
        self.not_before().is_some_and(|at| at > now)
    }

    /// Refuses an order that would have to wait longer than [`NOT_BEFORE_MAX`].
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub fn check_not_before(&self, now: Timestamp) -> Result<(), Refusal> {
        match self.not_before() {
            Some(at) if at.since(now) > NOT_BEFORE_MAX => Err(Refusal::Invalid(vec![Problem {
                pointer: "/not_before".into(),
                detail: format!("must be at most a year ahead, before {}", now.after(NOT_BEFORE_MAX)),
            }])),
            Some(_) | None => Ok(()),
        }
    }

    /// The exact sum of quantity × unit price, with as many decimals as the unit price that has most.
    pub fn total(&self) -> &str {
        &self.total
    }

    /// The fields of the order.
    ///
    /// # Errors
    /// If the bytes given to [`Order::from_parts`] were no valid order.
    pub fn fields(&self) -> Result<Fields<'_>, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }
}

/// Says how large it is, never what is in it: an order's content has no place in a log.
impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Order({} bytes)", self.json.len())
    }
}

/// The fields of an order, borrowed from its JSON where they can be.
#[derive(Debug, Deserialize)]
pub struct Fields<'a> {
    #[serde(borrow)]
    pub customer_id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    pub reference: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    pub currency: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    pub items: Vec<Item<'a>>,
    #[serde(borrow)]
    pub metadata: Option<&'a RawValue>,
}

/// One line of an order.
#[derive(Debug, Deserialize)]
pub struct Item<'a> {
    #[serde(borrow)]
    pub sku: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    pub description: Option<std::borrow::Cow<'a, str>>,
    pub quantity: u32,
    /// A decimal of at most four places, as the customer wrote it.
    #[serde(borrow)]
    pub unit_price: std::borrow::Cow<'a, str>,
}

/// Why an order was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no JSON; line and column count from 1.
    Malformed { line: usize, column: usize, detail: String },
    /// It is JSON, but no valid order: all problems there are, in the order of the text.
    Invalid(Vec<Problem>),
}

/// One thing wrong with an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a JSON pointer (RFC 6901): `/items/3/quantity`.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

/// All that is known of an order: what the queues carry, the in-flight store answers from and the archive keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRecord {
    pub id: OrderId,
    /// 1, and one more each time a failed order is tried again.
    pub passage: u32,
    pub placed_at: Timestamp,
    pub order: Order,
    pub history: History,
    /// The trace it was placed in. It goes with the messages, and may get lost.
    pub trace: Option<TraceParent>,
}

impl OrderRecord {
    /// What one step adds to a message beside what was said in it, about, in bytes.
    const STEP_SIZE_BYTES: usize = 160;
    /// What an order takes in a message beside its content and steps, about, in bytes.
    const ENVELOPE_SIZE_BYTES: usize = 128;
    const TRACE_SIZE_BYTES: usize = 66;

    /// An order that was just accepted.
    pub fn new(id: OrderId, placed_at: Timestamp, order: Order) -> Self {
        OrderRecord { id, passage: 1, placed_at, order, history: History::default(), trace: None }
    }

    /// About how much of a message it takes, in bytes.
    pub fn size_bytes(&self) -> usize {
        let steps: usize = self.history.all_steps().map(|step| Self::STEP_SIZE_BYTES + step.words_bytes()).sum();
        let cancellation = self.history.cancellation().and_then(|cancellation| cancellation.reason.as_deref());
        let trace = self.trace.map_or(0, |_| Self::TRACE_SIZE_BYTES);
        self.order.json().len() + steps + trace + cancellation.map_or(0, str::len) + Self::ENVELOPE_SIZE_BYTES
    }

    /// The order in its next passage, which goes on at `stage`, as was decided at the moment `at`; `None` unless it has
    /// failed, at `stage` or behind it.
    pub fn next_passage(&self, stage: Stage, at: Timestamp) -> Option<OrderRecord> {
        let history = self.history.next_passage(self.passage, stage, at)?;
        Some(OrderRecord { passage: self.passage.saturating_add(1), history, ..self.clone() })
    }

    /// The last moment something happened to it.
    pub fn updated_at(&self) -> Timestamp {
        self.history.updated_at().unwrap_or(self.placed_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let text = "0193f0a1-7c3e-7b11-8f00-0123456789ab";
        assert_eq!(OrderId::parse(text).unwrap().to_string(), text);
        assert_eq!(OrderId::parse(&text.to_uppercase()), OrderId::parse(text));
        for wrong in ["", "7", &text.replace('-', ""), &format!("{{{text}}}"), &format!("urn:uuid:{text}")] {
            assert_eq!(OrderId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_order_may_say_when_its_work_is_to_begin() {
        let order = |member: &str| {
            let item = r#"{"sku":"s","quantity":1,"unit_price":"1"}"#;
            Order::from_json(format!(r#"{{"customer_id":"c","currency":"EUR","items":[{item}]{member}}}"#).as_bytes())
        };
        let at = Timestamp::parse("2026-11-24T08:15:30Z").unwrap();
        let waits = order(r#","not_before":"2026-11-24T09:15:30.0+01:00""#.trim_end_matches('"')).is_err();
        assert!(waits, "a broken text is refused");
        let order_at = order(r#","not_before":"2026-11-24T09:15:30.0+01:00"}"#.trim_end_matches('}')).unwrap();
        assert_eq!(order_at.not_before(), Some(at));
        assert!(order_at.json().starts_with(br#"{"not_before":"2026-11-24T08:15:30.000Z","customer_id""#));
        assert!(order_at.waits_at(Timestamp::from_millis(at.as_millis() - 1)) && !order_at.waits_at(at));
        assert!(order_at.check_not_before(at).is_ok());
        assert!(order_at.check_not_before(Timestamp::from_millis(0)).is_err());
        assert_eq!(order(r#","not_before":null"#).unwrap().not_before(), None);
        for wrong in [r#""tomorrow""#, "7", r#""2026-11-24""#] {
            assert!(order(&format!(",\"not_before\":{wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_id_tells_when_its_order_was_placed() {
        let at = Timestamp::from_millis(1_764_000_000_123);
        let id = OrderId::new(at, [7; 10]);
        assert_eq!((id.as_uuid().get_version_num(), id.placed()), (7, Placed::At(at)));
        assert_eq!(OrderId::from_key("17").placed(), Placed::AnyTime);
        assert_eq!(OrderId::from_uuid(Uuid::from_u128(7)).placed(), Placed::Never);
    }

    #[test]
    fn a_key_makes_always_the_same_id() {
        // Computed by other means: the first 16 bytes of SHA-256("ordering/idempotency-key/1:order-17"), version 8.
        assert_eq!(OrderId::from_key("order-17").to_string(), "bcbac6f8-49a8-80d8-9a83-cbffa96bfb01");
        assert_ne!(OrderId::from_key("order-17"), OrderId::from_key("order-18"));
        assert_eq!(OrderId::from_key("order-17").as_uuid().get_version_num(), 8);
    }

    #[test]
    fn an_order_does_not_show_its_content_in_a_log() {
        let order = Order::from_parts(Bytes::from_static(b"{\"customer_id\":\"secret\"}"), "1".into());
        assert_eq!(format!("{order:?}"), "Order(24 bytes)");
    }
}

//! What the queue of dead letters holds, and how it is read.
//!
//! - What a worker has buried says in its headers who it is, whence it comes and why.
//! - What the broker put there itself (it was delivered more often than `x-delivery-limit` allows) says so in the broker's
//!   own header, `x-death`. Its id is derived from what the broker never changes: the queue, the message id that its
//!   publisher gave it (or the moment of its death), and its bytes.
//! - What somebody else put there says perhaps nothing. Its id is derived in the same way, so several that are alike in
//!   all this are one letter. It counts as of the first stage, where a replay does the least: what is no order is buried
//!   again, and an order that has come further is dropped.
//!
//! Nothing in a header can make a letter unreadable here: what cannot be used is passed over.

use amqprs::{BasicProperties, FieldTable, FieldValue};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::consumer::Item;
use super::topology::{DELIVERY_LIMIT, Namespace, Queue, Table};
use crate::domain::{Stage, Timestamp};
use crate::ports::{Clock, DeadDelivery, DeadLetter, DeadLetterId, Receipt, Source, SystemClock};

/// The reason of a dead letter is cut to this. Bytes.
const REASON_MAX_BYTES: usize = 500;
/// Keeps these ids apart from others that are derived from the same bytes.
const ID_DOMAIN: &[u8] = b"ordering:dead-letter:";

const ID: &str = "x-id";
const REASON: &str = "x-reason";
const SOURCE: &str = "x-source";
const AT: &str = "x-at";

/// What a letter says of itself in the queue.
pub(super) fn headers_of(letter: &DeadLetter) -> FieldTable {
    let mut headers = Table::default();
    headers.put(ID, letter.id.to_string());
    headers.put(REASON, cut(&letter.reason, REASON_MAX_BYTES));
    headers.put(SOURCE, Queue::from(letter.source).key());
    headers.put(AT, letter.at.to_string());
    headers.0
}

impl Item for DeadDelivery {
    fn read(namespace: &Namespace, receipt: Receipt, properties: &BasicProperties, bytes: Bytes) -> Self {
        DeadDelivery { receipt, letter: read(namespace, properties, bytes, SystemClock.now()) }
    }
}

/// `now`: the moment of a letter that does not say its own.
fn read(namespace: &Namespace, properties: &BasicProperties, bytes: Bytes, now: Timestamp) -> DeadLetter {
    let headers = properties.headers();
    let header = |name| headers.and_then(|table| text(table, name));
    if let Some(death) = headers.and_then(Death::last_of) {
        return DeadLetter {
            id: derived_id(&death.queue, properties, death.at, &bytes),
            source: namespace.queue_of_name(&death.queue).and_then(Queue::source).unwrap_or(OF_NO_SOURCE),
            reason: death.reason(),
            at: death.at.unwrap_or(now),
            bytes,
        };
    }
    let said_at = header(AT).as_deref().and_then(Timestamp::parse);
    let source = header(SOURCE).and_then(|key| Queue::of_key(&key)).and_then(Queue::source);
    DeadLetter {
        id: match header(ID).and_then(|id| Uuid::try_parse(&id).ok()) {
            Some(id) => DeadLetterId::from_uuid(id),
            None => derived_id(&header(SOURCE).unwrap_or_default(), properties, said_at, &bytes),
        },
        source: source.unwrap_or(OF_NO_SOURCE),
        reason: match header(REASON) {
            Some(reason) => cut(&reason, REASON_MAX_BYTES).to_owned(),
            None => "it was put among the dead letters and does not say why".into(),
        },
        at: said_at.unwrap_or(now),
        bytes,
    }
}

/// Where a letter goes back to that does not say whence it comes.
const OF_NO_SOURCE: Source = Source::Stage(Stage::FIRST);

/// Why and when the broker took a message out of a queue.
struct Death {
    queue: String,
    /// In the broker's words: `delivery_limit`, `rejected`, `expired`, `maxlen`.
    word: String,
    at: Option<Timestamp>,
}

impl Death {
    /// The last of those that `x-death` tells of: it has them newest first
    /// (<https://www.rabbitmq.com/docs/dlx#effects>). A message that waited in the queue of a delay has died there before.
    fn last_of(headers: &FieldTable) -> Option<Death> {
        let FieldValue::A(deaths) = get(headers, "x-death")? else { return None };
        let FieldValue::F(last) = Vec::from(deaths.clone()).into_iter().next()? else { return None };
        let at = match get(&last, "time") {
            Some(FieldValue::T(secs)) => i64::try_from(*secs).ok().and_then(|secs| secs.checked_mul(1_000)),
            _ => None,
        };
        Some(Death { queue: text(&last, "queue")?, word: text(&last, "reason")?, at: at.map(Timestamp::from_millis) })
    }

    fn reason(&self) -> String {
        match self.word.as_str() {
            word @ "delivery_limit" => format!("delivered more than {DELIVERY_LIMIT} times (RabbitMQ: {word})"),
            word => format!("RabbitMQ took it out of its queue: {}", cut(word, REASON_MAX_BYTES)),
        }
    }
}

/// The same for every delivery of a message, and for a second copy of it that the broker may have made.
fn derived_id(queue: &str, properties: &BasicProperties, at: Option<Timestamp>, bytes: &[u8]) -> DeadLetterId {
    let which = match (properties.message_id(), at) {
        (Some(id), _) => id.clone(),
        (None, Some(at)) => at.to_string(),
        (None, None) => String::new(),
    };
    let mut digest = Sha256::new().chain_update(ID_DOMAIN);
    for part in [queue.as_bytes(), which.as_bytes(), bytes] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest = digest.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    DeadLetterId::from_uuid(Uuid::new_v8(id))
}

fn get<'a>(table: &'a FieldTable, name: &str) -> Option<&'a FieldValue> {
    table.get(&name.try_into().ok()?)
}

fn text(table: &FieldTable, name: &str) -> Option<String> {
    match get(table, name)? {
        FieldValue::S(text) => Some(text.as_ref().clone()),
        _ => None,
    }
}

/// The beginning of `text`, at most `max_bytes` long, without half a character at its end.
fn cut(text: &str, max_bytes: usize) -> &str {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_millis(77)
    }

    fn namespace() -> Namespace {
        Namespace("ns".into())
    }

    fn properties(headers: Table, message_id: Option<&str>) -> BasicProperties {
        let mut properties = BasicProperties::default();
        properties.with_headers(headers.0);
        if let Some(id) = message_id {
            properties.with_message_id(id);
        }
        properties
    }

    fn death(queue: &str, word: &str, secs: u64) -> FieldValue {
        let mut death = Table::default();
        death.put("queue", queue);
        death.put("reason", word);
        death.put("time", FieldValue::T(secs));
        death.put("count", FieldValue::l(1));
        FieldValue::F(death.0)
    }

    fn died(deaths: Vec<FieldValue>, message_id: Option<&str>) -> BasicProperties {
        let mut headers = Table::default();
        headers.put("x-death", FieldValue::A(deaths.try_into().unwrap()));
        properties(headers, message_id)
    }

    fn read_of(properties: &BasicProperties, bytes: &'static [u8]) -> DeadLetter {
        read(&namespace(), properties, Bytes::from_static(bytes), now())
    }

    #[test]
    fn a_letter_comes_back_as_it_was_buried() {
        for source in Source::all() {
            let letter = DeadLetter {
                id: DeadLetterId::from_uuid(Uuid::now_v7()),
                source,
                reason: "注文 \"\u{0}".into(),
                at: Timestamp::from_millis(1_764_000_000_007),
                bytes: Bytes::from_static(b"\xff"),
            };
            let properties = properties(Table(headers_of(&letter)), Some("s:1"));
            assert_eq!(read_of(&properties, b"\xff"), letter);
        }
    }

    #[test]
    fn what_the_broker_gave_up_is_of_the_queue_where_it_died_last() {
        let properties = died(
            vec![
                death("ns.processing", "delivery_limit", 1_764_000_000),
                death("ns.processing.delay-5s", "expired", 9),
            ],
            Some("s:1"),
        );
        let letter = read_of(&properties, b"m");
        assert_eq!(letter.source, Source::Stage(Stage::Processing));
        assert_eq!(letter.reason, "delivered more than 1000 times (RabbitMQ: delivery_limit)");
        assert_eq!(letter.at.to_string(), "2025-11-24T16:00:00.000Z");
        let expired = read_of(&died(vec![death("ns.ending", "maxlen", 1)], None), b"m");
        assert_eq!(
            (expired.source, expired.reason.as_str()),
            (Source::Ending, "RabbitMQ took it out of its queue: maxlen")
        );
        let delayed = read_of(&died(vec![death("ns.processing.delay-5s", "expired", 1)], None), b"m");
        assert_eq!(delayed.source, Source::Stage(Stage::Processing));
    }

    #[test]
    fn an_id_is_the_same_for_one_message_and_another_for_every_other() {
        let died_at = |queue, secs, id| read_of(&died(vec![death(queue, "delivery_limit", secs)], id), b"m").id;
        let id = died_at("ns.ending", 5, Some("s:1"));
        assert_eq!(id.as_uuid().get_version_num(), 8);
        // A second copy, made when the broker did not know whether the first arrived.
        assert_eq!(died_at("ns.ending", 6, Some("s:1")), id);
        for other in [
            died_at("ns.ending", 5, Some("s:2")),
            died_at("ns.ending", 5, None),
            died_at("ns.ending", 6, None),
            died_at("ns.processing", 5, Some("s:1")),
            read_of(&died(vec![death("ns.ending", "delivery_limit", 5)], Some("s:1")), b"n").id,
            // What the parts are is part of it: not only their bytes in a row.
            read_of(&died(vec![death("ns.ending", "delivery_limit", 5)], Some("s:")), b"1m").id,
        ] {
            assert_ne!(other, id);
        }
    }

    #[test]
    fn what_a_stranger_wrote_is_read_all_the_same() {
        let mut nonsense = Table::default();
        nonsense.put(ID, "17");
        nonsense.put(SOURCE, "nowhere");
        nonsense.put(AT, FieldValue::l(5));
        nonsense.put(REASON, "ä".repeat(400));
        let letter = read_of(&properties(nonsense, None), b"");
        assert_eq!(letter.source, Source::Stage(Stage::Scheduling));
        assert_eq!((letter.reason, letter.at), ("ä".repeat(250), now()));
        let strange: [FieldValue; 4] = [
            FieldValue::V,
            FieldValue::A(vec![].try_into().unwrap()),
            FieldValue::A(vec![FieldValue::V].try_into().unwrap()),
            death("q", "r", 1),
        ];
        for value in strange {
            let mut headers = Table::default();
            headers.put("x-death", value);
            let letter = read_of(&properties(headers, None), b"");
            assert_eq!(letter.reason, "it was put among the dead letters and does not say why");
        }
        let elsewhere = read_of(&died(vec![death("other.processing", "rejected", u64::MAX)], None), b"");
        assert_eq!((elsewhere.source, elsewhere.at), (OF_NO_SOURCE, now()));
        assert_eq!(read_of(&BasicProperties::default(), b""), read_of(&BasicProperties::default(), b""));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(cut("aä", 2), "a");
        assert_eq!(cut("aä", 3), "aä");
        assert_eq!(cut("", 3), "");
    }
}

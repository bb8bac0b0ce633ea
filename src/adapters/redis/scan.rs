//! Reads the records of all orders in flight, part by part.

use bytes::Bytes;
use fred::types::Value;

use super::calls::number;
use super::record::Record;
use crate::ports::Scan;

/// Keys of one part, about. Each can be as long as an order (256 KiB), so that not more than some tens of MiB come at
/// once if all are that long, which they are not.
const KEYS_PER_SCAN: u64 = 250;

pub(super) fn arguments(namespace: &str, cursor: u64) -> Vec<Value> {
    // As text: a cursor may be larger than the numbers that Redis takes for such.
    vec![Value::from(cursor.to_string()), Value::from(pattern(namespace)), number(KEYS_PER_SCAN)]
}

/// What the keys of all records look like, for `SCAN`.
fn pattern(namespace: &str) -> String {
    let mut pattern = String::with_capacity(namespace.len() + 8);
    for character in namespace.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '^' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern + ":r:*"
}

/// The next cursor, and the orders; `None` if it is no reply of the script.
pub(super) fn read(namespace: &str, reply: Value) -> Option<Scan> {
    let mut values = match reply {
        Value::Array(values) => values.into_iter(),
        _ => return None,
    };
    let next: u64 = values.next()?.into_string()?.parse().ok()?;
    let mut orders = Vec::with_capacity(values.len() / 2);
    while let (Some(key), Some(text)) = (values.next(), values.next()) {
        match text.into_bytes().and_then(read_record) {
            Some(record) => orders.extend(record.into_unmoved()),
            None => {
                let key = key.into_string().unwrap_or_default();
                let order = key.strip_prefix(namespace).and_then(|rest| rest.strip_prefix(":r:"));
                tracing::warn!(order, "a record in Redis cannot be read: passed over");
            }
        }
    }
    Some(Scan { orders, next: (next != 0).then_some(next) })
}

fn read_record(text: Bytes) -> Option<Record> {
    Record::read(&text).ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_no_pattern() {
        assert_eq!(pattern("a-z_0"), "a-z_0:r:*");
        assert_eq!(pattern("a*[b]?^\\"), "a\\*\\[b\\]\\?\\^\\\\:r:*");
    }
}

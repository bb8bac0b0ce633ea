//! Events as they travel between processes: `{"v":1,"events":[["id",sequence,"kind",at,stage,attempt,reason],…]}`.
//!
//! Arrays, not objects: at full load there are many times more events than orders. A stage is its number, from 0 on.

use bytes::Bytes;
use serde::Deserialize;
use uuid::Uuid;

use super::{VERSION, other_version, push_json, without_content};
use crate::domain::{Event, EventKind, OrderId, Stage, Timestamp};
use crate::ports::Unreadable;

type EventJson = (Uuid, u64, String, i64, Option<u8>, Option<u32>, Option<String>);

/// Events as the bytes of one message.
pub fn encode_events(events: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32 + 96 * events.len());
    bytes.extend_from_slice(b"{\"v\":1,\"events\":[");
    for (n, event) in events.iter().enumerate() {
        if n > 0 {
            bytes.push(b',');
        }
        let stage = event.stage.map(Stage::index);
        let Event { order, sequence, kind, at, attempt, reason, stage: _ } = event;
        let json = (order.as_uuid(), sequence, kind.as_str(), at.as_millis(), stage, attempt, reason);
        push_json(&mut bytes, &json);
    }
    bytes.extend_from_slice(b"]}");
    bytes
}

/// The events of a message.
///
/// # Errors
/// [`Unreadable`] with the reason, if they are none of this version. Final.
pub fn decode_events(bytes: &Bytes) -> Result<Vec<Event>, Unreadable> {
    #[derive(Deserialize)]
    struct Message {
        v: u32,
        events: Vec<EventJson>,
    }
    let unreadable = |reason: String| Unreadable { reason, is_newer: false, bytes: bytes.clone() };
    let message: Message = match serde_json::from_slice(bytes) {
        Ok(message) => message,
        Err(error) => return Err(other_version(bytes).unwrap_or_else(|| unreadable(without_content(&error)))),
    };
    if message.v != VERSION {
        return Err(other_version(bytes).unwrap_or_else(|| unreadable("events of another version".into())));
    }
    message.events.into_iter().map(read).collect::<Result<_, _>>().map_err(unreadable)
}

fn read((order, sequence, kind, at, stage, attempt, reason): EventJson) -> Result<Event, String> {
    let stage = match stage {
        None => None,
        Some(number) => {
            Some(*Stage::ALL.get(usize::from(number)).ok_or_else(|| format!("there is no stage {number}"))?)
        }
    };
    Ok(Event {
        order: OrderId::from_uuid(order),
        sequence,
        kind: EventKind::parse(&kind).ok_or_else(|| format!("unknown kind of event `{kind}`"))?,
        at: Timestamp::from_millis(at),
        stage,
        attempt,
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, stage: Option<Stage>, reason: Option<&str>) -> Event {
        Event {
            order: OrderId::from_uuid(Uuid::from_u128(7)),
            sequence: 1_000_003,
            kind,
            at: Timestamp::from_millis(1_764_000_000_007),
            stage,
            attempt: stage.map(|_| 2),
            reason: reason.map(str::to_owned),
        }
    }

    #[test]
    fn events_come_back_as_they_were_sent() {
        let failed = event(EventKind::OrderFailed, Some(Stage::PostProcessing), Some("注文 \"\n"));
        let events = vec![event(EventKind::OrderAccepted, None, None), failed];
        let bytes = Bytes::from(encode_events(&events));
        let first = r#"{"v":1,"events":[["00000000-0000-0000-0000-000000000007",1000003,"order.accepted",1764000000007,null,null,null],"#;
        assert!(bytes.starts_with(first.as_bytes()), "{bytes:?}");
        assert_eq!(decode_events(&bytes).unwrap(), events);
        assert_eq!(decode_events(&encode_events(&[]).into()).unwrap(), []);
    }

    #[test]
    fn what_is_no_list_of_events_is_told_apart_from_what_is_newer() {
        for wrong in ["", "{}", r#"{"v":1}"#, r#"{"v":1,"events":[[]]}"#, r#"{"v":1,"events":[["x"]]}"#] {
            assert!(!decode_events(&Bytes::from_static(wrong.as_bytes())).unwrap_err().is_newer, "{wrong}");
        }
        assert!(decode_events(&Bytes::from_static(br#"{"v":2,"events":{}}"#)).unwrap_err().is_newer);
    }
}

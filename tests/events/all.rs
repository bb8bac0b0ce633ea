//! The stream of all orders.

use serde_json::json;

use crate::sse::{Sent, Sse, ask};
use crate::system::{http, place};
use crate::{Running, SMOOTH, an_order, start, start_in};

async fn placed(running: &Running) -> String {
    place(&http(), &running.system.url, &an_order()).await.unwrap()
}

/// Reads until this order has ended; what was told of it.
async fn until_end_of(stream: &mut Sse, id: &str) -> Vec<Sent> {
    let mut told = Vec::new();
    loop {
        let sent = stream.next().await.expect("the stream goes on");
        if sent.data["order_id"] != *id {
            continue;
        }
        let is_end = sent.kind == "order.completed";
        told.push(sent);
        if is_end {
            return told;
        }
    }
}

#[tokio::test]
async fn a_listener_is_told_of_all_orders_and_goes_on_where_he_was() {
    let running = start(&["api.event_heartbeat=100ms"]);
    let mut stream = Sse::open(&running.url("/v1/events"), None).await;
    stream.beat().await;
    let first = placed(&running).await;
    let told = until_end_of(&mut stream, &first).await;
    let mut kinds: Vec<&str> = told.iter().map(|sent| sent.kind.as_str()).collect();
    let mut expected = SMOOTH;
    // In their order, but for what two threads tell at the same moment: the sequence has it.
    kinds.sort_unstable();
    expected.sort_unstable();
    assert_eq!(kinds, expected);
    // It is the same as in the stream of the order.
    let of_order = Sse::open(&running.url(&format!("/v1/orders/{first}/events")), None).await.rest().await;
    for sent in &told {
        assert!(of_order.iter().any(|other| other.data["id"] == sent.data["id"] && other.kind == sent.kind));
    }

    // Two who come back: one hears the rest, the other one what he asks for.
    let second = placed(&running).await;
    let last = &told.last().unwrap().id;
    let mut again = Sse::open(&running.url("/v1/events"), Some(last)).await;
    let heard = until_end_of(&mut again, &second).await;
    assert_eq!(heard.len(), SMOOTH.len());
    assert_eq!(until_end_of(&mut stream, &second).await, heard);
    let url = running.url("/v1/events?type=order.completed,step.done&stage=pre-processing");
    let mut filtered = Sse::open(&url, Some(last)).await;
    let sent = filtered.next().await.unwrap();
    assert_eq!((sent.kind.as_str(), &sent.data["stage"]), ("step.done", &json!("pre_processing")));
    assert_eq!(sent.data["order_id"], second);
    let third = placed(&running).await;
    assert_eq!(filtered.next().await.unwrap().data["order_id"], third);
}

#[tokio::test]
async fn after_a_restart_a_listener_is_told_of_a_gap() {
    let running = start(&[]);
    let mut stream = Sse::open(&running.url("/v1/events"), None).await;
    let id = placed(&running).await;
    let last = until_end_of(&mut stream, &id).await.pop().unwrap().id;
    let Running { system, folder } = running;
    system.kill();
    assert_eq!(stream.next().await, None);
    let running = start_in(folder, &[]);
    let mut stream = Sse::open(&running.url("/v1/events"), Some(&last)).await;
    let gap = stream.next().await.unwrap();
    assert_eq!((gap.kind.as_str(), gap.data), ("gap", json!({"type": "gap"})));
    let id = placed(&running).await;
    until_end_of(&mut stream, &id).await;
}

#[tokio::test]
async fn what_cannot_be_heard_is_told_so() {
    let running = start(&["events=off"]);
    let off = ask(&running.url("/v1/events"), None).await;
    assert_eq!(off.status(), 404);
    let off: serde_json::Value = off.json().await.unwrap();
    assert_eq!(off["type"], "urn:ordering:problem:events-off");
    assert_eq!(ask(&running.url("/v1/events?type=order.lost"), None).await.status(), 400);
    // An order can be followed all the same.
    let id = placed(&running).await;
    let events = Sse::open(&running.url(&format!("/v1/orders/{id}/events")), None).await.rest().await;
    assert_eq!(events.len(), SMOOTH.len());
}

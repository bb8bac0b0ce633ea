//! The stream of one order.

use serde_json::{Value, json};

use crate::sse::{Sent, Sse, ask};
use crate::system::{ended, http, place};
use crate::{Running, SLOW, SMOOTH, an_order, start};

async fn placed(running: &Running) -> String {
    place(&http(), &running.system.url, &an_order()).await.unwrap()
}

fn kinds(events: &[Sent]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

#[tokio::test]
async fn a_stream_tells_an_order_from_its_acceptance_to_its_end_and_closes() {
    let running = start(&SLOW);
    let id = placed(&running).await;
    let url = running.url(&format!("/v1/orders/{id}/events"));
    let mut stream = Sse::open(&url, None).await;
    let events = stream.rest().await;
    assert_eq!(kinds(&events), SMOOTH);
    assert!(stream.retry.is_some());
    let shown = ended(&http(), &running.system.url, &id).await;
    for event in &events {
        let data = &event.data;
        assert_eq!((&data["order_id"], &data["type"]), (&json!(id), &json!(event.kind)));
        assert_eq!(data["sequence"].to_string(), event.id);
        assert_eq!(data["id"], format!("{id}:{}", event.id));
        let members: Vec<&String> = data.as_object().unwrap().keys().collect();
        assert_eq!(members, ["at", "attempt", "id", "order_id", "reason", "sequence", "stage", "type"]);
    }
    assert!(events.is_sorted_by_key(|event| event.data["sequence"].as_u64().unwrap()));
    assert_eq!((&events[0].data["at"], &events[9].data["at"]), (&shown["placed_at"], &shown["finished_at"]));
    let done = &events[4].data;
    assert_eq!((&done["stage"], &done["attempt"]), (&json!("pre_processing"), &json!(1)));
    assert_eq!(done["at"], shown["steps"][1]["finished_at"]);

    // From the archive it is the same; and who has seen some of it is told the rest.
    assert_eq!(Sse::open(&url, None).await.rest().await, events);
    assert_eq!(Sse::open(&url, Some(&events[6].id)).await.rest().await, events[7..]);
    assert_eq!(Sse::open(&url, Some("from elsewhere")).await.rest().await, events);
    let all_seen = ask(&url, Some(&events[9].id)).await;
    assert_eq!(all_seen.status(), 204);
}

#[tokio::test]
async fn a_failed_order_ends_with_its_reason() {
    let running = start(&["stages.pre-processing.handler=simulated", "stages.pre-processing.failure_rate=1"]);
    let id = placed(&running).await;
    let events = Sse::open(&running.url(&format!("/v1/orders/{id}/events")), None).await.rest().await;
    assert_eq!(kinds(&events)[3..], ["step.started", "order.failed"]);
    let failed = &events[4].data;
    assert_eq!((&failed["stage"], &failed["reason"]), (&json!("pre_processing"), &json!("simulated failure")));
}

#[tokio::test]
async fn a_silent_stream_beats_and_ends_with_the_process() {
    let slow = ["stages.scheduling.handler=simulated", "stages.scheduling.delay=60s", "stop_timeout=1s"];
    let running = start(&[&slow[..], &["api.event_heartbeat=100ms"]].concat());
    let id = placed(&running).await;
    let mut stream = Sse::open(&running.url(&format!("/v1/orders/{id}/events")), None).await;
    assert_eq!(stream.next().await.unwrap().kind, "order.accepted");
    assert_eq!(stream.next().await.unwrap().kind, "step.started");
    stream.beat().await;
    stream.beat().await;
    running.system.signal("TERM");
    assert_eq!(stream.rest().await, []);
    let Running { system, .. } = running;
    assert!(system.ended().success());
}

#[tokio::test]
async fn what_cannot_be_followed_is_told_so() {
    let running = start(&[&SLOW[..], &["api.event_streams_max=1"]].concat());
    let problem = async |path: &str, status: u16, name: &str| {
        let answer = ask(&running.url(path), None).await;
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.headers().contains_key("retry-after"), status == 503);
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["type"], format!("urn:ordering:problem:{name}"));
        let documented = include_str!("../../doc/http-api.md");
        assert!(documented.contains(&format!("| `{name}` | {status} |")), "{name} is not in doc/http-api.md");
    };
    problem("/v1/orders/17/events", 400, "not-an-id").await;
    problem("/v1/orders/0193f0a1-7c3e-7b11-8f00-0123456789ab/events", 404, "no-such-order").await;
    let id = placed(&running).await;
    let path = format!("/v1/orders/{id}/events");
    problem(&format!("{path}?kind=x"), 400, "wrong-parameter").await;
    let mut first = Sse::open(&running.url(&path), None).await;
    problem(&path, 503, "too-many-streams").await;
    // Its place is free again when it has ended.
    first.rest().await;
    assert_eq!(kinds(&Sse::open(&running.url(&path), None).await.rest().await), SMOOTH);
}

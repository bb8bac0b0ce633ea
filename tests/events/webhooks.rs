//! Webhooks: what a receiver is sent, again when it does not take it, and in which order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::service::{Call, Reply, Service};
use crate::system::{all_ended, ended, http, place};
use crate::{Running, SLOW, SMOOTH, an_order, start, start_in};

/// Sends again soon, so that a test does not wait long.
const FAST: [&str; 2] = ["webhooks.retry_base=50ms", "webhooks.retry_cap=200ms"];

const DEADLINE: Duration = Duration::from_secs(60);

async fn ask(url: &str, method: Method, path: &str, body: Option<Value>) -> Response {
    let request = http().request(method, format!("{url}{path}"));
    match body {
        Some(body) => request.json(&body).send().await.unwrap(),
        None => request.send().await.unwrap(),
    }
}

/// Adds a webhook; what was answered.
pub async fn add(url: &str, receiver: &str, events: &[&str]) -> Value {
    let answer = ask(url, Method::POST, "/v1/webhooks", Some(json!({"url": receiver, "events": events}))).await;
    assert_eq!(answer.status(), 201);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(location, format!("/v1/webhooks/{}", body["id"].as_str().unwrap()));
    body
}

/// Workers ask every two seconds what is wanted.
pub async fn until_workers_know() {
    tokio::time::sleep(Duration::from_millis(2_500)).await;
}

async fn placed(running: &Running) -> String {
    place(&http(), &running.system.url, &an_order()).await.unwrap()
}

pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < end, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The events that were sent and taken, by order, each once, in the order in which they came.
pub fn taken(calls: &[Call], is_taken: impl Fn(&Call) -> bool) -> BTreeMap<String, Vec<(u64, String)>> {
    let mut taken: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    for call in calls.iter().filter(|call| is_taken(call)) {
        let order = call.json["order_id"].as_str().unwrap().to_owned();
        let event = (call.json["sequence"].as_u64().unwrap(), call.json["type"].as_str().unwrap().to_owned());
        let events = taken.entry(order).or_default();
        if !events.contains(&event) {
            events.push(event);
        }
    }
    taken
}

/// The order's events as its stream has them.
pub fn kinds(events: &[(u64, String)]) -> Vec<&str> {
    events.iter().map(|(_, kind)| kind.as_str()).collect()
}

/// Panics unless the call is signed with `secret`, as the specification says.
pub fn assert_signed(call: &Call, secret: &str) {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use hmac::{Hmac, KeyInit, Mac};
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    assert_eq!(key.len(), 32);
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(
        format!("{}.{}.{}", call.headers["webhook-id"], call.headers["webhook-timestamp"], call.body).as_bytes(),
    );
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(call.headers["webhook-signature"], expected);
    let secs: u64 = call.headers["webhook-timestamp"].parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(secs) < 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_is_sent_everything_signed_once_and_in_order() {
    let running = start(&FAST);
    let receiver = Service::start(|_| Reply::status(204)).await;
    let webhook = add(&running.system.url, &receiver.url, &crate::ALL_KINDS).await;
    until_workers_know().await;
    let id = placed(&running).await;
    until("all is sent", async || receiver.calls().len() >= SMOOTH.len()).await;
    let calls = receiver.calls();
    let events = taken(&calls, |_| true).remove(&id).unwrap();
    assert_eq!(kinds(&events), SMOOTH);
    assert_eq!(calls.len(), SMOOTH.len());
    for call in &calls {
        assert_signed(call, webhook["secret"].as_str().unwrap());
        assert_eq!(call.headers["content-type"], "application/json");
        assert_eq!(call.headers["webhook-id"], call.json["id"]);
        assert!(!call.body.contains("customer"), "an order's content: {}", call.body);
    }
    // It is what the order's stream tells.
    let stream = crate::sse::Sse::open(&running.url(&format!("/v1/orders/{id}/events")), None).await.rest().await;
    let streamed: Vec<Value> = stream.into_iter().map(|sent| sent.data).collect();
    assert_eq!(calls.iter().map(|call| call.json.clone()).collect::<Vec<_>>(), streamed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_is_sent_again_and_nothing_of_its_order_overtakes_it() {
    let running = start(&FAST);
    let failures = Arc::new(AtomicU16::new(0));
    let counted = failures.clone();
    // Every third call fails, however it can.
    let is_taken = |n: u16| !n.is_multiple_of(3);
    let receiver = Service::start(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        n if is_taken(n) => Reply::status(200),
        n if n.is_multiple_of(2) => Reply::status(500),
        _ => Reply::Reset(Vec::new()),
    })
    .await;
    add(&running.system.url, &receiver.url, &crate::ALL_KINDS).await;
    until_workers_know().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(placed(&running).await);
    }
    let is_pending = async || {
        let list: Value = ask(&running.system.url, Method::GET, "/v1/webhooks", None).await.json().await.unwrap();
        assert_eq!(list["webhooks"][0]["given_up"], 0);
        list["webhooks"][0]["pending"].as_u64().unwrap() > 0
    };
    all_ended(&running.system.url, &ids).await;
    until("all is taken", async || !is_pending().await).await;
    let taken = taken(&receiver.calls(), |_| true);
    for id in &ids {
        // In the order in which each came for the first time.
        assert_eq!(kinds(&taken[id]), SMOOTH);
    }
    assert!(usize::from(failures.load(Ordering::SeqCst)) > 5 * SMOOTH.len());
    let metrics = ask(&running.system.url, Method::GET, "/metrics", None).await.text().await.unwrap();
    for line in [
        "ordering_webhook_events_sent_total{result=\"delivered\"} 50",
        "ordering_webhook_events_sent_total{result=\"failed\"}",
    ] {
        assert!(metrics.lines().any(|written| written.starts_with(line)), "{line} in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_receiver_slows_neither_orders_nor_others_and_is_given_up() {
    let settings = [&FAST[..], &["webhooks.timeout=300ms", "webhooks.give_up_after=1s"]].concat();
    let running = start(&settings);
    let dead = Service::start(|_| Reply::Hang(Vec::new())).await;
    let good = Service::start(|_| Reply::status(200)).await;
    add(&running.system.url, &dead.url, &["order.completed"]).await;
    add(&running.system.url, &good.url, &["order.completed"]).await;
    until_workers_know().await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(placed(&running).await);
    }
    all_ended(&running.system.url, &ids).await;
    until("the good one has all", async || taken(&good.calls(), |_| true).len() == 40).await;
    let list =
        async || -> Value { ask(&running.system.url, Method::GET, "/v1/webhooks", None).await.json().await.unwrap() };
    until("the dead one is given up", async || list().await["webhooks"][0]["given_up"] == 40).await;
    let list = list().await;
    assert_eq!((&list["webhooks"][0]["pending"], &list["webhooks"][1]["pending"]), (&json!(0), &json!(0)));
    assert_eq!(list["webhooks"][1]["given_up"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_to_be_sent_survives_a_kill() {
    let settings = [&FAST[..], &SLOW[..]].concat();
    let mut running = start(&settings);
    let status = Arc::new(AtomicU16::new(500));
    let answered = status.clone();
    let receiver = Service::start(move |_| Reply::status(answered.load(Ordering::SeqCst))).await;
    let webhook = add(&running.system.url, &receiver.url, &crate::ALL_KINDS).await;
    until_workers_know().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        for _ in 0..5 {
            ids.push(placed(&running).await);
        }
        let Running { system, folder } = running;
        system.kill();
        running = start_in(folder, &settings);
    }
    all_ended(&running.system.url, &ids).await;
    let before = receiver.calls().len();
    status.store(200, Ordering::SeqCst);
    let complete = |taken: &BTreeMap<String, Vec<(u64, String)>>| {
        ids.iter().all(|id| taken.get(id).is_some_and(|events| events.len() == SMOOTH.len()))
    };
    let calls = || receiver.calls()[before..].to_vec();
    until("all is sent", async || complete(&taken(&calls(), |_| true))).await;
    for (_, events) in taken(&calls(), |_| true) {
        assert_eq!(kinds(&events), SMOOTH);
    }
    receiver.calls().iter().for_each(|call| assert_signed(call, webhook["secret"].as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_webhook_was_to_be_told_goes_with_it() {
    let running = start(&[]);
    let receiver = Service::start(|_| Reply::status(500)).await;
    let webhook = add(&running.system.url, &receiver.url, &["order.completed"]).await;
    until_workers_know().await;
    placed(&running).await;
    let database = rusqlite::Connection::open(running.folder.path().join("ordering.db")).unwrap();
    let kept =
        || -> i64 { database.query_row("SELECT count(*) FROM webhook_deliveries", [], |row| row.get(0)).unwrap() };
    until("it is kept", async || kept() == 1).await;
    let path = format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap());
    assert_eq!(ask(&running.system.url, Method::DELETE, &path, None).await.status(), 200);
    until("it is gone", async || kept() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_added_listed_tested_and_removed() {
    let running = start(&FAST);
    let url = &running.system.url;
    let receiver = Service::start(|call| match call.json["type"].as_str() {
        Some("webhook.test") => Reply::status(202),
        _ => Reply::status(418),
    })
    .await;
    let added = add(url, &receiver.url, &["order.failed", "order.completed"]).await;
    let id = added["id"].as_str().unwrap();
    let members: Vec<&String> = added.as_object().unwrap().keys().collect();
    assert_eq!(members, ["created_at", "description", "events", "id", "secret", "url"]);
    assert_eq!(added["events"], json!(["order.completed", "order.failed"]));
    let list: Value = ask(url, Method::GET, "/v1/webhooks", None).await.json().await.unwrap();
    let listed = &list["webhooks"][0];
    assert_eq!((&listed["id"], &listed["url"], &listed["pending"]), (&added["id"], &added["url"], &json!(0)));
    assert!(!list.to_string().contains(added["secret"].as_str().unwrap()));

    let test: Value = ask(url, Method::POST, &format!("/v1/webhooks/{id}/test"), None).await.json().await.unwrap();
    assert_eq!(test, json!({"delivered": true, "status": 202, "reason": null}));
    let call = &receiver.calls()[0];
    assert_eq!((&call.json["type"], &call.json["order_id"]), (&json!("webhook.test"), &Value::Null));
    assert_signed(call, added["secret"].as_str().unwrap());
    let nobody = add(url, "http://127.0.0.1:9/", &["order.failed"]).await;
    let path = format!("/v1/webhooks/{}/test", nobody["id"].as_str().unwrap());
    let test: Value = ask(url, Method::POST, &path, None).await.json().await.unwrap();
    assert_eq!((&test["delivered"], &test["status"]), (&json!(false), &Value::Null));
    assert!(test["reason"].as_str().unwrap().starts_with("cannot connect"), "{test}");

    // Who is removed is told nothing more.
    until_workers_know().await;
    let order = placed(&running).await;
    ended(&http(), url, &order).await;
    until("it was sent", async || receiver.calls().len() > 1).await;
    let removed: Value = ask(url, Method::DELETE, &format!("/v1/webhooks/{id}"), None).await.json().await.unwrap();
    assert_eq!(removed, json!({"removed": 1}));
    until("nothing is sent any more", async || {
        let before = receiver.calls().len();
        tokio::time::sleep(Duration::from_secs(2)).await;
        receiver.calls().len() == before
    })
    .await;
    let problem = async |method: Method, path: &str, body: Option<Value>, status: u16, name: &str| {
        let answer = ask(url, method, path, body).await;
        assert_eq!(answer.status(), status, "{path}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["type"], format!("urn:ordering:problem:{name}"));
        let documented = include_str!("../../doc/http-api.md");
        assert!(documented.contains(&format!("| `{name}` | {status} |")), "{name} is not in doc/http-api.md");
        body
    };
    problem(Method::DELETE, &format!("/v1/webhooks/{id}"), None, 404, "no-such-webhook").await;
    problem(Method::POST, &format!("/v1/webhooks/{id}/test"), None, 404, "no-such-webhook").await;
    problem(Method::DELETE, "/v1/webhooks/17", None, 400, "not-an-id").await;
    problem(Method::PUT, "/v1/webhooks", None, 405, "method-not-allowed").await;
    let wish = json!({"url": "mailto:a@b", "events": ["order.lost"]});
    let wrong = problem(Method::POST, "/v1/webhooks", Some(wish), 422, "invalid-webhook").await;
    assert_eq!(wrong["errors"][1]["pointer"], "/events/0");
    for _ in 1..100 {
        add(url, &receiver.url, &["order.failed"]).await;
    }
    let wish = json!({"url": receiver.url, "events": ["order.failed"]});
    problem(Method::POST, "/v1/webhooks", Some(wish), 409, "too-many-webhooks").await;
}

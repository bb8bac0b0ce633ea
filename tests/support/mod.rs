//! What tests of several files make: orders, outcomes, namespaces, and the addresses of servers.

#![allow(dead_code, reason = "every test program takes what it needs")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ordering::domain::{Decision, Delay, End, Order, OrderId, OrderRecord, RecordedOutcome, Report, Stage, Timestamp};
use ordering::ports::{Clock, SystemClock};
use uuid::Uuid;

/// How long a test waits for something that must happen.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A name nobody else uses, valid as a schema, a prefix of keys and a prefix of queues.
pub fn namespace() -> String {
    format!("test_{}", Uuid::now_v7().simple())
}

/// The address in the environment variable `name`. Without one there is nothing to test against: `None`, or a panic
/// where the environment promises servers.
pub fn server_url(name: &str) -> Option<String> {
    if let Ok(url) = std::env::var(name) {
        return Some(url);
    }
    assert!(
        std::env::var_os("ORDERING_TEST_SERVERS").is_none_or(|value| value != "1"),
        "ORDERING_TEST_SERVERS is 1, but {name} is not set"
    );
    eprintln!("skipped: no servers ({name} is not set)");
    None
}

/// Waits until `holds` does.
pub async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not in {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A port of this machine on which nobody listens.
pub fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Orders that were just accepted, each with a content of its own.
pub fn orders(n: usize) -> Vec<OrderRecord> {
    (0..n).map(|n| accepted(&format!("{{\"n\":{n},\"note\":\"{n} × ½ kg\"}}"))).collect()
}

/// One order that was just accepted.
pub fn order() -> OrderRecord {
    accepted("null")
}

/// An order with this metadata that was just accepted.
pub fn accepted(metadata: &str) -> OrderRecord {
    let json = format!(
        r#"{{"customer_id":"Kund*in \"№ 5\" \\ 注文 🦀","reference":"ре́ф/{{}}%_'","currency":"EUR",
            "items":[{{"sku":"85123A","description":"","quantity":6,"unit_price":"2.55"}},
                     {{"sku":"\u0001\u2028'; --","quantity":1,"unit_price":"0.1000"}}],
            "metadata":{metadata}}}"#
    );
    let order = Order::from_json(json.as_bytes()).unwrap();
    OrderRecord::new(OrderId::from_uuid(Uuid::now_v7()), now(), order)
}

pub fn now() -> Timestamp {
    SystemClock.now()
}

pub fn worker(name: &str) -> Arc<str> {
    Arc::from(name)
}

/// An outcome that `worker` came to, entered now and finished 7 ms later.
pub fn outcome_of(worker: &str, decision: Decision) -> RecordedOutcome {
    let entered_at = now();
    RecordedOutcome {
        entered_at,
        finished_at: entered_at.after(Duration::from_millis(7)),
        worker: Arc::from(worker),
        decision,
        report: Report::default(),
    }
}

/// What follows when `stage` is done.
pub fn done(stage: Stage) -> RecordedOutcome {
    let decision = stage.next().map_or(Decision::End(End::Completed), Decision::Advance);
    outcome_of("worker-1", decision)
}

pub fn retry(reason: &str) -> RecordedOutcome {
    let delay = Delay::at_least(Duration::from_secs(2));
    let reason = reason.to_owned();
    outcome_of("worker-1", Decision::Retry { reason, delay, counts: true })
}

pub fn failure(reason: &str) -> RecordedOutcome {
    let reason = reason.to_owned();
    outcome_of("worker-1", Decision::End(End::Failed { reason }))
}

/// `order` after `stages` were done.
pub fn after(order: &OrderRecord, stages: &[Stage]) -> OrderRecord {
    let mut order = order.clone();
    for stage in stages {
        order.history.record(*stage, &done(*stage));
    }
    order
}

/// `order` after all stages.
pub fn completed(order: &OrderRecord) -> OrderRecord {
    after(order, &Stage::ALL)
}

/// `order` after it was rejected at the first stage.
pub fn failed(order: &OrderRecord, reason: &str) -> OrderRecord {
    let mut order = order.clone();
    order.history.record(Stage::FIRST, &failure(reason));
    order
}

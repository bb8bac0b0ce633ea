//! Orders, folders and looks into the file.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ordering::adapters::embedded::{Embedded, EmbeddedOptions, OpenError};
use ordering::domain::{Decision, End, Order, OrderId, OrderRecord, RecordedOutcome, Report, Stage, Timestamp};
use ordering::ports::{Delivery, Queues, Source, Subscription};
use tempfile::TempDir;
use uuid::Uuid;

pub const DEADLINE: Duration = Duration::from_secs(20);
pub const FIRST: Source = Source::Stage(Stage::Scheduling);

pub fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub fn open(folder: &TempDir) -> Embedded {
    Embedded::open(EmbeddedOptions::new(folder.path())).unwrap()
}

/// Opens a folder whose owner was just dropped: its tasks and its thread end in their own time.
pub async fn open_again(folder: &TempDir) -> Embedded {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match Embedded::open(EmbeddedOptions::new(folder.path())) {
            Ok(embedded) => return embedded,
            Err(OpenError::InUse { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn order(n: u128) -> OrderRecord {
    sized_order(n, 0)
}

pub fn sized_order(n: u128, padding: usize) -> OrderRecord {
    let json = format!(
        r#"{{"customer_id":"c{n}","reference":null,"currency":"EUR","items":[{{"sku":"s","description":"{}","quantity":1,"unit_price":"1.50"}}],"metadata":null}}"#,
        "x".repeat(padding)
    );
    let order = Order::from_parts(Bytes::from(json), "1.50".into());
    OrderRecord::new(OrderId::from_uuid(Uuid::from_u128(n)), Timestamp::from_millis(1_764_000_000_000), order)
}

pub fn outcome(decision: Decision) -> RecordedOutcome {
    RecordedOutcome {
        entered_at: Timestamp::from_millis(1_764_000_000_001),
        finished_at: Timestamp::from_millis(1_764_000_000_002),
        worker: "w".into(),
        decision,
        report: Report::default(),
    }
}

pub fn ended(mut order: OrderRecord) -> OrderRecord {
    let failed = Decision::End(End::Failed { reason: "no stock".into() });
    order.history.record(Stage::Scheduling, &outcome(failed));
    order
}

pub async fn next(subscription: &mut Subscription) -> Delivery {
    tokio::time::timeout(DEADLINE, subscription.deliveries.recv())
        .await
        .expect("a delivery in time")
        .expect("deliveries go on")
}

pub fn ids(delivery: &Delivery) -> Vec<u128> {
    let orders = delivery.contents.as_ref().unwrap();
    orders.iter().map(|o| o.id.as_uuid().as_u128()).collect()
}

/// All messages that are in `source` now, each with one order: its number. Leaves them there.
pub async fn waiting_in(embedded: &Embedded, source: Source, expected: usize) -> Vec<u128> {
    let mut subscription = embedded.queues().subscribe(source, 10_000);
    let mut found = Vec::new();
    while found.len() < expected {
        found.extend(ids(&next(&mut subscription).await));
    }
    let more = tokio::time::timeout(Duration::from_millis(100), subscription.deliveries.recv()).await;
    if let Ok(Some(more)) = more {
        panic!("one message more: {more:?}");
    }
    found
}

/// A second process beside the one that has the database open.
pub fn shell(folder: &TempDir) -> rusqlite::Connection {
    rusqlite::Connection::open(folder.path().join("ordering.db")).unwrap()
}

/// How many rows `table` has.
pub fn count(folder: &TempDir, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    shell(folder).query_row(&sql, [], |row| row.get(0)).unwrap()
}

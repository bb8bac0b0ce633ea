//! What becomes of in-flight records whose orders have ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ordering::adapters::embedded::{Embedded, EmbeddedOptions};
use ordering::domain::{Decision, OrderRecord, Stage, Timestamp};
use ordering::ports::{Archive, Begun, InFlight};

use crate::support::*;

#[tokio::test]
async fn ended_records_go_when_their_time_is_over_and_the_shell_can_watch() {
    let folder = folder();
    let embedded = Embedded::open(EmbeddedOptions {
        ended_ttl: Duration::from_millis(300),
        ..EmbeddedOptions::new(folder.path())
    })
    .unwrap();
    let (in_flight, archive) = (embedded.in_flight(), embedded.archive());
    let orders: Vec<_> = (0..5_000).map(order).collect();
    let ends: Vec<_> = orders.iter().cloned().map(ended).collect();
    in_flight.put(&orders).await.unwrap();
    archive.archive(&ends[..4_000]).await.unwrap();
    in_flight.end(&ends).await.unwrap();
    assert_eq!(in_flight.find(ends[0].id).await.unwrap().as_ref(), Some(&ends[0]));
    assert_eq!(in_flight.find(ends[4_999].id).await.unwrap().as_ref(), Some(&ends[4_999]));
    let deadline = Instant::now() + DEADLINE;
    while count(&folder, "in_flight") + count(&folder, "in_flight_content") > 0 {
        assert!(Instant::now() < deadline, "records go");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(in_flight.find(ends[0].id).await.unwrap(), None);
    assert_eq!(count(&folder, "archive"), 4_000);
    embedded.close().await;
}

#[tokio::test]
async fn a_failed_order_tried_again_begins_over_its_ended_record() {
    let folder = folder();
    let embedded = open(&folder);
    let (in_flight, archive) = (embedded.in_flight(), embedded.archive());
    let first = order(1);
    in_flight.put(std::slice::from_ref(&first)).await.unwrap();
    let end = ended(first.clone());
    archive.archive(std::slice::from_ref(&end)).await.unwrap();
    in_flight.end(std::slice::from_ref(&end)).await.unwrap();
    let again = OrderRecord { passage: 2, ..first.clone() };
    let worker: Arc<str> = "w".into();
    let at = Timestamp::from_millis(1_764_000_000_009);
    let begin = |order: OrderRecord| {
        let (in_flight, worker) = (in_flight.clone(), worker.clone());
        async move { in_flight.begin(Stage::Scheduling, &worker, at, &[order]).await.unwrap() }
    };
    assert_eq!(begin(first.clone()).await, [Begun::Passed]);
    assert_eq!(begin(again.clone()).await, [Begun::Fresh { deliveries: 1 }]);
    assert_eq!(begin(again.clone()).await, [Begun::Fresh { deliveries: 2 }]);
    let found = in_flight.find(first.id).await.unwrap().unwrap();
    assert_eq!((found.passage, &found.order), (2, &first.order));
    // A late duplicate of the first passage changes nothing.
    in_flight.end(std::slice::from_ref(&end)).await.unwrap();
    in_flight.put(&[first]).await.unwrap();
    assert_eq!(in_flight.find(found.id).await.unwrap(), Some(found));
    embedded.close().await;
}

#[tokio::test]
async fn a_scan_comes_upon_an_order_whose_record_is_replaced_when_all_before_it_have_ended() {
    let folder = folder();
    let embedded = Embedded::open(EmbeddedOptions::new(folder.path())).unwrap();
    let (in_flight, archive) = (embedded.in_flight(), embedded.archive());
    let mut moves = order(1_000);
    let go: Vec<OrderRecord> = (0..256).map(order).collect();
    in_flight.put(&go).await.unwrap();
    in_flight.put(std::slice::from_ref(&moves)).await.unwrap();
    let part = in_flight.scan(0).await.unwrap();
    assert_eq!(part.orders.len(), 256);

    let go: Vec<OrderRecord> = go.into_iter().map(ended).collect();
    archive.archive(&go).await.unwrap();
    in_flight.end(&go).await.unwrap();
    moves.history.record(Stage::Scheduling, &outcome(Decision::Advance(Stage::PreProcessing)));
    in_flight.put(std::slice::from_ref(&moves)).await.unwrap();
    let part = in_flight.scan(part.next.expect("another part")).await.unwrap();
    assert_eq!(part.orders.into_iter().map(|unmoved| unmoved.order).collect::<Vec<_>>(), [moves]);
    assert_eq!(part.next, None);
    embedded.close().await;
}

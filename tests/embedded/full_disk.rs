//! No space left: nothing is half done, and it passes.

use std::time::Instant;

use ordering::domain::Stage;
use ordering::ports::{Archive, Archived, InFlight, Place, PublishError, Queues};

use crate::support::*;

#[tokio::test]
async fn a_full_disk_undoes_what_does_not_fit_and_passes() {
    let folder = folder();
    let embedded = open(&folder);
    let queues = embedded.queues();
    embedded.limit_size(Some(2 << 20)).await.unwrap();
    let place = Place::Stage(Stage::Scheduling);
    let mut kept = Vec::new();
    let mut refused = Vec::new();
    for n in 0..100 {
        match queues.publish(place, &[sized_order(n, 100_000)]).await {
            Ok(()) => kept.push(n),
            Err(PublishError::NotTaken(error)) => {
                assert_eq!(error.part, "SQLite");
                assert!(error.reason.contains("full"), "{}", error.reason);
                refused.push(n);
            }
            Err(unknown) => panic!("{unknown}"),
        }
    }
    assert!(kept.len() > 10 && refused.len() > 50, "{kept:?} {refused:?}");
    // To the brim.
    while queues.publish(place, &[sized_order(100, 5_000)]).await.is_ok() {
        kept.push(100);
    }
    queues.check().await.unwrap_err();
    // A batch that does not fit leaves nothing, and takes nobody with it.
    let large: Vec<_> = (1_000..1_100).map(|n| ended(sized_order(n, 10_000))).collect();
    let small = [order(500)];
    let (in_flight, archive) = (embedded.in_flight(), embedded.archive());
    let (large_kept, small_kept) = tokio::join!(archive.archive(&large), in_flight.put(&small));
    assert_eq!(large_kept.unwrap_err().part, "SQLite");
    drop(small_kept); // it may fit in what is left of a page, or not
    let ids: Vec<_> = large.iter().map(|order| order.id).collect();
    assert!(archive.ended_passages(&ids).await.unwrap().iter().all(Option::is_none));

    embedded.limit_size(None).await.unwrap();
    queues.check().await.unwrap();
    assert_eq!(archive.archive(&large).await.unwrap(), [Archived::Now; 100]);
    assert_eq!(waiting_in(&embedded, FIRST, kept.len()).await, kept);
    embedded.close().await;
}

#[tokio::test]
async fn a_database_at_its_bound_empties_again_by_working_off_what_is_queued() {
    let folder = folder();
    let embedded = open(&folder);
    let queues = embedded.queues();
    embedded.limit_size(Some(2 << 20)).await.unwrap();
    let place = Place::Stage(Stage::Scheduling);
    while queues.publish(place, &[sized_order(1, 100_000)]).await.is_ok() {}
    let mut subscription = queues.subscribe(FIRST, 2);
    let delivery = next(&mut subscription).await;
    subscription.settle.ack(delivery.receipt);
    let deadline = Instant::now() + DEADLINE;
    while queues.publish(place, &[sized_order(2, 90_000)]).await.is_err() {
        assert!(Instant::now() < deadline, "there is room again");
        tokio::task::yield_now().await;
    }
    embedded.close().await;
}

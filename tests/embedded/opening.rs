//! Opening and closing: what is kept, and what is refused.

use bytes::Bytes;
use ordering::adapters::embedded::{Embedded, EmbeddedOptions, OpenError};
use ordering::domain::{Stage, Timestamp};
use ordering::ports::{Archive, DeadLetter, DeadLetterId, InFlight, Place, PublishError, Queues};

use crate::support::*;

#[tokio::test]
async fn what_was_confirmed_is_there_after_a_drop_without_close() {
    let folder = folder();
    let embedded = open(&folder);
    let queues = embedded.queues();
    for n in 0..10 {
        let place = Place::Stage(Stage::Scheduling);
        queues.publish(place, &[order(n)]).await.unwrap();
    }
    embedded.in_flight().put(&[order(1)]).await.unwrap();
    embedded.archive().archive(&[ended(order(2))]).await.unwrap();
    let mut subscription = queues.subscribe(FIRST, 3);
    let first = next(&mut subscription).await;
    assert_eq!(ids(&first), [0]);
    subscription.settle.ack(first.receipt);
    queues.close().await;
    assert_eq!(count(&folder, "messages"), 9);
    drop((subscription, queues, embedded));

    let embedded = open_again(&folder).await;
    assert_eq!(waiting_in(&embedded, FIRST, 9).await, (1..10).collect::<Vec<_>>());
    let id = order(1).id;
    assert_eq!(embedded.in_flight().find(id).await.unwrap(), Some(order(1)));
    let id = order(2).id;
    assert_eq!(embedded.archive().find(id).await.unwrap(), Some(ended(order(2))));
    embedded.close().await;
}

#[tokio::test]
async fn a_closed_database_is_one_file_and_refuses_everything() {
    let folder = folder();
    let embedded = open(&folder);
    let queues = embedded.queues();
    let place = Place::Stage(Stage::Scheduling);
    queues.publish(place, &[order(1)]).await.unwrap();
    let mut subscription = queues.subscribe(FIRST, 3);
    next(&mut subscription).await;
    embedded.close().await;
    embedded.close().await;
    assert!(subscription.deliveries.recv().await.is_none());
    let log = folder.path().join("ordering.db-wal").metadata();
    assert!(log.is_err() || log.unwrap().len() == 0);
    let refused = queues.publish(place, &[order(2)]).await.unwrap_err();
    assert!(matches!(refused, PublishError::NotTaken(_)), "{refused}");
    let letter = DeadLetter {
        id: DeadLetterId::new(Timestamp::from_millis(0), [1; 10]),
        source: FIRST,
        reason: "r".into(),
        at: Timestamp::from_millis(0),
        bytes: Bytes::new(),
    };
    queues.bury(&letter).await.unwrap_err();
    queues.check().await.unwrap_err();
    embedded.in_flight().check().await.unwrap_err();
    embedded.in_flight().put(&[order(1)]).await.unwrap_err();
    embedded.in_flight().find(order(1).id).await.unwrap_err();
    embedded.archive().ended_passages(&[order(1).id]).await.unwrap_err();
    // Nothing is held by what is left.
    open(&folder).close().await;
}

#[tokio::test]
async fn a_second_process_is_told_who_was_first() {
    let folder = folder();
    let embedded = open(&folder);
    let error = Embedded::open(EmbeddedOptions::new(folder.path())).err().unwrap();
    let pid = std::process::id();
    assert!(error.to_string().contains(&format!("pid {pid}")), "{error}");
    embedded.close().await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = folder();
    let file = folder.path().join("ordering.db");
    std::fs::write(&file, "something else entirely, and more of it".repeat(100)).unwrap();
    let error = Embedded::open(EmbeddedOptions::new(folder.path())).err().unwrap();
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    assert!(std::fs::read(&file).unwrap().starts_with(b"something"));
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_left_alone() {
    let folder = folder();
    let file = folder.path().join("ordering.db");
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE messages (id)").unwrap();
    drop(other);
    let before = std::fs::read(&file).unwrap();
    let error = Embedded::open(EmbeddedOptions::new(folder.path())).err().unwrap();
    assert!(matches!(error, OpenError::NotOurs { .. }), "{error:?}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_refused() {
    let folder = folder();
    open(&folder).close().await;
    let newer = shell(&folder);
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let error = Embedded::open(EmbeddedOptions::new(folder.path())).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error:?}");
}

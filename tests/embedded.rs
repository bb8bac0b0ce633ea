//! What only the embedded back end promises: one file that survives anything, and says what is wrong with it. What it
//! shares with the other back end is tested by the contract suite.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ordering::adapters::embedded::{Embedded, EmbeddedOptions, OpenError};
use ordering::domain::{
    Decision, Delay, End, Order, OrderId, OrderRecord, RecordedOutcome, Stage, Timestamp,
};
use ordering::ports::{
    Archive, Archived, Begun, Clock, DeadLetter, Delivery, InFlight, Place, PublishError, Queues,
    Source, Subscription, SystemClock,
};
use tempfile::TempDir;
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(20);
const FIRST: Source = Source::Stage(Stage::Scheduling);

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(folder: &TempDir) -> Embedded {
    Embedded::open(EmbeddedOptions::new(folder.path())).unwrap()
}

/// Opens a folder whose owner was just dropped: its tasks and its thread end in their own time.
async fn open_again(folder: &TempDir) -> Embedded {
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

fn order(n: u128) -> OrderRecord {
    sized_order(n, 0)
}

fn sized_order(n: u128, padding: usize) -> OrderRecord {
    let json = format!(
        r#"{{"customer_id":"c{n}","reference":null,"currency":"EUR","items":[{{"sku":"s","description":"{}","quantity":1,"unit_price":"1.50"}}],"metadata":null}}"#,
        "x".repeat(padding)
    );
    let order = Order::from_parts(Bytes::from(json), "1.50".into());
    OrderRecord::new(
        OrderId::from_uuid(Uuid::from_u128(n)),
        Timestamp::from_millis(1_764_000_000_000),
        order,
    )
}

fn outcome(decision: Decision) -> RecordedOutcome {
    RecordedOutcome {
        entered_at: Timestamp::from_millis(1_764_000_000_001),
        finished_at: Timestamp::from_millis(1_764_000_000_002),
        worker: "w".into(),
        decision,
    }
}

fn ended(mut order: OrderRecord) -> OrderRecord {
    let failed = Decision::End(End::Failed {
        reason: "no stock".into(),
    });
    order.history.record(Stage::Scheduling, &outcome(failed));
    order
}

async fn next(subscription: &mut Subscription) -> Delivery {
    tokio::time::timeout(DEADLINE, subscription.deliveries.recv())
        .await
        .expect("a delivery in time")
        .expect("deliveries go on")
}

fn ids(delivery: &Delivery) -> Vec<u128> {
    let orders = delivery.contents.as_ref().unwrap();
    orders.iter().map(|o| o.id.as_uuid().as_u128()).collect()
}

/// All messages that are in `source` now, each with one order: its number. Leaves them there.
async fn waiting_in(embedded: &Embedded, source: Source, expected: usize) -> Vec<u128> {
    let mut subscription = embedded.queues().subscribe(source, 10_000);
    let mut found = Vec::new();
    while found.len() < expected {
        found.extend(ids(&next(&mut subscription).await));
    }
    let more =
        tokio::time::timeout(Duration::from_millis(100), subscription.deliveries.recv()).await;
    if let Ok(Some(more)) = more {
        panic!("one message more: {more:?}");
    }
    found
}

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
    embedded
        .archive()
        .archive(&[ended(order(2))])
        .await
        .unwrap();
    let mut subscription = queues.subscribe(FIRST, 3);
    let first = next(&mut subscription).await;
    assert_eq!(ids(&first), [0]);
    subscription.settle.ack(first.receipt);
    queues.close().await;
    drop((subscription, queues, embedded));

    let embedded = open_again(&folder).await;
    assert_eq!(
        waiting_in(&embedded, FIRST, 9).await,
        (1..10).collect::<Vec<_>>()
    );
    let id = order(1).id;
    assert_eq!(embedded.in_flight().find(id).await.unwrap(), Some(order(1)));
    let id = order(2).id;
    assert_eq!(
        embedded.archive().find(id).await.unwrap(),
        Some(ended(order(2)))
    );
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
    embedded
        .archive()
        .contains(&[order(1).id])
        .await
        .unwrap_err();
    // Nothing is held by what is left.
    open(&folder).close().await;
}

#[tokio::test]
async fn a_second_process_is_told_who_was_first() {
    let folder = folder();
    let embedded = open(&folder);
    let error = Embedded::open(EmbeddedOptions::new(folder.path()))
        .err()
        .unwrap();
    let pid = std::process::id();
    assert!(error.to_string().contains(&format!("pid {pid}")), "{error}");
    embedded.close().await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = folder();
    let file = folder.path().join("ordering.db");
    std::fs::write(&file, "something else entirely, and more of it".repeat(100)).unwrap();
    let error = Embedded::open(EmbeddedOptions::new(folder.path()))
        .err()
        .unwrap();
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");
    assert!(
        error.to_string().contains(file.to_str().unwrap()),
        "{error}"
    );
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
    let error = Embedded::open(EmbeddedOptions::new(folder.path()))
        .err()
        .unwrap();
    assert!(matches!(error, OpenError::NotOurs { .. }), "{error:?}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_refused() {
    let folder = folder();
    open(&folder).close().await;
    let newer = rusqlite::Connection::open(folder.path().join("ordering.db")).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let error = Embedded::open(EmbeddedOptions::new(folder.path()))
        .err()
        .unwrap();
    assert!(
        matches!(error, OpenError::Newer { found: 99, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_delayed_message_waits_its_time_over_a_restart() {
    let folder = folder();
    let embedded = open(&folder);
    let delay = Delay::at_least(Duration::from_secs(1));
    let published = Instant::now();
    let place = Place::Delayed(Stage::Processing, delay);
    embedded.queues().publish(place, &[order(1)]).await.unwrap();
    embedded.close().await;
    drop(embedded);

    let embedded = open(&folder);
    let source = Source::Stage(Stage::Processing);
    let mut subscription = embedded.queues().subscribe(source, 1);
    let delivery = next(&mut subscription).await;
    assert_eq!(ids(&delivery), [1]);
    assert!(published.elapsed() >= Duration::from_millis(990));
    embedded.close().await;
}

#[tokio::test]
async fn bytes_that_somebody_edited_are_delivered_as_unreadable() {
    let folder = folder();
    let embedded = open(&folder);
    let queues = embedded.queues();
    let place = Place::Stage(Stage::Scheduling);
    queues.publish(place, &[order(1)]).await.unwrap();
    queues.publish(place, &[order(2)]).await.unwrap();
    let shell = rusqlite::Connection::open(folder.path().join("ordering.db")).unwrap();
    shell
        .execute("UPDATE messages SET body = x'00ff' WHERE id = 1", [])
        .unwrap();
    let mut subscription = queues.subscribe(FIRST, 5);
    let unreadable = next(&mut subscription).await.contents.unwrap_err();
    assert_eq!(&*unreadable.bytes, b"\x00\xff");
    assert_eq!(ids(&next(&mut subscription).await), [2]);
    let letter = DeadLetter {
        source: FIRST,
        reason: unreadable.reason,
        at: Timestamp::from_millis(5),
        bytes: unreadable.bytes,
    };
    queues.bury(&letter).await.unwrap();
    let row: (String, i64, Vec<u8>) = shell
        .query_row("SELECT source, at, bytes FROM dead_letters", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    assert_eq!(row, ("scheduling".into(), 5, vec![0x00, 0xff]));
    embedded.close().await;
}

#[tokio::test]
async fn a_damaged_message_does_not_stop_those_behind_it() {
    use std::os::unix::fs::FileExt;
    let folder = folder();
    let embedded = open(&folder);
    let place = Place::Stage(Stage::Scheduling);
    for order in [sized_order(1, 100_000), order(2), order(3)] {
        embedded.queues().publish(place, &[order]).await.unwrap();
    }
    embedded.close().await;
    let file = folder.path().join("ordering.db");
    let shell = rusqlite::Connection::open(&file).unwrap();
    let sql =
        "SELECT pgoffset FROM dbstat WHERE name = 'messages' AND pagetype = 'overflow' LIMIT 1";
    let offset: i64 = shell.query_row(sql, [], |row| row.get(0)).unwrap();
    drop(shell);
    // The first four bytes of such a page lead to the next.
    let bytes = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    bytes
        .write_all_at(&[0xff; 4], u64::try_from(offset).unwrap())
        .unwrap();

    let embedded = open(&folder);
    let mut subscription = embedded.queues().subscribe(FIRST, 10);
    for n in [2, 3] {
        let delivery = next(&mut subscription).await;
        assert_eq!(ids(&delivery), [n]);
        subscription.settle.ack(delivery.receipt);
    }
    embedded.close().await;
}

#[tokio::test]
async fn delays_end_when_the_clock_was_put_back() {
    let folder = folder();
    let embedded = open(&folder);
    let queues = embedded.queues();
    let shell = rusqlite::Connection::open(folder.path().join("ordering.db")).unwrap();
    let wire = ordering::wire::encode_batch(&[order(1)]);
    let insert = "INSERT INTO delayed_messages (source, ready_at, orders, body) VALUES ('scheduling', ?1, 1, ?2)";
    let in_a_year = SystemClock.now().after(Duration::from_secs(365 * 86_400));
    shell
        .execute(insert, (in_a_year.as_millis(), &wire))
        .unwrap();
    let mut subscription = queues.subscribe(FIRST, 10);
    assert_eq!(ids(&next(&mut subscription).await), [1]);
    embedded.close().await;
}

/// Memory of this process that is in use, in KiB.
#[cfg(target_os = "linux")]
fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_long_queue_stays_on_the_disk() {
    const WAITING: u128 = 50_000;
    let folder = folder();
    let embedded = open(&folder);
    embedded.close().await;
    let wire = ordering::wire::encode_batch(&[sized_order(1, 2_000)]);
    let mut shell = rusqlite::Connection::open(folder.path().join("ordering.db")).unwrap();
    let transaction = shell.transaction().unwrap();
    for _ in 0..WAITING {
        transaction
            .prepare_cached(
                "INSERT INTO messages (source, orders, body) VALUES ('scheduling', 1, ?1)",
            )
            .unwrap()
            .execute([&wire])
            .unwrap();
    }
    transaction.commit().unwrap();
    drop(shell);

    let before = resident_kib();
    let embedded = open(&folder);
    let mut subscription = embedded.queues().subscribe(FIRST, 100);
    for _ in 0..WAITING {
        let delivery = next(&mut subscription).await;
        subscription.settle.ack(delivery.receipt);
    }
    let grown = resident_kib().saturating_sub(before);
    // The messages are over 100 MiB; the page caches are 40.
    assert!(grown < 70 * 1024, "{grown} KiB more");
    embedded.close().await;
}

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
    assert!(
        kept.len() > 10 && refused.len() > 50,
        "{kept:?} {refused:?}"
    );
    // To the brim.
    while queues
        .publish(place, &[sized_order(100, 5_000)])
        .await
        .is_ok()
    {
        kept.push(100);
    }
    queues.check().await.unwrap_err();
    // A batch that does not fit leaves nothing, and takes nobody with it.
    let large: Vec<_> = (1_000..1_100)
        .map(|n| ended(sized_order(n, 10_000)))
        .collect();
    let small = [order(500)];
    let (in_flight, archive) = (embedded.in_flight(), embedded.archive());
    let (large_kept, small_kept) = tokio::join!(archive.archive(&large), in_flight.put(&small));
    assert_eq!(large_kept.unwrap_err().part, "SQLite");
    drop(small_kept); // it may fit in what is left of a page, or not
    let ids: Vec<_> = large.iter().map(|order| order.id).collect();
    assert!(!archive.contains(&ids).await.unwrap().contains(&true));

    embedded.limit_size(None).await.unwrap();
    queues.check().await.unwrap();
    assert_eq!(archive.archive(&large).await.unwrap(), [Archived::Now; 100]);
    assert_eq!(waiting_in(&embedded, FIRST, kept.len()).await, kept);
    embedded.close().await;
}

#[tokio::test]
async fn a_full_disk_empties_again_by_working_off_what_is_queued() {
    let folder = folder();
    let embedded = open(&folder);
    let queues = embedded.queues();
    embedded.limit_size(Some(2 << 20)).await.unwrap();
    let place = Place::Stage(Stage::Scheduling);
    while queues
        .publish(place, &[sized_order(1, 100_000)])
        .await
        .is_ok()
    {}
    let mut subscription = queues.subscribe(FIRST, 2);
    let delivery = next(&mut subscription).await;
    subscription.settle.ack(delivery.receipt);
    let deadline = Instant::now() + DEADLINE;
    while queues
        .publish(place, &[sized_order(2, 90_000)])
        .await
        .is_err()
    {
        assert!(Instant::now() < deadline, "there is room again");
        tokio::task::yield_now().await;
    }
    embedded.close().await;
}

#[tokio::test]
async fn one_sync_serves_all_who_write_at_a_time() {
    let folder = folder();
    let embedded = open(&folder);
    let queues = embedded.queues();
    let place = Place::Stage(Stage::Scheduling);
    let publishes = (0..2_000).map(|n| {
        let queues = queues.clone();
        tokio::spawn(async move { queues.publish(place, &[order(n)]).await })
    });
    for publish in publishes.collect::<Vec<_>>() {
        publish.await.unwrap().unwrap();
    }
    let mut found = waiting_in(&embedded, FIRST, 2_000).await;
    found.sort_unstable();
    assert_eq!(found, (0..2_000).collect::<Vec<_>>());
    embedded.close().await;
}

/// Workers come, settle some of what they get, and go without a word; others publish meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_that_come_and_go_lose_nothing() {
    const MESSAGES: u128 = 3_000;
    let folder = folder();
    let embedded = open(&folder);
    let queues = embedded.queues();
    let done = Arc::new(std::sync::Mutex::new(
        std::collections::BTreeMap::<u128, u32>::new(),
    ));
    let publishers = (0..4).map(|part| {
        let queues = queues.clone();
        tokio::spawn(async move {
            for n in (0..MESSAGES).filter(|n| n % 4 == part) {
                let place = Place::Stage(Stage::Scheduling);
                queues.publish(place, &[order(n)]).await.unwrap();
            }
        })
    });
    let publishers: Vec<_> = publishers.collect();
    let workers = (0..6u16).map(|worker| {
        let (queues, done) = (queues.clone(), done.clone());
        tokio::spawn(async move {
            for round in 0.. {
                if done.lock().unwrap().len() == MESSAGES as usize {
                    return;
                }
                let mut subscription = queues.subscribe(FIRST, 1 + 7 * worker);
                for turn in 0..(20 + 13 * worker + round % 5) {
                    let delivery = tokio::time::timeout(
                        Duration::from_millis(100),
                        subscription.deliveries.recv(),
                    );
                    let Ok(Some(delivery)) = delivery.await else {
                        break;
                    };
                    let n = ids(&delivery)[0];
                    if turn % 5 == 3 {
                        subscription.settle.give_back(delivery.receipt);
                    } else {
                        *done.lock().unwrap().entry(n).or_default() += 1;
                        subscription.settle.ack(delivery.receipt);
                    }
                }
            }
        })
    });
    let workers: Vec<_> = workers.collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let worked_off = async {
        for worker in workers {
            worker.await.unwrap();
        }
    };
    tokio::time::timeout(3 * DEADLINE, worked_off)
        .await
        .expect("all are delivered");
    let done = done.lock().unwrap().clone();
    assert_eq!(done.len(), MESSAGES as usize);
    let twice: Vec<_> = done.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "acked, and delivered again: {twice:?}");
    embedded.close().await;
    let shell = rusqlite::Connection::open(folder.path().join("ordering.db")).unwrap();
    let left: i64 = shell
        .query_row("SELECT count(*) FROM messages", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
}

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
    assert_eq!(
        in_flight.find(ends[0].id).await.unwrap().as_ref(),
        Some(&ends[0])
    );
    assert_eq!(
        in_flight.find(ends[4_999].id).await.unwrap().as_ref(),
        Some(&ends[4_999])
    );
    let shell = rusqlite::Connection::open(folder.path().join("ordering.db")).unwrap();
    let count = |table: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        shell.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    let deadline = Instant::now() + DEADLINE;
    while count("in_flight") + count("in_flight_content") > 0 {
        assert!(Instant::now() < deadline, "records go");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(in_flight.find(ends[0].id).await.unwrap(), None);
    assert_eq!(count("archive"), 4_000);
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
    let again = OrderRecord {
        passage: 2,
        ..first.clone()
    };
    let worker: Arc<str> = "w".into();
    let at = Timestamp::from_millis(1_764_000_000_009);
    let begin = |order: OrderRecord| {
        let (in_flight, worker) = (in_flight.clone(), worker.clone());
        async move {
            in_flight
                .begin(Stage::Scheduling, &worker, at, &[order])
                .await
                .unwrap()
        }
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

const CHILD: &str = "ORDERING_TEST_CHILD_DATA_DIR";

/// Not a test of its own: the process that `a_killed_process_loses_nothing_it_confirmed` kills. Says what was
/// confirmed, line by line.
#[test]
fn child_that_works_until_it_is_killed() {
    let Ok(data_dir) = std::env::var(CHILD) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(work_until_killed(Path::new(&data_dir)));
}

fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

async fn work_until_killed(data_dir: &Path) {
    let embedded = Embedded::open(EmbeddedOptions::new(data_dir)).unwrap();
    let queues = embedded.queues();
    let publisher = {
        let queues = queues.clone();
        async move {
            // Ids of this process alone: each is published once.
            let base = u128::from(std::process::id()) << 64;
            for n in base.. {
                let order = sized_order(n, usize::try_from(n % 7).unwrap() * 3_000);
                say(format_args!("publishing {n}"));
                let place = Place::Stage(Stage::Scheduling);
                queues.publish(place, &[order]).await.unwrap();
                say(format_args!("published {n}"));
            }
        }
    };
    let archiver = async {
        let mut subscription = queues.subscribe(FIRST, 10_000);
        let mut given_back = std::collections::HashSet::new();
        // A third stays held, a third is given back once.
        loop {
            let delivery = next(&mut subscription).await;
            let n = ids(&delivery)[0];
            let order = ended(delivery.contents.unwrap().remove(0));
            if n.is_multiple_of(3) && given_back.insert(n) {
                subscription.settle.give_back(delivery.receipt);
            } else if n % 3 < 2 {
                embedded.archive().archive(&[order]).await.unwrap();
                say(format_args!("archived {n}"));
                subscription.settle.ack(delivery.receipt);
            }
        }
    };
    tokio::join!(publisher, archiver);
}

#[test]
fn a_killed_process_loses_nothing_it_confirmed() {
    let folder = folder();
    let mut publishing = std::collections::BTreeSet::new();
    let mut published = std::collections::BTreeSet::new();
    let mut archived = std::collections::BTreeSet::new();
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "child_that_works_until_it_is_killed",
                "--nocapture",
            ])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        // Killed at a different moment each time, with writes under way.
        for line in lines.by_ref() {
            seen += note(
                &line.unwrap(),
                &mut publishing,
                &mut published,
                &mut archived,
            );
            if seen == 40 + 97 * round {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            note(
                &line.unwrap(),
                &mut publishing,
                &mut published,
                &mut archived,
            );
        }
    }
    assert!(published.len() > 50 && archived.len() > 10);

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let embedded = open_again(&folder).await;
        let shell = rusqlite::Connection::open(folder.path().join("ordering.db")).unwrap();
        let verdict: String = shell
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(verdict, "ok");
        let waiting: i64 = shell
            .query_row("SELECT count(*) FROM messages", [], |row| row.get(0))
            .unwrap();
        let waiting = waiting_in(&embedded, FIRST, usize::try_from(waiting).unwrap()).await;
        let waiting: std::collections::BTreeSet<_> = waiting.into_iter().collect();
        for n in &published {
            let kept = embedded.archive().contains(&[order(*n).id]).await.unwrap()[0];
            assert!(kept || waiting.contains(n), "{n} is lost");
            assert!(kept || !archived.contains(n), "{n} is not in the archive");
        }
        assert!(waiting.is_subset(&publishing), "nothing comes from nowhere");
        embedded.close().await;
    });
}

/// Takes in one line of the child's; 1 if it said something.
fn note(
    line: &str,
    publishing: &mut std::collections::BTreeSet<u128>,
    published: &mut std::collections::BTreeSet<u128>,
    archived: &mut std::collections::BTreeSet<u128>,
) -> usize {
    let Some((word, Ok(n))) = line
        .split_once(' ')
        .map(|(word, n)| (word, n.parse::<u128>()))
    else {
        return 0;
    };
    match word {
        "publishing" => publishing.insert(n),
        "published" => published.insert(n),
        "archived" => archived.insert(n),
        _ => return 0,
    };
    1
}

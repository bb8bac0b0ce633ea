//! The queues as rows of a table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ordering::domain::{Delay, Stage, Timestamp};
use ordering::ports::{Clock, DeadLetter, DeadLetterId, Place, Queues, Source, SystemClock};

use crate::support::*;

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
async fn delays_end_when_the_clock_was_put_back() {
    let folder = folder();
    let embedded = open(&folder);
    let queues = embedded.queues();
    let shell = shell(&folder);
    let wire = ordering::wire::encode_batch(&[order(1)]);
    let insert = "INSERT INTO delayed_messages (source, ready_at, orders, body) VALUES ('scheduling', ?1, 1, ?2)";
    let in_a_year = SystemClock.now().after(Duration::from_secs(365 * 86_400));
    shell.execute(insert, (in_a_year.as_millis(), &wire)).unwrap();
    let mut subscription = queues.subscribe(FIRST, 10);
    assert_eq!(ids(&next(&mut subscription).await), [1]);
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
    let shell = shell(&folder);
    shell.execute("UPDATE messages SET body = x'00ff' WHERE id = 1", []).unwrap();
    let mut subscription = queues.subscribe(FIRST, 5);
    let unreadable = next(&mut subscription).await.contents.unwrap_err();
    assert_eq!(&*unreadable.bytes, b"\x00\xff");
    assert_eq!(ids(&next(&mut subscription).await), [2]);
    let letter = DeadLetter {
        id: DeadLetterId::new(Timestamp::from_millis(0), [1; 10]),
        source: FIRST,
        reason: unreadable.reason,
        at: Timestamp::from_millis(5),
        bytes: unreadable.bytes,
    };
    queues.bury(&letter).await.unwrap();
    let row: (String, i64, Vec<u8>) = shell
        .query_row("SELECT source, at, bytes FROM dead_letters", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
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
    let sql = "SELECT pgoffset FROM dbstat WHERE name = 'messages' AND pagetype = 'overflow' LIMIT 1";
    let offset: i64 = shell.query_row(sql, [], |row| row.get(0)).unwrap();
    drop(shell);
    // The first four bytes of such a page lead to the next.
    let bytes = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    bytes.write_all_at(&[0xff; 4], u64::try_from(offset).unwrap()).unwrap();

    let embedded = open(&folder);
    let mut subscription = embedded.queues().subscribe(FIRST, 10);
    for n in [2, 3] {
        let delivery = next(&mut subscription).await;
        assert_eq!(ids(&delivery), [n]);
        subscription.settle.ack(delivery.receipt);
    }
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
    let mut shell = shell(&folder);
    let transaction = shell.transaction().unwrap();
    for _ in 0..WAITING {
        transaction
            .prepare_cached("INSERT INTO messages (source, orders, body) VALUES ('scheduling', 1, ?1)")
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
    let done = Arc::new(std::sync::Mutex::new(std::collections::BTreeMap::<u128, u32>::new()));
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
                    let delivery = tokio::time::timeout(Duration::from_millis(100), subscription.deliveries.recv());
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
    tokio::time::timeout(3 * DEADLINE, worked_off).await.expect("all are delivered");
    let done = done.lock().unwrap().clone();
    assert_eq!(done.len(), MESSAGES as usize);
    let twice: Vec<_> = done.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "acked, and delivered again: {twice:?}");
    embedded.close().await;
    assert_eq!(count(&folder, "messages"), 0);
}

//! What [`Leases`] promises: of several processes one has it, until it gives it up or its time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ordering::ports::Leases;

use crate::support::eventually;

/// Leases of its own.
pub struct Subject {
    pub leases: Arc<dyn Leases>,
    /// What must live as long as they do.
    #[allow(dead_code, reason = "it is held, not read")]
    pub holds: Box<dyn std::any::Any + Send + Sync>,
}

macro_rules! suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            leases,
            $subject,
            the_first_has_it_until_it_gives_it_up,
            the_holder_renews_it,
            it_ends_by_itself_and_not_before,
            a_renewal_counts_from_then_on,
            of_many_that_race_for_it_one_has_it,
            of_many_that_race_for_one_that_has_ended_one_has_it,
            only_its_holder_gives_it_up,
            leases_of_other_names_are_others,
            any_name_and_any_time_will_do,
        );
    };
}
pub(crate) use suite;

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(400);

async fn acquire(subject: &Subject, holder: &str, ttl: Duration) -> bool {
    subject.leases.acquire("drainer", holder, ttl).await.unwrap()
}

async fn release(subject: &Subject, holder: &str) {
    subject.leases.release("drainer", holder).await.unwrap();
}

/// How many of eight that try at once get it.
async fn race(subject: &Subject, round: usize) -> usize {
    let barrier = Arc::new(tokio::sync::Barrier::new(8));
    let mut tasks = Vec::new();
    for n in 0..8 {
        let (leases, barrier) = (subject.leases.clone(), barrier.clone());
        tasks.push(tokio::spawn(async move {
            barrier.wait().await;
            leases.acquire("drainer", &format!("worker {round}.{n}"), LONG).await.unwrap()
        }));
    }
    let mut holders = 0;
    for task in tasks {
        holders += usize::from(task.await.unwrap());
    }
    holders
}

pub async fn the_first_has_it_until_it_gives_it_up(subject: &Subject) {
    assert!(acquire(subject, "one", LONG).await);
    assert!(!acquire(subject, "other", LONG).await);
    release(subject, "one").await;
    assert!(acquire(subject, "other", LONG).await);
    assert!(!acquire(subject, "one", LONG).await);
}

pub async fn the_holder_renews_it(subject: &Subject) {
    for _ in 0..3 {
        assert!(acquire(subject, "one", LONG).await);
    }
    assert!(!acquire(subject, "other", LONG).await);
}

pub async fn it_ends_by_itself_and_not_before(subject: &Subject) {
    let ttl = SHORT * 5;
    let before = Instant::now();
    assert!(acquire(subject, "one", ttl).await);
    let acquired = Instant::now();
    eventually(async || acquire(subject, "other", LONG).await).await;
    // Measured so that it holds on a slow machine too: it began no earlier than `before`.
    assert!(before.elapsed() >= ttl, "{:?}", before.elapsed());
    assert!(acquired.elapsed() < ttl + Duration::from_secs(10));
    assert!(!acquire(subject, "one", LONG).await);
}

pub async fn a_renewal_counts_from_then_on(subject: &Subject) {
    assert!(acquire(subject, "one", SHORT).await);
    assert!(acquire(subject, "one", LONG).await);
    tokio::time::sleep(SHORT).await;
    assert!(!acquire(subject, "other", LONG).await);
    // Shorter too.
    assert!(acquire(subject, "one", SHORT).await);
    eventually(async || acquire(subject, "other", LONG).await).await;
}

pub async fn of_many_that_race_for_it_one_has_it(subject: &Subject) {
    for round in 0..10 {
        assert_eq!(race(subject, round).await, 1);
        for n in 0..8 {
            release(subject, &format!("worker {round}.{n}")).await;
        }
    }
}

pub async fn of_many_that_race_for_one_that_has_ended_one_has_it(subject: &Subject) {
    for round in 0..5 {
        let before = format!("before {round}");
        assert!(acquire(subject, &before, Duration::from_millis(1)).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(race(subject, round).await, 1);
        for n in 0..8 {
            release(subject, &format!("worker {round}.{n}")).await;
        }
    }
}

pub async fn only_its_holder_gives_it_up(subject: &Subject) {
    assert!(acquire(subject, "one", LONG).await);
    release(subject, "other").await;
    assert!(!acquire(subject, "other", LONG).await);
    subject.leases.release("nothing", "one").await.unwrap();
    assert!(acquire(subject, "one", LONG).await);
}

pub async fn leases_of_other_names_are_others(subject: &Subject) {
    assert!(acquire(subject, "one", LONG).await);
    assert!(subject.leases.acquire("reconciler", "other", LONG).await.unwrap());
    subject.leases.release("reconciler", "one").await.unwrap();
    assert!(!subject.leases.acquire("reconciler", "one", LONG).await.unwrap());
}

pub async fn any_name_and_any_time_will_do(subject: &Subject) {
    for holder in ["", "a\u{0}b", "注文 '\"; \\", &"w".repeat(2_000)] {
        assert!(acquire(subject, holder, Duration::MAX).await);
        assert!(!acquire(subject, "other", LONG).await);
        release(subject, holder).await;
    }
    assert!(acquire(subject, "one", Duration::ZERO).await);
    assert!(acquire(subject, "other", LONG).await);
}

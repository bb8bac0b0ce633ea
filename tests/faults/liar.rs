//! The service that does the work of a stage, and cannot be relied on: as a seed says it hangs, dies, talks garbage, answers
//! twice, lies in Content-Length and breaks off.
//!
//! Some orders it declines, and whenever it gives an answer for one of those that can be understood, it is that. So the
//! checker can tell whether an order's end is what its service said.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;

use super::log::Number;
use super::service::{Call, Reply, Service};

/// How long the work takes.
const WORK: Duration = Duration::from_millis(300);
/// How long a caller is to wait for an answer.
pub const PATIENCE: &str = "1s";
/// How long it lives, and how long it is gone then.
const LIVES: Duration = Duration::from_secs(12);
const GONE: Duration = Duration::from_millis(1_500);

/// What it does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Manner {
    Well,
    Busy,
    Hangs,
    Garbage,
    PromisesMore,
    PromisesLess,
    BreaksOff,
    AnswersTwice,
}

impl Manner {
    const ALL: [Manner; 8] = [
        Manner::Well,
        Manner::Busy,
        Manner::Hangs,
        Manner::Garbage,
        Manner::PromisesMore,
        Manner::PromisesLess,
        Manner::BreaksOff,
        Manner::AnswersTwice,
    ];

    /// What it does at this attempt: the same whenever it is called for it.
    fn of(seed: u64, number: Number, attempt: u64) -> Manner {
        match draw(seed, number, attempt) {
            0..2 => Manner::Hangs,
            2..4 => Manner::Garbage,
            4..6 => Manner::PromisesMore,
            6..8 => Manner::PromisesLess,
            8..10 => Manner::BreaksOff,
            10..13 => Manner::AnswersTwice,
            13..15 => Manner::Busy,
            _ => Manner::Well,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Manner::Well => "well",
            Manner::Busy => "503",
            Manner::Hangs => "not at all",
            Manner::Garbage => "garbage",
            Manner::PromisesMore => "less than its Content-Length",
            Manner::PromisesLess => "more than its Content-Length",
            Manner::BreaksOff => "broken off",
            Manner::AnswersTwice => "twice",
        }
    }
}

/// A number below 100, evenly.
fn draw(seed: u64, number: Number, attempt: u64) -> u64 {
    // SplitMix64, three times over.
    let mut mixed = 0;
    for part in [seed, number as u64, attempt] {
        mixed = u64::wrapping_add(mixed ^ part, 0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
    }
    mixed % 100
}

/// Whether the service declines the order of this number.
pub fn declines(seed: u64, number: Number) -> bool {
    // There is no attempt 0.
    draw(seed, number, 0) < 2
}

/// The running service. It dies now and then, and comes back where it was.
pub struct Liar {
    pub url: String,
    told: Arc<Mutex<BTreeMap<Manner, usize>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Liar {
    pub async fn start(seed: u64) -> Liar {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::<Mutex<BTreeMap<Manner, usize>>>::default();
        let task = tokio::spawn(live_and_die(seed, listener, address, told.clone()));
        Liar { url: format!("http://{address}/work"), told, task }
    }

    /// How often it answered how.
    pub fn told(&self) -> Vec<(&'static str, usize)> {
        let told = locked(&self.told);
        Manner::ALL.map(|manner| (manner.as_str(), told.get(&manner).copied().unwrap_or(0))).to_vec()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn live_and_die(
    seed: u64,
    mut listener: TcpListener,
    address: SocketAddr,
    told: Arc<Mutex<BTreeMap<Manner, usize>>>,
) {
    loop {
        let (is_dead, told) = (Arc::new(AtomicBool::new(false)), told.clone());
        let dead = is_dead.clone();
        let service = Service::on(listener, false, move |call| match is_dead.load(Ordering::Relaxed) {
            true => Reply::Reset(Vec::new()),
            false => answer(seed, call, &told),
        });
        tokio::time::sleep(LIVES).await;
        dead.store(true, Ordering::Relaxed);
        drop(service);
        tokio::time::sleep(GONE).await;
        listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
    }
}

fn answer(seed: u64, call: &Call, told: &Mutex<BTreeMap<Manner, usize>>) -> Reply {
    let number = call.json["order"]["metadata"]["number"].as_u64().expect("every order here has one");
    let number = usize::try_from(number).unwrap();
    let manner = Manner::of(seed, number, call.attempt());
    *locked(told).entry(manner).or_default() += 1;
    let (done, declined) = (r#"{"note":"charged"}"#, r#"{"title":"declined"}"#);
    // A second answer says the opposite: it must be nobody's.
    let ((status, body), (other_status, other)) = match declines(seed, number) {
        true => (("422 Declined", declined), ("200 OK", done)),
        false => (("200 OK", done), ("422 Declined", declined)),
    };
    let whole = |status: &str, length: usize, body: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let once = whole(status, body.len(), body);
    let reply = match manner {
        Manner::Well => Reply::Bytes(once.into()),
        Manner::Busy => Reply::json(503, json!({"detail": "busy"})).with("Retry-After", "1"),
        Manner::Hangs => Reply::Hang(Vec::new()),
        Manner::Garbage => Reply::Bytes(b"\x16\x03\x01\x02\x00 not HTTP\r\n\r\n".to_vec()),
        Manner::PromisesMore => Reply::Bytes(whole(status, body.len() + 100, body).into()),
        // With the connection open, for whoever would take the rest for the next answer.
        Manner::PromisesLess => Reply::Hang(whole(status, 2, &format!("{{}}{}", whole(other_status, 2, "{}"))).into()),
        Manner::BreaksOff => Reply::Reset(once.into_bytes()[..60].to_vec()),
        Manner::AnswersTwice => Reply::Hang((once + &whole(other_status, other.len(), other)).into()),
    };
    Reply::Late(WORK, Box::new(reply))
}

#[test]
fn a_seed_lies_the_same_way_again_and_in_every_way() {
    let manners = |seed| (0..2_000).map(|number| Manner::of(seed, number, 1)).collect::<Vec<_>>();
    assert_eq!(manners(1), manners(1));
    assert_ne!(manners(1), manners(2));
    for manner in Manner::ALL {
        assert!(manners(1).contains(&manner), "{manner:?}");
    }
    let well = manners(1).iter().filter(|manner| **manner == Manner::Well).count();
    assert!((1_500..1_900).contains(&well), "{well}");
    let declined = (0..2_000).filter(|number| declines(1, *number)).count();
    assert!((10..90).contains(&declined), "{declined}");
}

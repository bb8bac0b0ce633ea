//! Customers who place orders and read them, all the time, and take notes.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::servers::{DEADLINE, Servers};
use crate::system::{all_ended, assert_completed, http, valid_orders};

const CUSTOMERS: usize = 4;
const READERS: usize = 2;
/// Between two orders of a customer, and two questions of a reader.
const PAUSE: Duration = Duration::from_millis(40);
/// Readers ask for the latest orders: those are in flight.
const LATEST: usize = 100;

/// What happened since the last time it was asked for.
#[derive(Debug, Default)]
pub struct Seen {
    pub accepted: Vec<String>,
    /// The last word of the problem's type, and how long the answer took.
    pub refused: Vec<(String, Duration)>,
    pub slowest_post: Duration,
    /// Answers of each status.
    pub reads: HashMap<u16, usize>,
    pub slowest_read: Duration,
    /// Accepted, and not found.
    pub missed: Vec<String>,
}

impl Seen {
    /// Answers to readers with the order in it.
    pub fn found(&self) -> usize {
        self.reads.get(&200).copied().unwrap_or_default()
    }

    pub fn report(&self, what: &str) {
        let Seen { accepted, refused, slowest_post, reads, slowest_read, missed: _ } = self;
        let (accepted, refused) = (accepted.len(), refused.len());
        eprintln!(
            "{what}: {accepted} accepted, {refused} refused, within {slowest_post:?}; read {reads:?} in {slowest_read:?}"
        );
    }
}

#[derive(Default)]
struct Notes {
    seen: Seen,
    accepted: Vec<String>,
    unconfirmed: Vec<String>,
}

pub struct Traffic {
    url: String,
    notes: Arc<Mutex<Notes>>,
    stop: Arc<AtomicBool>,
    people: Vec<JoinHandle<()>>,
}

impl Traffic {
    pub fn start(url: &str) -> Traffic {
        let (notes, stop) = (Arc::new(Mutex::new(Notes::default())), Arc::new(AtomicBool::new(false)));
        let orders = Arc::new(valid_orders());
        let customers = (0..CUSTOMERS)
            .map(|n| tokio::spawn(place_orders(url.to_owned(), orders.clone(), n, notes.clone(), stop.clone())));
        let readers = (0..READERS).map(|_| tokio::spawn(read_orders(url.to_owned(), notes.clone(), stop.clone())));
        let people = customers.chain(readers).collect();
        Traffic { url: url.to_owned(), notes, stop, people }
    }

    /// What happened since the last call.
    pub fn seen(&self) -> Seen {
        std::mem::take(&mut self.notes.lock().unwrap().seen)
    }

    /// Waits until `count` of what happens has risen by `more`.
    pub async fn rises(&self, what: &str, more: usize, count: impl Fn(&Seen) -> usize) {
        let counted = || count(&self.notes.lock().unwrap().seen);
        let (enough, end) = (counted() + more, Instant::now() + DEADLINE);
        while counted() < enough {
            assert!(self.people.iter().all(|person| !person.is_finished()), "somebody saw what must not be");
            assert!(Instant::now() < end, "{more} {what} take too long: {:?}", self.seen());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many more orders are accepted.
    pub async fn accepted(&self, more: usize) {
        self.rises("accepted orders", more, |seen| seen.accepted.len()).await;
    }

    /// Ends the traffic, and panics unless every order that was accepted comes to its end, once.
    pub async fn check(self, servers: &Servers) {
        self.stop.store(true, Ordering::Release);
        for person in self.people {
            person.await.unwrap();
        }
        let notes = std::mem::take(&mut *self.notes.lock().unwrap());
        for shown in all_ended(&self.url, &notes.accepted).await {
            assert_completed(&shown);
        }
        // Orders of unknown fate may be there, or come yet. None may be there twice.
        let archived = servers.archived().await;
        let kept: HashSet<&String> = archived.iter().collect();
        assert_eq!(kept.len(), archived.len(), "orders are archived twice");
        let accepted: HashSet<&String> = notes.accepted.iter().collect();
        assert_eq!(accepted.len(), notes.accepted.len(), "an id was given twice");
        assert!(accepted.is_subset(&kept), "lost: {:?}", accepted.difference(&kept).collect::<Vec<_>>());
        let unconfirmed: HashSet<&String> = notes.unconfirmed.iter().collect();
        let more: Vec<_> = kept.difference(&accepted).filter(|id| !unconfirmed.contains(*id)).collect();
        assert!(more.is_empty(), "nobody was told of {more:?}");
        eprintln!("{} orders, {} of unknown fate", accepted.len(), unconfirmed.len());
    }
}

async fn place_orders(url: String, orders: Arc<Vec<Value>>, n: usize, notes: Arc<Mutex<Notes>>, stop: Arc<AtomicBool>) {
    let client = http();
    for order in orders.iter().cycle().skip(n * 100) {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let asked = Instant::now();
        let answer = client.post(format!("{url}/v1/orders")).json(order).send().await.expect("the api answers");
        let (status, took) = (answer.status().as_u16(), asked.elapsed());
        let retry_after = answer.headers().get("retry-after").cloned();
        let body: Value = answer.json().await.unwrap();
        {
            let mut notes = notes.lock().unwrap();
            notes.seen.slowest_post = notes.seen.slowest_post.max(took);
            match status {
                202 => {
                    let id = body["id"].as_str().unwrap().to_owned();
                    notes.accepted.push(id.clone());
                    notes.seen.accepted.push(id);
                }
                503 => {
                    assert!(retry_after.is_some(), "{body}");
                    let problem = body["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
                    if problem == "unconfirmed" {
                        notes.unconfirmed.push(body["id"].as_str().unwrap().to_owned());
                    }
                    notes.seen.refused.push((problem, took));
                }
                _ => panic!("{status}: {body}"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read_orders(url: String, notes: Arc<Mutex<Notes>>, stop: Arc<AtomicBool>) {
    let client = http();
    while !stop.load(Ordering::Acquire) {
        tokio::time::sleep(PAUSE).await;
        let id = {
            let accepted = &notes.lock().unwrap().accepted;
            let latest = &accepted[accepted.len().saturating_sub(LATEST)..];
            if latest.is_empty() {
                continue;
            }
            latest[rand::random_range(0..latest.len())].clone()
        };
        let asked = Instant::now();
        let answer = client.get(format!("{url}/v1/orders/{id}")).send().await.expect("the api answers");
        let (status, took) = (answer.status().as_u16(), asked.elapsed());
        let has_retry_after = answer.headers().contains_key("retry-after");
        assert!(matches!(status, 200 | 404) || (status == 503 && has_retry_after), "{status}");
        let mut notes = notes.lock().unwrap();
        notes.seen.slowest_read = notes.seen.slowest_read.max(took);
        *notes.seen.reads.entry(status).or_default() += 1;
        if status == 404 {
            notes.seen.missed.push(id);
        }
    }
}

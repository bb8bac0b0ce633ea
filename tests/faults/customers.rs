//! Customers who place orders at a steady pace, send them again until they are taken, and read what they placed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::log::{Answer, Number, Promise, Read};
use super::notes::Notes;
use super::processes::Fleet;
use super::system::http;

/// Orders that may wait for their 202 at once. More customers would only make an outage longer.
const WAITING_MAX: usize = 64;
/// How long a customer waits for an answer, and before another try.
const PATIENCE: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(300);
/// The share of orders with an `Idempotency-Key`. Those without are sent once, and their fate may stay unknown.
const KEYED: f64 = 0.8;
/// The share of orders that are sent again though they were taken.
const TWICE: f64 = 0.02;
const READERS: usize = 4;
/// How often a reader asks for one order before he turns to another, and how long he rests in between.
const READS: usize = 6;
const REST: Duration = Duration::from_millis(60);
/// Readers ask for the latest of all, for one of these, and for any, each as often: most of these are in flight.
const LATEST: usize = 50;

/// All customers and readers.
pub struct Customers {
    notes: Arc<Notes>,
    closed: Arc<AtomicBool>,
    gone: Arc<AtomicBool>,
    placing: JoinHandle<()>,
    reading: Vec<JoinHandle<()>>,
    pub seen: Arc<Seen>,
}

/// What is told of customers beside the log.
#[derive(Default)]
pub struct Seen {
    /// Orders that are on their way to a 202.
    pub waiting: AtomicUsize,
    /// Requests that were refused with 503.
    pub refused: AtomicUsize,
    /// Requests without an answer.
    pub unanswered: AtomicUsize,
    /// Answers to customers that must not be.
    pub odd: std::sync::Mutex<Vec<String>>,
}

impl Seen {
    fn odd(&self, what: String) {
        self.odd.lock().unwrap().push(what);
    }
}

impl Customers {
    /// `per_second` orders are placed from now on; `run` makes their keys those of this run.
    pub fn start(fleet: Arc<Fleet>, notes: Arc<Notes>, per_second: f64, run: String) -> Customers {
        let (closed, gone) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let seen = Arc::new(Seen::default());
        let shop = Shop { fleet: fleet.clone(), notes: notes.clone(), client: http(), run, seen: seen.clone() };
        let placing = tokio::spawn(place(Arc::new(shop), per_second, closed.clone()));
        let reader = |n| tokio::spawn(read(fleet.clone(), notes.clone(), gone.clone(), n));
        let reading = (0..READERS).map(reader).collect();
        Customers { notes, closed, gone, placing, reading, seen }
    }

    /// No more orders are placed; waits until all have their 202, but no longer than `patience`. How many have none then.
    pub async fn close(&mut self, patience: Duration) -> usize {
        self.closed.store(true, Ordering::Release);
        let _ = (&mut self.placing).await;
        let end = self.notes.now() + patience;
        while self.seen.waiting.load(Ordering::Acquire) > 0 && self.notes.now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.seen.waiting.load(Ordering::Acquire)
    }

    /// Readers leave, too.
    pub async fn leave(self) {
        self.gone.store(true, Ordering::Release);
        for reader in self.reading {
            reader.await.expect("a reader does not panic");
        }
    }
}

struct Shop {
    fleet: Arc<Fleet>,
    notes: Arc<Notes>,
    client: reqwest::Client,
    run: String,
    seen: Arc<Seen>,
}

/// What became of a request.
enum Fate {
    Taken(String),
    /// It is known that it was not taken.
    Refused,
    Unknown,
}

async fn place(shop: Arc<Shop>, per_second: f64, closed: Arc<AtomicBool>) {
    let places = Arc::new(Semaphore::new(WAITING_MAX));
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !closed.load(Ordering::Acquire) {
        tick.tick().await;
        let place = places.clone().acquire_owned().await.expect("it is never closed");
        let number = {
            let mut log = shop.notes.log();
            log.placed += 1;
            log.placed - 1
        };
        let shop = shop.clone();
        shop.seen.waiting.fetch_add(1, Ordering::AcqRel);
        tokio::spawn(async move {
            if rand::random_bool(KEYED) {
                shop.insist(number).await
            } else {
                shop.try_once(number).await
            }
            shop.seen.waiting.fetch_sub(1, Ordering::AcqRel);
            drop(place);
        });
    }
}

impl Shop {
    /// Sends an order with its key until it is taken.
    async fn insist(&self, number: Number) {
        let order = self.notes.order(number);
        let key = format!("{}-{number}", self.run);
        let mut taken = 0;
        let times = if rand::random_bool(TWICE) { 2 } else { 1 };
        for attempt in 0.. {
            match self.send(number, attempt, &order, Some(&key)).await {
                Fate::Taken(id) => {
                    self.promised(number, id);
                    taken += 1;
                }
                Fate::Refused | Fate::Unknown => tokio::time::sleep(AGAIN).await,
            }
            if taken == times {
                return;
            }
        }
    }

    /// Sends an order without a key, once; only as long as it is known not to be taken, again.
    async fn try_once(&self, number: Number) {
        let order = self.notes.order(number);
        for attempt in 0.. {
            match self.send(number, attempt, &order, None).await {
                Fate::Taken(id) => return self.promised(number, id),
                Fate::Refused => tokio::time::sleep(AGAIN).await,
                Fate::Unknown => return,
            }
        }
    }

    fn promised(&self, number: Number, id: String) {
        let at = self.notes.now();
        self.notes.log().promises.push(Promise { number, id, at });
    }

    async fn send(&self, number: Number, attempt: usize, order: &Value, key: Option<&str>) -> Fate {
        let api = &self.fleet.apis[(number + attempt) % self.fleet.apis.len()];
        let mut request = self.client.post(format!("{}/v1/orders", api.url())).json(order).timeout(PATIENCE);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let unanswered = || {
            self.seen.unanswered.fetch_add(1, Ordering::Relaxed);
            Fate::Unknown
        };
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => {
                self.seen.unanswered.fetch_add(1, Ordering::Relaxed);
                return Fate::Refused;
            }
            Err(_) => return unanswered(),
        };
        let (status, retry_after) = (answer.status(), answer.headers().contains_key("retry-after"));
        let Ok(body) = answer.json::<Value>().await else { return unanswered() };
        let problem = body["type"].as_str().unwrap_or_default().rsplit(':').next().unwrap_or_default();
        match (status, problem) {
            (StatusCode::ACCEPTED, _) => Fate::Taken(body["id"].as_str().unwrap_or_default().to_owned()),
            (StatusCode::SERVICE_UNAVAILABLE, "overloaded") if retry_after => {
                self.seen.refused.fetch_add(1, Ordering::Relaxed);
                Fate::Refused
            }
            (StatusCode::SERVICE_UNAVAILABLE, _) if retry_after => {
                self.seen.refused.fetch_add(1, Ordering::Relaxed);
                Fate::Unknown
            }
            _ => {
                let at = self.notes.now().as_secs_f64();
                self.seen.odd(format!("order {number} at {at:.3} s, {}: {status} {body}", api.name));
                Fate::Unknown
            }
        }
    }
}

async fn read(fleet: Arc<Fleet>, notes: Arc<Notes>, gone: Arc<AtomicBool>, n: usize) {
    let client = http();
    let mut random = StdRng::from_os_rng();
    let mut turn = n;
    while !gone.load(Ordering::Acquire) {
        tokio::time::sleep(REST).await;
        let promise = {
            let promises = &notes.log().promises;
            if promises.is_empty() {
                continue;
            }
            let among = *[1, LATEST, promises.len()].choose(&mut random).expect("there are three");
            promises[random.random_range(promises.len().saturating_sub(among)..promises.len())].clone()
        };
        for _ in 0..READS {
            // Now the one api, now the other.
            turn += 1;
            let url = format!("{}/v1/orders/{}", fleet.apis[turn % fleet.apis.len()].url(), promise.id);
            let asked_at = notes.now();
            let answer = ask(&client, &url, &notes, promise.number).await;
            let answered_at = notes.now();
            let is_ended = matches!(&answer, Answer::Found(view) if view.status == "completed");
            notes.log().reads.push(Read { number: promise.number, asked_at, answered_at, answer });
            if is_ended {
                break;
            }
            tokio::time::sleep(REST).await;
        }
    }
}

async fn ask(client: &reqwest::Client, url: &str, notes: &Notes, number: Number) -> Answer {
    let Ok(answer) = client.get(url).timeout(PATIENCE).send().await else { return Answer::Silence };
    let (status, retry_after) = (answer.status(), answer.headers().contains_key("retry-after"));
    let Ok(text) = answer.text().await else { return Answer::Silence };
    match status {
        StatusCode::OK => match serde_json::from_str(&text) {
            Ok(shown) => Answer::Found(notes.view(number, &shown)),
            Err(error) => Answer::Odd(format!("200 with no JSON: {error}")),
        },
        StatusCode::NOT_FOUND => Answer::NotFound,
        StatusCode::SERVICE_UNAVAILABLE if retry_after => Answer::CannotTell,
        _ => Answer::Odd(format!("{status} {text}")),
    }
}

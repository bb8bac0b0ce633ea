//! What the in-flight store costs in Redis: orders go from their acceptance to their end, step by step, and Redis is asked
//! after each step how much processor time it took. `cargo bench --bench in_flight`, with the address of a Redis that
//! nobody else uses in `ORDERING_REDIS_URL` (`eval "$(scripts/servers env)"`); without one it says so and ends.
//!
//! `ORDERING_BENCH_ORDERS` (20,000) orders pass in batches of `ORDERING_BENCH_BATCH` (64), four batches at a time. Times of one
//! run say little on a busy machine: compare two versions by running them in turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fred::prelude::{Builder, Client, ClientLike, Config};
use fred::types::InfoKind;
use ordering::adapters::redis::{RedisInFlight, RedisOptions};
use ordering::domain::{Decision, End, Order, OrderId, OrderRecord, RecordedOutcome, Report, Stage};
use ordering::ports::{Begun, Clock, InFlight, Recorded, SystemClock};
use uuid::Uuid;

/// Batches under way at a time.
const BATCHES_UNDER_WAY: usize = 4;
/// How long the records of ended orders stay: longer than noting all the ends takes, so that what their going costs is
/// seen by itself.
const ENDED_TTL: Duration = Duration::from_secs(5);
/// What `utime` and `stime` of `/proc/self/stat` count in: 1/100 s on every Linux there is.
const TICK_SECS: f64 = 0.01;

#[tokio::main]
async fn main() {
    let Ok(url) = std::env::var("ORDERING_REDIS_URL") else {
        eprintln!("skipped: ORDERING_REDIS_URL is not set");
        return;
    };
    let (orders, batch) = (number("ORDERING_BENCH_ORDERS", 20_000), number("ORDERING_BENCH_BATCH", 64));
    let look = Builder::from_config(Config::from_url(&url).unwrap()).build().unwrap();
    look.init().await.unwrap();
    let namespace = format!("bench_{}", Uuid::now_v7().simple());
    let options =
        RedisOptions { ended_ttl: ENDED_TTL, timeout: Duration::from_secs(10), ..RedisOptions::new(&url, namespace) };
    let in_flight = Arc::new(RedisInFlight::start(options).unwrap());
    let batches = (0..orders / batch).map(|_| (0..batch).map(|_| order()).collect()).collect();

    println!("CPU for 1,000 orders in batches of {batch}, ms:  Redis  this process");
    let mut bench = Bench { in_flight, look, batches, spent: (0.0, 0.0) };
    bench.measure("put", Step::Put).await;
    for stage in Stage::ALL {
        bench.measure("begin", Step::Begin(stage)).await;
        bench.measure("record", Step::Record(stage)).await;
    }
    bench.measure("end", Step::End).await;
    bench.measure("expiry", Step::Expiry).await;
    println!("{:45} {:6.2} {:6.2}", "in all", bench.spent.0, bench.spent.1);
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |value| value.parse().expect("a number"))
}

struct Bench {
    in_flight: Arc<RedisInFlight>,
    look: Client,
    batches: Vec<Vec<OrderRecord>>,
    /// By Redis and by this process, ms for 1,000 orders.
    spent: (f64, f64),
}

#[derive(Clone, Copy)]
enum Step {
    Put,
    Begin(Stage),
    Record(Stage),
    End,
    Expiry,
}

impl Bench {
    /// Takes a step with all orders.
    async fn measure(&mut self, name: &str, step: Step) {
        let orders: usize = self.batches.iter().map(Vec::len).sum();
        let (redis, own, started) = (redis_secs(&self.look).await, own_secs(), Instant::now());
        if matches!(step, Step::Expiry) {
            tokio::time::sleep(ENDED_TTL + Duration::from_secs(1)).await;
        }
        let mut tasks = Vec::new();
        let share = self.batches.len().div_ceil(BATCHES_UNDER_WAY);
        while !self.batches.is_empty() {
            let mut batches = self.batches.split_off(self.batches.len().saturating_sub(share));
            let in_flight = self.in_flight.clone();
            tasks.push(tokio::spawn(async move {
                for orders in &mut batches {
                    take(&in_flight, step, orders).await;
                }
                batches
            }));
        }
        for task in tasks {
            self.batches.extend(task.await.unwrap());
        }
        let to_ms = |secs: f64| 1e6 * secs / orders as f64;
        let (redis, own) = (to_ms(redis_secs(&self.look).await - redis), to_ms(own_secs() - own));
        self.spent = (self.spent.0 + redis, self.spent.1 + own);
        println!("{name:8} {:8.1} s {:26} {redis:6.2} {own:6.2}", started.elapsed().as_secs_f64(), "");
    }
}

async fn take(in_flight: &RedisInFlight, step: Step, orders: &mut [OrderRecord]) {
    let worker: Arc<str> = "worker-1".into();
    let now = SystemClock.now();
    match step {
        Step::Put => in_flight.put(orders).await.unwrap(),
        Step::Begin(stage) => {
            let begun = in_flight.begin(stage, &worker, now, orders).await.unwrap();
            assert!(begun.iter().all(|begun| *begun == Begun::Fresh { deliveries: 1 }));
        }
        Step::Record(stage) => {
            let decision = stage.next().map_or(Decision::End(End::Completed), Decision::Advance);
            let outcome = RecordedOutcome {
                entered_at: now,
                finished_at: SystemClock.now(),
                worker,
                decision,
                report: Report::default(),
            };
            let outcomes: Vec<_> = orders.iter().map(|order| (order, outcome.clone())).collect();
            let recorded = in_flight.record(stage, &outcomes).await.unwrap();
            assert!(recorded.iter().all(|recorded| *recorded == Recorded::First));
            for order in orders {
                order.history.record(stage, &outcome);
            }
        }
        Step::End => in_flight.end(orders).await.unwrap(),
        Step::Expiry => {}
    }
}

/// An order of about 400 bytes.
fn order() -> OrderRecord {
    let item =
        r#"{"sku":"85123A","description":"WHITE HANGING HEART T-LIGHT HOLDER","quantity":6,"unit_price":"2.55"}"#;
    let json = format!(
        r#"{{"customer_id":"17850","reference":"536365","currency":"GBP","items":[{}],"metadata":{{"country":"United Kingdom"}}}}"#,
        [item; 3].join(",")
    );
    let order = Order::from_parts(Bytes::from(json), "45.90".into());
    OrderRecord::new(OrderId::from_uuid(Uuid::now_v7()), SystemClock.now(), order)
}

/// The processor time Redis has taken, its children (they rewrite its log) included.
async fn redis_secs(look: &Client) -> f64 {
    let info: String = look.info(Some(InfoKind::Cpu)).await.unwrap();
    let value = |name: &str| -> f64 {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.expect("a Redis that says what it takes").parse().unwrap()
    };
    ["used_cpu_sys", "used_cpu_user", "used_cpu_sys_children", "used_cpu_user_children"].map(value).iter().sum()
}

fn own_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * TICK_SECS
}

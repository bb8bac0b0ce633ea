//! What the in-flight store costs in Redis: orders go from their acceptance to their end, and the processor time that
//! Redis took for them is read from the operating system. `cargo bench --bench in_flight`, with the address of a
//! Redis on this machine in `ORDERING_REDIS_URL` (`eval "$(scripts/servers env)"`); without one it says so and ends.
//!
//! `ORDERING_BENCH_ORDERS` (50,000) orders pass in batches of `ORDERING_BENCH_BATCH` (64), four batches at a time. The time
//! counts what comes after, too: the records expire within it. Times of one run say little on a busy machine: compare
//! two versions by running them in turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fred::prelude::{Builder, Client, ClientLike, Config};
use fred::types::InfoKind;
use ordering::adapters::redis::{RedisInFlight, RedisOptions};
use ordering::domain::{Decision, End, Order, OrderId, OrderRecord, RecordedOutcome, Stage, Timestamp};
use ordering::ports::{Begun, Clock, InFlight, Recorded, SystemClock};
use uuid::Uuid;

/// Batches under way at a time.
const BATCHES_UNDER_WAY: usize = 4;
/// How long the records of ended orders stay here: so short that their expiry falls into the run.
const ENDED_TTL: Duration = Duration::from_millis(500);
/// What `utime` and `stime` of `/proc/{pid}/stat` count in: 1/100 s on every Linux there is.
const TICK: Duration = Duration::from_millis(10);

#[tokio::main]
async fn main() {
    let Ok(url) = std::env::var("ORDERING_REDIS_URL") else {
        eprintln!("skipped: ORDERING_REDIS_URL is not set");
        return;
    };
    let orders = number("ORDERING_BENCH_ORDERS", 50_000);
    let batch = number("ORDERING_BENCH_BATCH", 64);

    let look = Builder::from_config(Config::from_url(&url).unwrap()).build().unwrap();
    look.init().await.unwrap();
    let pid = info(&look, InfoKind::Server, "process_id").await;
    let namespace = format!("bench_{}", Uuid::now_v7().simple());
    let options =
        RedisOptions { ended_ttl: ENDED_TTL, timeout: Duration::from_secs(10), ..RedisOptions::new(&url, namespace) };
    let in_flight = Arc::new(RedisInFlight::start(options).unwrap());
    pass(&in_flight, 20, batch).await;

    let (redis, own) = (cpu_time(&pid), cpu_time("self"));
    let started = Instant::now();
    let share = orders / batch / BATCHES_UNDER_WAY;
    let passing = (0..BATCHES_UNDER_WAY).map(|_| {
        let in_flight = in_flight.clone();
        tokio::spawn(async move { pass(&in_flight, share, batch).await })
    });
    for passing in passing.collect::<Vec<_>>() {
        passing.await.unwrap();
    }
    let elapsed = started.elapsed();
    let passed = (share * BATCHES_UNDER_WAY * batch) as f64;
    let own = cpu_time("self") - own;
    tokio::time::sleep(3 * ENDED_TTL).await;
    let redis = cpu_time(&pid) - redis;
    println!(
        "{passed} orders in batches of {batch}: {:.0} orders/s; for 1,000 orders Redis took {:.1} ms of CPU, this \
         process {:.1} ms",
        passed / elapsed.as_secs_f64(),
        1e6 * redis.as_secs_f64() / passed,
        1e6 * own.as_secs_f64() / passed,
    );
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |value| value.parse().expect("a number"))
}

/// Carries `batches` batches from their acceptance to their end.
async fn pass(in_flight: &RedisInFlight, batches: usize, batch: usize) {
    let worker: Arc<str> = "worker-1".into();
    for _ in 0..batches {
        let mut orders: Vec<OrderRecord> = (0..batch).map(|_| order()).collect();
        in_flight.put(&orders).await.unwrap();
        for stage in Stage::ALL {
            let at = SystemClock.now();
            let begun = in_flight.begin(stage, &worker, at, &orders).await.unwrap();
            assert!(begun.iter().all(|begun| *begun == Begun::Fresh { deliveries: 1 }));
            let outcome = outcome(stage, &worker, at);
            let outcomes: Vec<_> = orders.iter().map(|order| (order, outcome.clone())).collect();
            let recorded = in_flight.record(stage, &outcomes).await.unwrap();
            assert!(recorded.iter().all(|recorded| *recorded == Recorded::First));
            for order in &mut orders {
                order.history.record(stage, &outcome);
            }
        }
        in_flight.end(&orders).await.unwrap();
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

fn outcome(stage: Stage, worker: &Arc<str>, at: Timestamp) -> RecordedOutcome {
    RecordedOutcome {
        entered_at: at,
        finished_at: SystemClock.now(),
        worker: worker.clone(),
        decision: stage.next().map_or(Decision::End(End::Completed), Decision::Advance),
    }
}

/// The processor time of a process and of its children that ended (Redis rewrites its log in one).
fn cpu_time(pid: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("Redis runs on this machine");
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u32 = fields.skip(11).take(4).map(|ticks| ticks.parse::<u32>().expect("a number of ticks")).sum();
    ticks * TICK
}

async fn info(look: &Client, kind: InfoKind, name: &str) -> String {
    let text: String = look.info(Some(kind)).await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned));
    value.unwrap_or_default()
}

//! What the embedded back end can carry: the steps of a batch one by one, and orders through all four stages with several
//! batches under way, everything durable. `cargo bench --bench embedded`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ordering::adapters::embedded::{Embedded, EmbeddedOptions};
use ordering::domain::{Decision, End, Order, OrderId, OrderRecord, RecordedOutcome, Report, Stage, Timestamp};
use ordering::ports::{Archive, Begun, Clock, InFlight, Place, Queues, Recorded, Source, SystemClock};
use tokio::runtime::Runtime;
use uuid::Uuid;

/// Orders in a full batch.
const BATCH: usize = 256;
/// Batches under way at a time when orders pass all stages.
const BATCHES_UNDER_WAY: u16 = 8;

/// An order of about 650 bytes: four items.
fn order() -> OrderRecord {
    let item =
        r#"{"sku":"85123A","description":"WHITE HANGING HEART T-LIGHT HOLDER","quantity":6,"unit_price":"2.55"}"#;
    let json = format!(
        r#"{{"customer_id":"17850","reference":"536365","currency":"GBP","items":[{}],"metadata":{{"country":"United Kingdom"}}}}"#,
        [item; 4].join(",")
    );
    let order = Order::from_parts(Bytes::from(json), "61.20".into());
    OrderRecord::new(OrderId::from_uuid(Uuid::now_v7()), SystemClock.now(), order)
}

fn batch() -> Vec<OrderRecord> {
    (0..BATCH).map(|_| order()).collect()
}

fn outcome(stage: Stage, worker: &Arc<str>, at: Timestamp) -> RecordedOutcome {
    RecordedOutcome {
        entered_at: at,
        finished_at: SystemClock.now(),
        worker: worker.clone(),
        decision: stage.next().map_or(Decision::End(End::Completed), Decision::Advance),
        report: Report::default(),
    }
}

/// A step of every order of a batch at `stage`.
async fn step(in_flight: &dyn InFlight, stage: Stage, orders: &mut [OrderRecord]) {
    let worker: Arc<str> = "worker-1".into();
    let at = SystemClock.now();
    let begun = in_flight.begin(stage, &worker, at, orders).await.unwrap();
    assert!(begun.iter().all(|begun| *begun == Begun::Fresh { deliveries: 1 }));
    let outcomes: Vec<_> = orders.iter().map(|order| (order, outcome(stage, &worker, at))).collect();
    let recorded = in_flight.record(stage, &outcomes).await.unwrap();
    assert!(recorded.iter().all(|recorded| *recorded == Recorded::First));
    let outcome = outcome(stage, &worker, at);
    for order in orders {
        order.history.record(stage, &outcome);
    }
}

/// Takes batches from `stage` and carries them on until `orders` have passed.
async fn work(embedded: &Embedded, stage: Stage, orders: usize) {
    let (queues, in_flight, archive) = (embedded.queues(), embedded.in_flight(), embedded.archive());
    let mut subscription = queues.subscribe(Source::Stage(stage), BATCHES_UNDER_WAY);
    let mut tasks = tokio::task::JoinSet::new();
    let mut taken = 0;
    while taken < orders {
        let delivery = subscription.deliveries.recv().await.unwrap();
        let mut batch = delivery.contents.unwrap();
        taken += batch.len();
        let (queues, in_flight, archive) = (queues.clone(), in_flight.clone(), archive.clone());
        let settle = subscription.settle.clone();
        tasks.spawn(async move {
            step(&*in_flight, stage, &mut batch).await;
            match stage.next() {
                Some(next) => queues.publish(Place::Stage(next), &batch).await.unwrap(),
                None => {
                    archive.archive(&batch).await.unwrap();
                    in_flight.end(&batch).await.unwrap();
                }
            }
            settle.ack(delivery.receipt);
        });
    }
    tasks.join_all().await;
}

/// How long `batches` batches of `size` take from being accepted to being archived.
async fn all_stages(embedded: &Arc<Embedded>, batches: usize, size: usize) -> Duration {
    let workers: Vec<_> = Stage::ALL
        .into_iter()
        .map(|stage| {
            let embedded = embedded.clone();
            tokio::spawn(async move { work(&embedded, stage, batches * size).await })
        })
        .collect();
    let started = Instant::now();
    let room = Arc::new(tokio::sync::Semaphore::new(usize::from(BATCHES_UNDER_WAY)));
    let mut intake = tokio::task::JoinSet::new();
    for _ in 0..batches {
        let permit = room.clone().acquire_owned().await.unwrap();
        let (queues, in_flight) = (embedded.queues(), embedded.in_flight());
        intake.spawn(async move {
            let orders: Vec<_> = (0..size).map(|_| order()).collect();
            in_flight.put(&orders).await.unwrap();
            let place = Place::Stage(Stage::Scheduling);
            queues.publish(place, &orders).await.unwrap();
            drop(permit);
        });
    }
    intake.join_all().await;
    for worker in workers {
        worker.await.unwrap();
    }
    started.elapsed()
}

fn steps(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir_in(".").unwrap();
    let embedded = open(&runtime, folder.path());
    let mut group = criterion.benchmark_group("batch of 256");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.measurement_time(Duration::from_secs(3));
    group.sample_size(20);

    let queues = embedded.queues();
    group.bench_function("publish", |bencher| {
        bencher.iter_batched(
            batch,
            |orders| {
                let place = Place::Stage(Stage::Processing);
                runtime.block_on(queues.publish(place, &orders)).unwrap();
            },
            BatchSize::PerIteration,
        );
    });
    let in_flight = embedded.in_flight();
    group.bench_function("put", |bencher| {
        bencher.iter_batched(
            batch,
            |orders| runtime.block_on(in_flight.put(&orders)).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("begin and record", |bencher| {
        bencher.iter_batched(
            || {
                let orders = batch();
                runtime.block_on(in_flight.put(&orders)).unwrap();
                orders
            },
            |mut orders| runtime.block_on(step(&*in_flight, Stage::FIRST, &mut orders)),
            BatchSize::PerIteration,
        );
    });
    let archive = embedded.archive();
    group.bench_function("archive and end", |bencher| {
        bencher.iter_batched(
            || {
                let mut orders = batch();
                runtime.block_on(async {
                    in_flight.put(&orders).await.unwrap();
                    for stage in Stage::ALL {
                        step(&*in_flight, stage, &mut orders).await;
                    }
                });
                orders
            },
            |orders| {
                runtime.block_on(async {
                    archive.archive(&orders).await.unwrap();
                    in_flight.end(&orders).await.unwrap();
                });
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
    runtime.block_on(embedded.close());
}

fn orders(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("all four stages");
    group.sample_size(10);
    for size in [1, 16, BATCH] {
        let folder = tempfile::tempdir_in(".").unwrap();
        let embedded = Arc::new(open(&runtime, folder.path()));
        group.throughput(Throughput::Elements(size as u64));
        group.measurement_time(Duration::from_secs(5));
        group.bench_function(format!("in batches of {size}"), |bencher| {
            bencher.iter_custom(|batches| {
                let batches = usize::try_from(batches).unwrap();
                runtime.block_on(all_stages(&embedded, batches, size))
            });
        });
        runtime.block_on(embedded.close());
    }
    group.finish();
}

fn open(runtime: &Runtime, folder: &std::path::Path) -> Embedded {
    let _context = runtime.enter();
    Embedded::open(EmbeddedOptions { ended_ttl: Duration::from_secs(5), ..EmbeddedOptions::new(folder) }).unwrap()
}

criterion_group!(benches, steps, orders);
criterion_main!(benches);

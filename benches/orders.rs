//! The hot functions of an order's way, each alone. `cargo bench --bench orders`
//!
//! With the real orders of `../shared/data` where they are there, else with `examples/orders.ndjson`.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ordering::domain::{
    Attempts, Decision, Order, OrderId, OrderRecord, Outcome, RecordedOutcome, Report, RetryPolicy, Stage, Timestamp,
    decide,
};
use ordering::wire;
use uuid::Uuid;

const NOW: i64 = 1_764_000_000_000;
const FIRST: Attempts = Attempts { number: 1, uncounted: 0 };
const POLICY: RetryPolicy =
    RetryPolicy { attempts_max: 5, base: Duration::from_secs(1), cap: Duration::from_secs(900) };

fn placed() -> Vec<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let real = format!("{root}/../shared/data/online-retail-orders.ndjson");
    let text = std::fs::read_to_string(real)
        .or_else(|_| std::fs::read_to_string(format!("{root}/examples/orders.ndjson")))
        .expect("orders to measure with");
    text.lines().map(str::to_owned).collect()
}

/// `n` orders in the middle of their way: two steps done.
fn records(n: usize) -> Vec<OrderRecord> {
    placed()
        .iter()
        .cycle()
        .take(n)
        .map(|json| {
            let order = Order::from_json(json.as_bytes()).expect("a valid order");
            let id = OrderId::from_uuid(Uuid::now_v7());
            let mut record = OrderRecord::new(id, Timestamp::from_millis(NOW), order);
            record.history.record(Stage::Scheduling, &outcome(Stage::Scheduling));
            record.history.record(Stage::PreProcessing, &outcome(Stage::PreProcessing));
            record
        })
        .collect()
}

fn outcome(stage: Stage) -> RecordedOutcome {
    let decision = decide(stage, Outcome::done(), FIRST, &POLICY, 0.5);
    let at = Timestamp::from_millis(NOW);
    RecordedOutcome { entered_at: at, finished_at: at, worker: "host-4711".into(), decision, report: Report::default() }
}

fn median_order() -> String {
    let mut placed = placed();
    placed.sort_by_key(String::len);
    placed.swap_remove(placed.len() / 2)
}

fn single(criterion: &mut Criterion) {
    let json = median_order();
    let mut group = criterion.benchmark_group("one order of median size");
    group.throughput(Throughput::Bytes(json.len() as u64));
    group.bench_function("validate", |bench| {
        bench.iter(|| Order::from_json(black_box(json.as_bytes())).expect("valid"));
    });
    let order = Order::from_json(json.as_bytes()).expect("valid");
    group.bench_function("make", |bench| {
        bench.iter(|| {
            let id = OrderId::from_uuid(Uuid::now_v7());
            OrderRecord::new(id, Timestamp::from_millis(NOW), black_box(order.clone()))
        });
    });
    group.bench_function("decide", |bench| {
        bench.iter(|| -> Decision {
            decide(black_box(Stage::Processing), Outcome::done(), black_box(FIRST), &POLICY, 0.5)
        });
    });
    let (record, outcome) = (records(1).remove(0), outcome(Stage::Processing));
    group.bench_function("move to the next step", |bench| {
        bench.iter_batched(
            || record.history.clone(),
            |mut history| {
                history.record(Stage::Processing, black_box(&outcome));
                history
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn batches(criterion: &mut Criterion) {
    for n in [1, 256] {
        let records = records(n);
        let bytes = Bytes::from(wire::encode_batch(&records));
        let mut group = criterion.benchmark_group(format!("a batch of {n}"));
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function("encode", |bench| bench.iter(|| wire::encode_batch(black_box(&records))));
        group.bench_function("decode", |bench| {
            bench.iter(|| wire::decode_batch(black_box(&bytes)).expect("it was just encoded"));
        });
        group.finish();
    }
}

criterion_group!(benches, single, batches);
criterion_main!(benches);

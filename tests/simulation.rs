//! The real intake, worker loop and lookup on a world that fails, thousands of times.
//!
//! Each run is made from a seed: processes die, freeze and wake between any two effects, replies get lost, effects
//! happen twice or late, messages overtake each other, stores go down and are wiped. At the end everything is well
//! again, and every order that was accepted has ended exactly once. No reader ever got a 404 for one.
//!
//! A failing run prints its seed: `ORDERING_TEST_SEED=17 cargo test --test simulation` runs it alone.
//! `ORDERING_TEST_SEEDS=20000` runs more of them.

#[path = "simulation/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ordering::batch::BatchLimits;
use ordering::domain::{Order, OrderId, Outcome, RetryPolicy, Stage, Status};
use ordering::handlers::{Call, Handler};
use ordering::intake::{Intake, IntakeOptions, NotAccepted};
use ordering::lookup::{Lookup, PlacedBefore};
use ordering::worker::{Ports, StageOptions, Worker, WorkerOptions};
use rand::Rng;
use tokio::time::Instant;
use world::{Faults, Part, Process, World};

const ORDERS: usize = 30;
const APIS: usize = 2;
const WORKERS: usize = 3;
const TROUBLE: Duration = Duration::from_secs(60);
/// More than all retries of an order can take.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// What a run may do to the in-flight store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fence {
    /// Nothing but being slow: recorded outcomes must count, and reads must be exact.
    Stands,
    /// It loses calls, goes down and is wiped: orders must still end, each once.
    Falls,
}

struct Work(Arc<World>);

#[async_trait]
impl Handler for Work {
    async fn handle(&self, _call: &Call<'_>) -> Outcome {
        let (wait, outcome) = self.0.random(|rng| {
            let outcome = match rng.random_range(0..20) {
                0 => Outcome::Reject { reason: format!("rejected {}", rng.random::<u32>()) },
                1 | 2 => Outcome::Retry { reason: "busy".into() },
                _ => Outcome::Done,
            };
            (Duration::from_millis(rng.random_range(0..800)), outcome)
        });
        tokio::time::sleep(wait).await;
        outcome
    }
}

fn limits() -> BatchLimits {
    BatchLimits { orders_max: 8, bytes_max: 4_096 }
}

fn start_worker(world: &Arc<World>, number: usize) -> (Process, Worker) {
    let process = Process::start(world);
    let shared = Arc::new(process.clone());
    let ports = Ports { queues: shared.clone(), in_flight: shared.clone(), archive: shared, clock: world.clone() };
    let stages = Stage::ALL.map(|stage| StageOptions {
        stage,
        handler: Arc::new(Work(world.clone())),
        at_once: 16,
        prefetch: 4,
        retry: RetryPolicy { attempts_max: 4, base: Duration::from_secs(1), cap: Duration::from_secs(60) },
        max_deliveries: 1_000,
    });
    let options = WorkerOptions { name: format!("worker-{number}").into(), batch: limits() };
    (process, Worker::start(&options, &ports, stages.into()))
}

struct Api {
    process: Process,
    intake: Intake,
    lookup: Lookup,
}

fn start_api(world: &Arc<World>) -> Api {
    let process = Process::start(world);
    let shared = Arc::new(process.clone());
    let options = IntakeOptions { batch: limits(), waiting_max: 64 };
    let intake = Intake::start(options, shared.clone(), shared.clone(), world.clone());
    Api { process, intake, lookup: Lookup::new(shared.clone(), shared, world.clone()) }
}

/// What customers were told.
#[derive(Default)]
struct Promises {
    accepted: Vec<OrderId>,
    unconfirmed: Vec<OrderId>,
}

async fn customer(world: Arc<World>, apis: Arc<Mutex<Vec<Api>>>, promises: Arc<Mutex<Promises>>, fence: Fence) {
    let wait = world.random(|rng| rng.random_range(0..TROUBLE.as_millis() as u64));
    tokio::time::sleep(Duration::from_millis(wait)).await;
    let json = r#"{"customer_id":"c","currency":"EUR","items":[{"sku":"s","quantity":1,"unit_price":"1.00"}]}"#;
    let order = Order::from_json(json.as_bytes()).unwrap();
    let pick = || world.random(|rng| rng.random_range(0..APIS));
    let place = async |id: Option<OrderId>| {
        let (intake, lookup) = {
            let api = &apis.lock().unwrap()[pick()];
            (api.intake.clone(), api.lookup.clone())
        };
        if let Some(id) = id {
            match lookup.placed_before(id, &order).await {
                PlacedBefore::This => return Ok(id),
                PlacedBefore::Another => panic!("{id} is another order"),
                PlacedBefore::Unknown => {}
            }
        }
        intake.accept(order.clone(), id).await
    };
    // Some send a key, and send again until they are told that the order was taken.
    let (has_key, number) = world.random(|rng| (rng.random_bool(0.5), rng.random::<u64>()));
    let key = has_key.then(|| OrderId::from_key(&number.to_string()));
    let id = loop {
        // A reply from a process that died never comes: the customer hangs up.
        match tokio::time::timeout(Duration::from_secs(30), place(key)).await {
            Ok(Ok(id)) => break id,
            Ok(Err(_)) | Err(_) if has_key => tokio::time::sleep(Duration::from_millis(500)).await,
            Ok(Err(NotAccepted::Unconfirmed { id, .. })) => return promises.lock().unwrap().unconfirmed.push(id),
            Ok(Err(NotAccepted::Overloaded | NotAccepted::Unavailable(_))) | Err(_) => return,
        }
    };
    promises.lock().unwrap().accepted.push(id);
    let (mut seen, end) = (Status::Accepted, Instant::now() + PATIENCE);
    while !seen.has_ended() {
        assert!(Instant::now() < end, "{id} does not end");
        let lookup = apis.lock().unwrap()[pick()].lookup.clone();
        let found = tokio::time::timeout(Duration::from_secs(30), lookup.find(id)).await;
        if let Ok(Ok(found)) = found {
            let status = found.unwrap_or_else(|| panic!("404 for {id} after its 202")).history.status();
            // Records that were lost come back from messages, late duplicates among them.
            assert!(fence == Fence::Falls || status >= seen, "{id} went back from {seen:?} to {status:?}");
            seen = status;
        }
        let wait = world.random(|rng| rng.random_range(10..20_000));
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}

async fn trouble(world: &Arc<World>, apis: &Arc<Mutex<Vec<Api>>>, fence: Fence) -> Vec<(Process, Worker)> {
    let faults = Faults { call_lost: 0.03, reply_lost: 0.03, doubled: 0.05, slow: 0.05 };
    let only_slow = Faults { doubled: 0.05, slow: 0.05, ..Faults::default() };
    world.set_faults(Part::Queues, faults);
    world.set_faults(Part::Archive, faults);
    world.set_faults(Part::InFlight, if fence == Fence::Falls { faults } else { only_slow });
    let mut workers: Vec<_> = (0..WORKERS).map(|number| start_worker(world, number)).collect();
    let mut dead = Vec::new();
    let end = Instant::now() + TROUBLE;
    while Instant::now() < end {
        let wait = world.random(|rng| rng.random_range(100..4_000));
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let (what, which, secs) =
            world.random(|rng| (rng.random_range(0..7), rng.random_range(0..WORKERS), rng.random_range(1..15)));
        let during = Duration::from_secs(secs);
        match what {
            // A worker dies, and another takes its place.
            0 | 1 => {
                workers[which].0.freeze();
                let new = start_worker(world, which);
                dead.push(std::mem::replace(&mut workers[which], new));
            }
            // A worker freezes, and wakes when its orders have long gone to others.
            2 | 3 => {
                let process = workers[which].0.clone();
                process.freeze();
                tokio::spawn(async move {
                    tokio::time::sleep(during).await;
                    process.wake();
                });
            }
            4 => {
                let mut apis = apis.lock().unwrap();
                let which = which % apis.len();
                apis[which].process.freeze();
                apis[which] = start_api(world);
            }
            5 => world.take_down(if which == 0 { Part::Queues } else { Part::Archive }, during),
            _ if fence == Fence::Falls && which == 0 => world.wipe_in_flight(),
            _ if fence == Fence::Falls => world.take_down(Part::InFlight, during),
            _ => {}
        }
    }
    for part in [Part::Queues, Part::InFlight, Part::Archive] {
        world.set_faults(part, Faults::default());
    }
    // Frozen ones are still to wake; the dead stay dead, but are not dropped: a dead process runs no destructor.
    workers.push(start_worker(world, WORKERS));
    workers.extend(dead);
    workers
}

async fn run(seed: u64, fence: Fence) {
    let world = World::new(seed);
    let apis = Arc::new(Mutex::new((0..APIS).map(|_| start_api(&world)).collect::<Vec<_>>()));
    let promises = Arc::new(Mutex::new(Promises::default()));
    let mut customers = tokio::task::JoinSet::new();
    for _ in 0..ORDERS {
        customers.spawn(customer(world.clone(), apis.clone(), promises.clone(), fence));
    }
    let _workers = trouble(&world, &apis, fence).await;

    while let Some(customer) = customers.join_next().await {
        customer.expect("a customer saw what must not be");
    }
    let end = Instant::now() + PATIENCE;
    while world.messages() > 0 {
        assert!(Instant::now() < end, "{} messages never left the queues", world.messages());
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    check(&world, &promises.lock().unwrap(), fence);
}

fn check(world: &Arc<World>, promises: &Promises, fence: Fence) {
    let archive = world.archived();
    for id in &promises.accepted {
        let archived = archive.get(id).unwrap_or_else(|| panic!("{id} was accepted and is lost"));
        assert!(archived.history.status().has_ended());
    }
    assert_eq!(world.buried(), 0, "a message of ours was taken for a dead letter");
    for (point, recorded) in world.ever_recorded() {
        assert!(fence == Fence::Falls || recorded.len() == 1, "two outcomes for {point:?}");
    }
    if fence == Fence::Falls {
        return;
    }
    let mut by_order: BTreeMap<OrderId, usize> = BTreeMap::new();
    for ((id, ..), _) in world.ever_recorded() {
        *by_order.entry(id).or_default() += 1;
    }
    // Of an order whose API died before its 202 there may be no record, and no fence if the archive was down as well.
    for id in &promises.accepted {
        let archived = &archive[id];
        let steps = archived.history.steps();
        let attempts: u32 = steps.iter().map(|step| step.attempts).sum();
        assert_eq!(by_order[id] as u32, attempts, "{id}: attempts recorded and attempts archived differ");
        for step in steps {
            let recorded = &world.ever_recorded()[&(*id, 1, step.stage.index(), step.attempts)][0];
            assert_eq!(
                step.finished_at,
                Some(recorded.finished_at),
                "{id}: not the recorded outcome of {}",
                step.stage
            );
        }
    }
}

fn simulate(seed: u64, fence: Fence) -> std::thread::Result<()> {
    std::panic::catch_unwind(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(seed, fence));
    })
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("ORDERING_TEST_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("ORDERING_TEST_SEEDS").unwrap_or(1_000)).collect(),
    }
}

fn simulate_all(fence: Fence) {
    let failed: Vec<u64> = seeds().into_iter().filter(|seed| simulate(*seed, fence).is_err()).take(3).collect();
    assert!(failed.is_empty(), "{fence:?} fails with ORDERING_TEST_SEED={} (and {failed:?})", failed[0]);
}

#[test]
fn every_accepted_order_ends_once_by_its_recorded_outcomes_and_is_never_read_backwards() {
    simulate_all(Fence::Stands);
}

#[test]
fn every_accepted_order_ends_once_while_the_in_flight_store_fails_and_is_wiped() {
    simulate_all(Fence::Falls);
}

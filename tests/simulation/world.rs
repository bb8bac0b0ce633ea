//! Queues, in-flight store, archive and journal in memory, and processes that use them over a network that fails.
//!
//! Every call of a port passes [`World::effect`], which draws from the seed what happens to it: it takes a while, it
//! never reaches the store, its reply gets lost, it is done twice. A process can die or freeze between any two
//! effects: from then on (or until it wakes) none of its calls comes back, and the broker gives its deliveries to others.

#[path = "world/archive.rs"]
mod archive;
#[path = "world/cancellations.rs"]
mod cancellations;
#[path = "world/in_flight.rs"]
mod in_flight;
#[path = "world/journal.rs"]
mod journal;
#[path = "world/pauses.rs"]
mod pauses;
#[path = "world/queues.rs"]
mod queues;
#[path = "world/webhooks.rs"]
mod webhooks;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ordering::domain::{EventKind, OrderId, OrderRecord, RecordedOutcome, Stage, Timestamp};
use ordering::ports::{AskedCancellation, Clock, Ports, Random, Source, StageState, Unavailable};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

/// What can go wrong, as shares of all calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub call_lost: f64,
    pub reply_lost: f64,
    pub doubled: f64,
    pub slow: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Queues,
    InFlight,
    /// Archive, journal, leases and pauses: one server has them all.
    Archive,
}

struct Message {
    orders: Vec<OrderRecord>,
    ready_at: Instant,
}

struct State {
    rng: StdRng,
    faults: BTreeMap<Part, Faults>,
    down: BTreeMap<Part, Instant>,
    queues: BTreeMap<usize, VecDeque<Message>>,
    /// Unsettled deliveries by process and tag.
    held: BTreeMap<(u64, u64), (usize, Message)>,
    records: BTreeMap<OrderId, in_flight::Record>,
    /// Ever recorded, by order, passage, stage and attempt: outlives a wiped store.
    ever_recorded: BTreeMap<(OrderId, u32, usize, u32), Vec<RecordedOutcome>>,
    archive: BTreeMap<OrderId, OrderRecord>,
    journal: Vec<journal::Row>,
    cancellations: BTreeMap<OrderId, AskedCancellation>,
    leases: BTreeMap<String, (String, Instant)>,
    stages: [StageState; 4],
    /// Queues that were found missing, and that nobody has been told of yet.
    losses: Vec<Source>,
    buried: usize,
    /// What webhooks were told, by order and sequence.
    told: BTreeMap<(OrderId, u64), EventKind>,
    /// Since when no record was lost or could not be written.
    whole_since: Timestamp,
}

/// Everything outside the processes.
pub struct World {
    state: Mutex<State>,
    moved: Notify,
    tags: AtomicU64,
    started: Instant,
}

fn queue(source: Source) -> usize {
    match source {
        Source::Stage(stage) => stage.index(),
        Source::Ending => Stage::ALL.len(),
    }
}

impl World {
    pub fn new(seed: u64) -> Arc<World> {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            faults: BTreeMap::new(),
            down: BTreeMap::new(),
            queues: BTreeMap::new(),
            held: BTreeMap::new(),
            records: BTreeMap::new(),
            ever_recorded: BTreeMap::new(),
            archive: BTreeMap::new(),
            journal: Vec::new(),
            cancellations: BTreeMap::new(),
            leases: BTreeMap::new(),
            stages: Stage::ALL.map(StageState::untouched),
            losses: Vec::new(),
            buried: 0,
            told: BTreeMap::new(),
            whole_since: Timestamp::from_millis(0),
        };
        Arc::new(World {
            state: Mutex::new(state),
            moved: Notify::new(),
            tags: AtomicU64::new(1),
            started: Instant::now(),
        })
    }

    pub fn random<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.state.lock().unwrap().rng)
    }

    pub fn set_faults(&self, part: Part, faults: Faults) {
        self.state.lock().unwrap().faults.insert(part, faults);
    }

    pub fn take_down(&self, part: Part, during: Duration) {
        self.state.lock().unwrap().down.insert(part, Instant::now() + during);
    }

    pub fn wipe_in_flight(&self) {
        let now = self.now();
        let mut state = self.state.lock().unwrap();
        state.records.clear();
        state.whole_since = now;
    }

    /// Records that ended `ttl` ago are gone.
    pub fn expire_ended(&self, ttl: Duration) {
        let now = Instant::now();
        let is_over = |at: Instant| now.duration_since(at) >= ttl;
        self.state.lock().unwrap().records.retain(|_, record| !record.ended_at().is_some_and(is_over));
    }

    /// Deletes the queue of `source` and what it holds, in hands or not; its delay queues too if `with_delays`. The next
    /// publish finds a new one. `is_noticed`: a process finds it missing.
    pub fn wipe_queue(&self, source: Source, with_delays: bool, is_noticed: bool) {
        let (now, number) = (Instant::now(), queue(source));
        let mut state = self.state.lock().unwrap();
        state.queues.entry(number).or_default().retain(|message| message.ready_at > now && !with_delays);
        state.held.retain(|_, (queue, _)| *queue != number);
        if is_noticed {
            state.losses.push(source);
        }
    }

    pub fn archived(&self) -> BTreeMap<OrderId, OrderRecord> {
        self.state.lock().unwrap().archive.clone()
    }

    pub fn ever_recorded(&self) -> BTreeMap<(OrderId, u32, usize, u32), Vec<RecordedOutcome>> {
        self.state.lock().unwrap().ever_recorded.clone()
    }

    pub fn told(&self) -> BTreeMap<(OrderId, u64), EventKind> {
        self.state.lock().unwrap().told.clone()
    }

    pub fn buried(&self) -> usize {
        self.state.lock().unwrap().buried
    }

    /// Messages in queues and in hands, and orders that wait to be published.
    pub fn messages(&self) -> usize {
        let state = self.state.lock().unwrap();
        let waiting = state.journal.iter().filter(|row| row.waits).count();
        state.held.len() + state.queues.values().map(VecDeque::len).sum::<usize>() + waiting
    }

    /// Orders that are to go no further and have not ended.
    pub fn open_cancellations(&self) -> usize {
        self.state.lock().unwrap().cancellations.len()
    }

    /// How long the delivery that is held longest has been in hand.
    pub fn longest_held(&self) -> Duration {
        let state = self.state.lock().unwrap();
        state.held.values().map(|(_, message)| message.ready_at.elapsed()).max().unwrap_or_default()
    }

    /// Gives what a process holds to the others, as a broker does when its connection is gone.
    pub fn cut_off(&self, process: u64) {
        let mut state = self.state.lock().unwrap();
        let tags: Vec<_> = state.held.range((process, 0)..=(process, u64::MAX)).map(|(key, _)| *key).collect();
        for key in tags {
            let (queue, message) = state.held.remove(&key).unwrap();
            state.queues.entry(queue).or_default().push_front(message);
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// Does `effect` once, twice or not at all, and answers or not, as the seed says.
    async fn effect<T>(
        &self,
        process: &Process,
        part: Part,
        mut effect: impl FnMut(&mut StateView<'_>) -> T,
    ) -> Result<T, (bool, Unavailable)> {
        process.alive().await;
        let (faults, before, after, down) = {
            let mut state = self.state.lock().unwrap();
            let faults = state.faults.get(&part).copied().unwrap_or_default();
            let slow = |rng: &mut StdRng| {
                let slow = faults.slow > 0.0 && rng.random_bool(faults.slow);
                Duration::from_micros(if slow { rng.random_range(1_000..3_000_000) } else { rng.random_range(50..900) })
            };
            let (before, after) = (slow(&mut state.rng), slow(&mut state.rng));
            let down = state.down.get(&part).is_some_and(|until| Instant::now() < *until);
            (faults, before, after, down)
        };
        tokio::time::sleep(before).await;
        process.alive().await;
        let unavailable = |reason: &str| Unavailable::new("simulation", reason);
        if down || self.random(|rng| faults.call_lost > 0.0 && rng.random_bool(faults.call_lost)) {
            return Err((false, unavailable("the call was lost")));
        }
        let result = {
            let mut state = self.state.lock().unwrap();
            let doubled = faults.doubled > 0.0 && state.rng.random_bool(faults.doubled);
            let result = effect(&mut StateView(&mut state));
            if doubled {
                effect(&mut StateView(&mut state));
            }
            result
        };
        self.moved.notify_waiters();
        tokio::time::sleep(after).await;
        process.alive().await;
        if self.random(|rng| faults.reply_lost > 0.0 && rng.random_bool(faults.reply_lost)) {
            return Err((true, unavailable("the reply was lost")));
        }
        Ok(result)
    }
}

/// What an effect may do.
struct StateView<'a>(&'a mut State);

/// Whether a process stands still. (A `watch` channel wakes those who wait in an order that no seed decides.)
#[derive(Default)]
struct Frozen {
    is: AtomicBool,
    woken: Notify,
}

/// One process: its ports, and whether it lives.
#[derive(Clone)]
pub struct Process {
    number: u64,
    world: Arc<World>,
    frozen: Arc<Frozen>,
    /// A process that was cut off holds nothing: receipts of before mean nothing now.
    connection: Arc<AtomicU64>,
}

impl Process {
    pub fn start(world: &Arc<World>) -> Process {
        let number = world.tags.fetch_add(1, Ordering::Relaxed);
        Process { number, world: world.clone(), frozen: Arc::default(), connection: Arc::new(AtomicU64::new(number)) }
    }

    /// Tells it from every other one.
    pub fn name(&self) -> String {
        format!("process-{}", self.number)
    }

    /// What the process works with.
    pub fn ports(&self) -> Ports {
        let shared = Arc::new(self.clone());
        Ports {
            queues: shared.clone(),
            in_flight: shared.clone(),
            archive: shared.clone(),
            cancellations: shared.clone(),
            dead_letters: shared.clone(),
            pauses: shared.clone(),
            webhooks: shared.clone(),
            journal: Some(shared.clone()),
            feed: None,
            leases: Some(shared),
            clock: self.world.clone(),
            random: self.world.clone(),
        }
    }

    /// From here on nothing this process calls comes back, and the broker delivers what it held to others.
    pub fn freeze(&self) {
        self.frozen.is.store(true, Ordering::Relaxed);
        self.world.cut_off(self.connection.load(Ordering::Relaxed));
        self.connection.store(self.world.tags.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// It goes on where it was, not knowing that it ever slept.
    pub fn wake(&self) {
        self.frozen.is.store(false, Ordering::Relaxed);
        self.frozen.woken.notify_waiters();
    }

    fn is_frozen(&self) -> bool {
        self.frozen.is.load(Ordering::Relaxed)
    }

    async fn alive(&self) {
        loop {
            let woken = self.frozen.woken.notified();
            if !self.is_frozen() {
                return;
            }
            woken.await;
        }
    }
}

impl Random for World {
    fn bits(&self) -> u128 {
        self.random(|rng| rng.random())
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_764_000_000_000).after(self.started.elapsed())
    }
}

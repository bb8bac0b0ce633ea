//! Queues, in-flight store and archive in memory, and processes that use them over a network that fails.
//!
//! Every call of a port passes [`World::effect`], which draws from the seed what happens to it: it takes a while, it
//! never reaches the store, its reply gets lost, it is done twice. A process can die or freeze between any two
//! effects: from then on (or until it wakes) none of its calls comes back, and the broker gives its deliveries to others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ordering::domain::{OrderId, OrderRecord, Progress, RecordedOutcome, Stage, Timestamp};
use ordering::ports::{
    Archive, Archived, Begun, Clock, DeadLetter, Delivery, InFlight, Place, PublishError, Queues, Receipt, Recorded,
    Settle, Source, Subscription, Unavailable,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, mpsc, watch};
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
    Archive,
}

struct Message {
    orders: Vec<OrderRecord>,
    ready_at: Instant,
}

#[derive(Default)]
struct Record {
    put: Option<OrderRecord>,
    progress: u64,
    deliveries: u32,
    entered: BTreeMap<(u32, usize, u32), (Timestamp, Arc<str>)>,
    outcomes: BTreeMap<(u32, usize, u32), RecordedOutcome>,
    ended: Option<OrderRecord>,
}

struct State {
    rng: StdRng,
    faults: BTreeMap<Part, Faults>,
    down: BTreeMap<Part, Instant>,
    queues: BTreeMap<usize, VecDeque<Message>>,
    /// Unsettled deliveries by process and tag.
    held: BTreeMap<(u64, u64), (usize, Message)>,
    records: BTreeMap<OrderId, Record>,
    /// Ever recorded, by order, passage, stage and attempt: outlives a wiped store.
    ever_recorded: BTreeMap<(OrderId, u32, usize, u32), Vec<RecordedOutcome>>,
    archive: BTreeMap<OrderId, OrderRecord>,
    buried: usize,
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
            buried: 0,
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

    pub fn archived(&self) -> BTreeMap<OrderId, OrderRecord> {
        self.state.lock().unwrap().archive.clone()
    }

    pub fn ever_recorded(&self) -> BTreeMap<(OrderId, u32, usize, u32), Vec<RecordedOutcome>> {
        self.state.lock().unwrap().ever_recorded.clone()
    }

    pub fn buried(&self) -> usize {
        self.state.lock().unwrap().buried
    }

    /// Messages in queues and in hands.
    pub fn messages(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.held.len() + state.queues.values().map(VecDeque::len).sum::<usize>()
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

/// One process: its ports, and whether it lives.
#[derive(Clone)]
pub struct Process {
    world: Arc<World>,
    frozen: Arc<watch::Sender<bool>>,
    /// A process that was cut off holds nothing: receipts of before mean nothing now.
    connection: Arc<AtomicU64>,
}

impl Process {
    pub fn start(world: &Arc<World>) -> Process {
        let number = world.tags.fetch_add(1, Ordering::Relaxed);
        Process {
            world: world.clone(),
            frozen: Arc::new(watch::Sender::new(false)),
            connection: Arc::new(AtomicU64::new(number)),
        }
    }

    /// From here on nothing this process calls comes back, and the broker delivers what it held to others.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
        self.world.cut_off(self.connection.load(Ordering::Relaxed));
        self.connection.store(self.world.tags.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// It goes on where it was, not knowing that it ever slept.
    pub fn wake(&self) {
        self.frozen.send_replace(false);
    }

    async fn alive(&self) {
        let mut frozen = self.frozen.subscribe();
        frozen.wait_for(|frozen| !frozen).await.expect("the process owns the sender");
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_764_000_000_000).after(self.started.elapsed())
    }
}

struct Settler(Process);

impl Settle for Settler {
    fn ack(&self, receipt: Receipt) {
        // A frozen process acks nothing; a woken one acks on a connection that is gone.
        let (process, current) = (&self.0, self.0.connection.load(Ordering::Relaxed));
        if !*process.frozen.borrow() && receipt.connection == current {
            process.world.state.lock().unwrap().held.remove(&(receipt.connection, receipt.tag));
        }
    }

    fn give_back(&self, receipt: Receipt) {
        let (process, current) = (&self.0, self.0.connection.load(Ordering::Relaxed));
        if *process.frozen.borrow() || receipt.connection != current {
            return;
        }
        let mut state = process.world.state.lock().unwrap();
        if let Some((queue, message)) = state.held.remove(&(receipt.connection, receipt.tag)) {
            state.queues.entry(queue).or_default().push_front(message);
        }
        drop(state);
        process.world.moved.notify_waiters();
    }
}

#[async_trait]
impl Queues for Process {
    async fn publish(&self, place: Place, orders: &[OrderRecord]) -> Result<(), PublishError> {
        let (queue, wait) = match place {
            Place::Stage(stage) => (queue(Source::Stage(stage)), Duration::ZERO),
            Place::Delayed(stage, delay) => (queue(Source::Stage(stage)), delay.as_duration()),
            Place::Ending => (queue(Source::Ending), Duration::ZERO),
        };
        let ready_at = Instant::now() + wait;
        self.world
            .effect(self, Part::Queues, |state| {
                let message = Message { orders: orders.to_vec(), ready_at };
                state.0.queues.entry(queue).or_default().push_back(message);
            })
            .await
            .map_err(|(done, unavailable)| match done {
                true => PublishError::Unknown(unavailable),
                false => PublishError::NotTaken(unavailable),
            })
    }

    fn takes(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    fn subscribe(&self, source: Source, prefetch: u16) -> Subscription {
        let (sender, deliveries) = mpsc::channel(usize::from(prefetch));
        let process = self.clone();
        tokio::spawn(async move {
            loop {
                process.alive().await;
                let Ok(place) = sender.reserve().await else {
                    return;
                };
                let moved = process.world.moved.notified();
                let now = Instant::now();
                let next_ready = {
                    let mut state = process.world.state.lock().unwrap();
                    let messages = state.queues.entry(queue(source)).or_default();
                    let ready: Vec<usize> = (0..messages.len()).filter(|n| messages[*n].ready_at <= now).collect();
                    let next_ready = messages.iter().map(|message| message.ready_at).min();
                    if ready.is_empty() || *process.frozen.borrow() {
                        next_ready.filter(|at| *at > now)
                    } else {
                        // Not always the first: queues of several consumers promise no order.
                        let pick = state.rng.random_range(0..ready.len().min(3));
                        let message = state.queues.get_mut(&queue(source)).unwrap().remove(ready[pick]).unwrap();
                        let connection = process.connection.load(Ordering::Relaxed);
                        let tag = process.world.tags.fetch_add(1, Ordering::Relaxed);
                        let contents = Ok(message.orders.clone());
                        state.held.insert((connection, tag), (queue(source), message));
                        place.send(Delivery { receipt: Receipt { connection, tag }, contents });
                        continue;
                    }
                };
                let next_ready = next_ready.unwrap_or(now + Duration::from_secs(3600));
                tokio::select! {
                    biased;
                    () = moved => {}
                    () = tokio::time::sleep_until(next_ready) => {}
                    () = sender.closed() => return,
                }
            }
        });
        Subscription { deliveries, settle: Arc::new(Settler(self.clone())) }
    }

    async fn bury(&self, _letter: &DeadLetter) -> Result<(), PublishError> {
        let buried = self.world.effect(self, Part::Queues, |state| state.0.buried += 1).await;
        buried.map_err(|(_, unavailable)| PublishError::Unknown(unavailable))
    }

    fn dead_letters(&self, _prefetch: u16) -> Option<ordering::ports::DeadSubscription> {
        None
    }

    async fn replay(&self, _source: Source, _bytes: &bytes::Bytes) -> Result<(), PublishError> {
        Err(PublishError::NotTaken(Unavailable::new("queues", "not yet")))
    }

    async fn waiting(&self, _source: Source) -> Result<u64, Unavailable> {
        Err(Unavailable::new("queues", "not yet"))
    }

    fn take_losses(&self) -> Vec<Source> {
        Vec::new()
    }

    async fn check(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn close(&self) {}
}

fn point(order: &OrderRecord, stage: Stage) -> (u32, usize, u32) {
    (order.passage, stage.index(), order.history.next_attempt(stage))
}

/// How far the history an order brings has come.
fn progress_of(order: &OrderRecord) -> u64 {
    let progress =
        order.history.steps().last().map_or(Progress::accepted(order.passage), |step| {
            Progress::finished(order.passage, step.stage, step.attempts)
        });
    progress.as_u64()
}

impl State {
    fn put(&mut self, order: &OrderRecord) {
        let record = self.records.entry(order.id).or_default();
        let ended_before = record.ended.as_ref().is_some_and(|ended| ended.passage >= order.passage);
        let progress = progress_of(order);
        if ended_before || (record.put.is_some() && record.progress >= progress) {
            return;
        }
        record.progress = progress;
        record.put = Some(order.clone());
    }

    fn begin(&mut self, stage: Stage, worker: &Arc<str>, at: Timestamp, order: &OrderRecord) -> Begun {
        let point = point(order, stage);
        let Some(record) = self.records.get(&order.id).filter(|record| record.put.is_some()) else {
            return Begun::Absent;
        };
        let finished = Progress::finished(point.0, stage, point.2).as_u64();
        if record.ended.is_some() || record.progress > finished {
            return Begun::Passed;
        }
        if let Some(outcome) = record.outcomes.get(&point) {
            return Begun::Recorded(outcome.clone());
        }
        if record.progress < progress_of(order) {
            self.put(order);
        }
        let record = self.records.get_mut(&order.id).unwrap();
        let entered = Progress::entered(point.0, stage, point.2).as_u64();
        record.deliveries = if record.progress < entered { 1 } else { record.deliveries + 1 };
        record.progress = entered;
        record.entered.entry(point).or_insert((at, worker.clone()));
        Begun::Fresh { deliveries: record.deliveries }
    }

    fn record(&mut self, stage: Stage, order: &OrderRecord, outcome: &RecordedOutcome) -> Recorded {
        let point = point(order, stage);
        let Some(record) = self.records.get_mut(&order.id).filter(|record| record.put.is_some()) else {
            return Recorded::Absent;
        };
        let finished = Progress::finished(point.0, stage, point.2).as_u64();
        if record.ended.is_some() || record.progress > finished {
            return Recorded::Passed;
        }
        if let Some(outcome) = record.outcomes.get(&point) {
            return Recorded::Earlier(outcome.clone());
        }
        record.outcomes.insert(point, outcome.clone());
        record.progress = finished;
        self.ever_recorded.entry((order.id, point.0, point.1, point.2)).or_default().push(outcome.clone());
        Recorded::First
    }

    fn find(&self, id: OrderId) -> Option<OrderRecord> {
        let record = self.records.get(&id)?;
        if let Some(ended) = &record.ended {
            return Some(ended.clone());
        }
        let mut order = record.put.clone()?;
        for (point @ (passage, stage, attempt), (at, worker)) in &record.entered {
            let stage = Stage::ALL[*stage];
            if *passage == order.passage && order.history.is_at(stage) && order.history.next_attempt(stage) <= *attempt
            {
                order.history.show_attempt(stage, *attempt, *at, worker, record.outcomes.get(point));
            }
        }
        Some(order)
    }
}

#[async_trait]
impl InFlight for Process {
    async fn put(&self, orders: &[OrderRecord]) -> Result<(), Unavailable> {
        let put = self.world.effect(self, Part::InFlight, |state| orders.iter().for_each(|order| state.0.put(order)));
        put.await.map_err(|(_, unavailable)| {
            self.world.state.lock().unwrap().whole_since = self.world.now();
            unavailable
        })
    }

    async fn whole_since(&self, _now: Timestamp) -> Result<Timestamp, Unavailable> {
        let whole_since = self.world.effect(self, Part::InFlight, |state| state.0.whole_since).await;
        whole_since.map_err(|(_, unavailable)| unavailable)
    }

    async fn claim(&self, orders: &[OrderRecord]) -> Result<Vec<ordering::ports::Claim>, Unavailable> {
        let _ = orders;
        Err(Unavailable::new("in-flight store", "not yet"))
    }

    async fn scan(&self, _cursor: u64) -> Result<ordering::ports::Scan, Unavailable> {
        Err(Unavailable::new("in-flight store", "not yet"))
    }

    async fn begin(
        &self,
        stage: Stage,
        worker: &Arc<str>,
        at: Timestamp,
        orders: &[OrderRecord],
    ) -> Result<Vec<Begun>, Unavailable> {
        let begin = self.world.effect(self, Part::InFlight, |state| {
            orders.iter().map(|order| state.0.begin(stage, worker, at, order)).collect()
        });
        begin.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn record(
        &self,
        stage: Stage,
        outcomes: &[(&OrderRecord, RecordedOutcome)],
    ) -> Result<Vec<Recorded>, Unavailable> {
        let record = self.world.effect(self, Part::InFlight, |state| {
            outcomes.iter().map(|(order, outcome)| state.0.record(stage, order, outcome)).collect()
        });
        record.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn end(&self, orders: &[OrderRecord]) -> Result<(), Unavailable> {
        let end = self.world.effect(self, Part::InFlight, |state| {
            for order in orders {
                if let Some(record) = state.0.records.get_mut(&order.id) {
                    record.ended = Some(order.clone());
                }
            }
        });
        end.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        let find = self.world.effect(self, Part::InFlight, |state| state.0.find(id));
        find.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn check(&self) -> Result<(), Unavailable> {
        Ok(())
    }
}

#[async_trait]
impl Archive for Process {
    async fn archive(&self, orders: &[OrderRecord]) -> Result<Vec<Archived>, Unavailable> {
        let archive = self.world.effect(self, Part::Archive, |state| {
            let keep = |order: &OrderRecord| {
                if state.0.archive.contains_key(&order.id) {
                    return Archived::Before;
                }
                state.0.archive.insert(order.id, order.clone());
                Archived::Now
            };
            orders.iter().map(keep).collect()
        });
        archive.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        let find = self.world.effect(self, Part::Archive, |state| state.0.archive.get(&id).cloned());
        find.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn contains(&self, ids: &[OrderId]) -> Result<Vec<bool>, Unavailable> {
        let contains = self
            .world
            .effect(self, Part::Archive, |state| ids.iter().map(|id| state.0.archive.contains_key(id)).collect());
        contains.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn check(&self) -> Result<(), Unavailable> {
        Ok(())
    }
}

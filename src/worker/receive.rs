//! Takes deliveries, begins their orders, and has the handler work on them.
//!
//! An order is begun only when the handler has room for it and the stage's gates ([`crate::gate`]) let it through: what
//! was begun and not worked on would be counted as a delivery that failed. While a gate is closed nothing is
//! subscribed to: what was delivered and not begun goes back to the queue, which can hold it for as long as it takes;
//! a broker takes a delivery back that a worker holds for too long.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::finish::{AttemptResult, Finished, cancellations};
use super::hold::Ticket;
use super::line::Line;
use super::outbound::publish;
use super::outside::Outside;
use super::unpack::{InHand, unpack};
use super::{StageOptions, WorkerOptions};
use crate::batch::{BatchLimits, Batches, Load};
use crate::domain::{OrderId, OrderRecord, Outcome, RecordedOutcome, Stage, Timestamp, decide};
use crate::gate::{Gate, Gates};
use crate::handlers::Call;
use crate::metrics::Metrics;
use crate::ports::{Begun, Clock, Delivery, Place, Ports, Random, Recorded, Source, Subscription};

/// Deliveries of an attempt after which its batch is taken apart: one order of it may be bringing workers down.
const DELIVERIES_BEFORE_SPLIT: u32 = 3;

/// How long orders may wait in hand for the handler to have room for them. What it works on ends within its own limits;
/// with [`UNTAKEN_FOR`] all together stay below five minutes, and RabbitMQ cuts a consumer off that holds a delivery for
/// thirty.
const UNBEGUN_FOR: Duration = Duration::from_secs(60);

/// How long deliveries may wait behind others that are taken up. Past that they go to whoever has room for them.
const UNTAKEN_FOR: Duration = Duration::from_secs(30);

pub(super) struct Receiver {
    batch: BatchLimits,
    gates: Gates,
    work: Arc<Work>,
    ports: Ports,
    outside: Outside,
    metrics: Arc<Metrics>,
    at_work: Arc<Semaphore>,
    handlers: TaskTracker,
    stop: CancellationToken,
}

/// What the task of one order needs.
struct Work {
    worker: Arc<str>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    stage: StageOptions,
    finished: mpsc::Sender<Finished>,
}

impl Load for Delivery {
    fn orders(&self) -> usize {
        self.contents.as_ref().map_or(1, Vec::len)
    }

    fn size_bytes(&self) -> usize {
        match &self.contents {
            Ok(orders) => orders.iter().map(OrderRecord::size_bytes).sum(),
            Err(unreadable) => unreadable.bytes.len(),
        }
    }
}

impl Receiver {
    pub(super) fn new(
        options: &WorkerOptions,
        ports: &Ports,
        outside: Outside,
        stage: StageOptions,
        finished: mpsc::Sender<Finished>,
        stop: CancellationToken,
    ) -> Self {
        Receiver {
            batch: options.batch,
            ports: ports.clone(),
            outside,
            metrics: options.metrics.clone(),
            gates: Gates::new(stage.gates.iter().cloned().chain(stage.handler.gate())),
            at_work: Arc::new(Semaphore::new(stage.at_once)),
            work: Arc::new(Work {
                worker: options.name.clone(),
                clock: ports.clock.clone(),
                random: ports.random.clone(),
                stage,
                finished,
            }),
            handlers: TaskTracker::new(),
            stop,
        }
    }

    pub(super) async fn run(self) {
        let mut gates = self.gates.clone();
        loop {
            let gate = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                gate = gates.until(|now| now != Gate::Closed) => gate,
            };
            if !self.receive(gate, &mut gates).await {
                break;
            }
        }
        self.handlers.close();
        self.handlers.wait().await;
    }

    /// Takes deliveries for as long as the gates stand as they do. Whether there may be more to come after that.
    async fn receive(&self, gate: Gate, gates: &mut Gates) -> bool {
        let source = Source::Stage(self.work.stage.stage);
        let prefetch = match gate {
            Gate::Open => self.work.stage.prefetch,
            Gate::Ajar | Gate::Closed => 1,
        };
        let Subscription { deliveries, settle } = self.ports.queues.subscribe(source, prefetch);
        let mut batches = Batches::new(deliveries, self.batch);
        let mut line = Line::new();
        let more = loop {
            let was_empty = batches.waiting() == 0;
            let deliveries = tokio::select! {
                biased;
                () = self.stop.cancelled() => break false,
                _ = gates.until(|now| now != gate) => break true,
                deliveries = batches.next() => match deliveries {
                    Some(deliveries) => deliveries,
                    None => break false,
                },
            };
            line.took(deliveries.len(), was_empty, batches.waiting());
            let fits = |order: &OrderRecord| order.history.is_at(self.work.stage.stage);
            let in_hand = unpack(&self.ports, source, &settle, deliveries, fits).await;
            if !self.work_on(in_hand, gates).await || (line.since().elapsed() > UNTAKEN_FOR && batches.waiting() > 0) {
                break true;
            }
        };
        // Before the handlers are waited for: what was delivered and not looked at goes to somebody else now.
        for delivery in batches.close().await {
            settle.give_back(delivery.receipt);
        }
        more
    }

    /// Begins the orders as there is room for them; whether all were begun. Those that were not are in the queue again.
    async fn work_on(&self, in_hand: Vec<InHand>, gates: &mut Gates) -> bool {
        let until = Instant::now() + UNBEGUN_FOR;
        let mut waiting = VecDeque::from(in_hand);
        while !waiting.is_empty() {
            let room = tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                room = self.room(waiting.len(), gates) => room,
                () = tokio::time::sleep_until(until) => None,
            };
            let Some((orders, permits)) = room else {
                self.put_back(waiting).await;
                return false;
            };
            self.begin(waiting.drain(..orders).collect(), permits).await;
        }
        true
    }

    /// Waits until the handler has room; for how many of `wanted` orders, and the permits for them. `None` if a gate is
    /// closed.
    async fn room(&self, wanted: usize, gates: &mut Gates) -> Option<(usize, OwnedSemaphorePermit)> {
        loop {
            let gate = gates.now();
            let (orders, permits) = match gate {
                Gate::Closed => return None,
                // Alone: everything that was begun before has ended.
                Gate::Ajar => (1, self.work.stage.at_once),
                Gate::Open => {
                    // Nobody else takes any, so there are as many or more when they are taken.
                    let free = self.at_work.available_permits().clamp(1, wanted);
                    (free, free)
                }
            };
            let permits = u32::try_from(permits).unwrap_or(u32::MAX);
            tokio::select! {
                biased;
                _ = gates.until(|now| now != gate) => {}
                permits = self.at_work.clone().acquire_many_owned(permits) => {
                    return Some((orders, permits.expect("the semaphore is never closed")));
                }
            }
        }
    }

    /// Sees to it that orders in hand that were not begun are in the queue.
    async fn put_back(&self, waiting: VecDeque<InHand>) {
        let Some(first) = waiting.front() else { return };
        // Only the first delivery can have been begun in part. Given back as a whole it would bring back those that were
        // begun as well; so its rest becomes a message of its own. All others are given back with their tickets.
        let of_first = waiting.iter().take_while(|other| other.ticket.came_with(&first.ticket)).count();
        if of_first == first.delivered_with {
            return;
        }
        let rest = waiting.into_iter().take(of_first).map(|i| (i.order, i.ticket));
        let (orders, tickets): (Vec<_>, Vec<_>) = rest.unzip();
        if publish(&self.ports, Place::Stage(self.work.stage.stage), &orders, &self.stop).await.is_ok() {
            tickets.into_iter().for_each(Ticket::settle);
        }
    }

    /// Begins the orders and sends each on its way. `permits` are divided among them.
    async fn begin(&self, in_hand: Vec<InHand>, mut permits: OwnedSemaphorePermit) {
        let in_hand = match self.immediate(&in_hand) {
            Some(outcomes) => self.pass(in_hand, outcomes).await,
            None => in_hand,
        };
        if in_hand.is_empty() {
            return;
        }
        let each = permits.num_permits() / in_hand.len().max(1);
        let (stage, now) = (self.work.stage.stage, self.ports.clock.now());
        let (orders, held): (Vec<_>, Vec<_>) =
            in_hand.into_iter().map(|i| (i.order, (i.ticket, i.delivered_with))).unzip();
        let begun = self.begun(stage, now, &orders).await;
        let is_begun = |begun: &Begun| match begun {
            Begun::Fresh { deliveries: _ } | Begun::Absent => true,
            Begun::Recorded(_) | Begun::Passed | Begun::Cancelled { .. } => false,
        };
        let began = orders.iter().zip(&begun).filter(|(_, begun)| is_begun(begun)).map(|(order, _)| order);
        self.outside.begun(stage, now, began);
        for ((order, (ticket, delivered_with)), begun) in orders.into_iter().zip(held).zip(begun) {
            let permit = permits.split(each);
            match begun {
                Begun::Passed => {
                    self.metrics.duplicate(stage);
                    ticket.settle();
                }
                Begun::Recorded(outcome) => {
                    let result = AttemptResult::Recorded(outcome);
                    self.work.hand_on(Finished { order, ticket, result }).await;
                }
                Begun::Cancelled { cancellation, outcome } => {
                    let result = AttemptResult::Cancelled(cancellation, outcome);
                    self.work.hand_on(Finished { order, ticket, result }).await;
                }
                Begun::Fresh { deliveries } if deliveries > self.work.stage.max_deliveries => {
                    self.work.finish(order, ticket, now, Outcome::reject("delivered too often")).await;
                }
                Begun::Fresh { deliveries } if deliveries > DELIVERIES_BEFORE_SPLIT && delivered_with > 1 => {
                    self.send_alone(order, ticket).await;
                }
                Begun::Fresh { deliveries: _ } | Begun::Absent => self.handle(order, ticket, now, permit).await,
            }
        }
    }

    /// What the work on these orders comes to, if it takes no time.
    fn immediate(&self, in_hand: &[InHand]) -> Option<Vec<RecordedOutcome>> {
        let (work, entered_at) = (&self.work, self.ports.clock.now());
        let outcome = |order| Some(work.outcome(order, entered_at, work.stage.handler.immediate(&work.call(order))?));
        in_hand.iter().map(|in_hand| outcome(&in_hand.order)).collect()
    }

    /// Sends orders on whose work takes no time: one call notes that it was done. Gives those back that want to be begun
    /// like any other: the store was not reached, has no record of them, or says that they go no further.
    async fn pass(&self, in_hand: Vec<InHand>, outcomes: Vec<RecordedOutcome>) -> Vec<InHand> {
        let stage = self.work.stage.stage;
        let pairs: Vec<_> = in_hand.iter().map(|in_hand| &in_hand.order).zip(outcomes.iter().cloned()).collect();
        let recorded = match self.ports.in_flight.record(stage, &pairs).await {
            Ok(recorded) => recorded,
            Err(unavailable) => {
                tracing::debug!(%stage, %unavailable, orders = in_hand.len(), "not passed at once");
                return in_hand;
            }
        };
        if let Some(RecordedOutcome { entered_at, .. }) = outcomes.first() {
            let began = in_hand.iter().zip(&recorded).filter(|(_, recorded)| **recorded == Recorded::First);
            self.outside.begun(stage, *entered_at, began.map(|(in_hand, _)| &in_hand.order));
        }
        let mut left = Vec::new();
        let carry_out = async |InHand { order, ticket, .. }: InHand, outcome| {
            self.work.hand_on(Finished { order, ticket, result: AttemptResult::Recorded(outcome) }).await;
        };
        for ((in_hand, outcome), recorded) in in_hand.into_iter().zip(outcomes).zip(recorded) {
            match recorded {
                Recorded::First => carry_out(in_hand, outcome).await,
                Recorded::Earlier(outcome) => carry_out(in_hand, outcome).await,
                Recorded::Passed => {
                    self.metrics.duplicate(stage);
                    in_hand.ticket.settle();
                }
                Recorded::Cancelled { .. } | Recorded::Absent => left.push(in_hand),
            }
        }
        left
    }

    /// What the in-flight store knows of the orders, after records that were missing have been written again.
    async fn begun(&self, stage: Stage, now: Timestamp, orders: &[OrderRecord]) -> Vec<Begun> {
        let begun = self.ports.in_flight.begin(stage, &self.work.worker, now, orders).await;
        let mut begun = match begun {
            Ok(begun) => begun,
            Err(unavailable) => {
                tracing::debug!(%stage, %unavailable, orders = orders.len(), "begun without the in-flight store");
                let mut begun = vec![Begun::Absent; orders.len()];
                self.look_for_cancellations(orders, &mut begun).await;
                return begun;
            }
        };
        let absent: Vec<usize> = (0..orders.len()).filter(|n| begun[*n] == Begun::Absent).collect();
        if absent.is_empty() {
            return begun;
        }
        let ids: Vec<_> = absent.iter().map(|n| orders[*n].id).collect();
        let ended = match self.ports.archive.ended_passages(&ids).await {
            Ok(ended) => ended,
            // Nobody can say whether these have ended: they go on, and no record is written that might outlive them.
            Err(unavailable) => {
                tracing::debug!(%stage, %unavailable, orders = ids.len(), "begun without a record");
                return begun;
            }
        };
        for (n, ended) in absent.into_iter().zip(ended) {
            let is_over = ended.is_some_and(|passage| passage >= orders[n].passage);
            if is_over && self.is_end_told(orders[n].id).await {
                begun[n] = Begun::Passed;
            }
        }
        self.look_for_cancellations(orders, &mut begun).await;
        let missing: Vec<usize> = (0..orders.len()).filter(|n| begun[*n] == Begun::Absent).collect();
        self.restore(stage, now, orders, &missing, &mut begun).await;
        begun
    }

    /// Of orders without a record nobody has said whether they are to go further.
    async fn look_for_cancellations(&self, orders: &[OrderRecord], begun: &mut [Begun]) {
        let absent: Vec<usize> = (0..orders.len()).filter(|n| begun[*n] == Begun::Absent).collect();
        let asked: Vec<_> = absent.iter().map(|n| (orders[*n].id, orders[*n].passage)).collect();
        for (n, cancellation) in absent.into_iter().zip(cancellations(&self.ports, &asked).await) {
            if let Some(cancellation) = cancellation {
                begun[n] = Begun::Cancelled { cancellation, outcome: None };
            }
        }
    }

    /// Sees to it that webhooks know of the end of an order that the archive has and the in-flight store has lost: whoever
    /// put it there may have died before it told them. Where this fails the order is as good as unknown.
    async fn is_end_told(&self, id: OrderId) -> bool {
        if !self.outside.has_webhooks() {
            return true;
        }
        match self.ports.archive.find(id).await {
            Ok(ended) => self.outside.tell_webhooks(ended.as_slice(), &self.stop).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Writes the records of `orders[missing]` from their message and begins them.
    async fn restore(
        &self,
        stage: Stage,
        now: Timestamp,
        orders: &[OrderRecord],
        missing: &[usize],
        begun: &mut [Begun],
    ) {
        if missing.is_empty() {
            return;
        }
        let restored: Vec<OrderRecord> = missing.iter().map(|n| orders[*n].clone()).collect();
        let written = match self.ports.in_flight.put(&restored).await {
            Ok(()) => self.ports.in_flight.begin(stage, &self.work.worker, now, &restored).await,
            Err(unavailable) => Err(unavailable),
        };
        match written {
            Ok(again) => missing.iter().zip(again).for_each(|(n, again)| begun[*n] = again),
            Err(unavailable) => {
                tracing::debug!(%stage, %unavailable, orders = missing.len(), "records not restored")
            }
        }
    }

    /// Puts an order of a batch that comes again and again into a message of its own, so that the one that brings
    /// workers down brings down only itself.
    async fn send_alone(&self, order: OrderRecord, ticket: Ticket) {
        let place = Place::Stage(self.work.stage.stage);
        // Held until it works: given back, it would come round at full speed, and each round counts as a delivery.
        while publish(&self.ports, place, std::slice::from_ref(&order), &self.stop).await.is_err() {
            if self.stop.is_cancelled() {
                return;
            }
        }
        ticket.settle();
    }

    async fn handle(
        &self,
        order: OrderRecord,
        ticket: Ticket,
        entered_at: Timestamp,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let immediate = self.work.stage.handler.immediate(&self.work.call(&order));
        if let Some(outcome) = immediate {
            return self.work.finish(order, ticket, entered_at, outcome).await;
        }
        let work = self.work.clone();
        self.handlers.spawn(async move {
            let outcome = work.stage.handler.handle(&work.call(&order)).await;
            work.finish(order, ticket, entered_at, outcome).await;
            drop(permit);
        });
    }
}

impl Work {
    fn call<'a>(&self, order: &'a OrderRecord) -> Call<'a> {
        Call { order, stage: self.stage.stage, attempt: order.history.next_attempt(self.stage.stage) }
    }

    /// What is to be recorded of an attempt that came to `outcome`.
    fn outcome(&self, order: &OrderRecord, entered_at: Timestamp, outcome: Outcome) -> RecordedOutcome {
        let attempts = order.history.next_attempts(self.stage.stage);
        RecordedOutcome {
            entered_at,
            finished_at: self.clock.now(),
            worker: self.worker.clone(),
            report: outcome.report(),
            decision: decide(self.stage.stage, outcome, attempts, &self.stage.retry, self.random.fraction()),
        }
    }

    /// Hands on what is to be recorded of an attempt that came to `outcome`.
    async fn finish(&self, order: OrderRecord, ticket: Ticket, entered_at: Timestamp, outcome: Outcome) {
        let outcome = self.outcome(&order, entered_at, outcome);
        self.hand_on(Finished { order, ticket, result: AttemptResult::New(outcome) }).await;
    }

    async fn hand_on(&self, finished: Finished) {
        // A closed channel means that the process is going down: the order's ticket is dropped, and it comes again.
        let _ = self.finished.send(finished).await;
    }
}

//! The in-flight store.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use ordering::domain::{
    Cancellation, Decision, OrderId, OrderRecord, Placed, Progress, RecordedOutcome, Stage, Timestamp,
};
use ordering::ports::{Begun, Cancelling, Claim, Clock, InFlight, Recorded, Scan, Unavailable, Unmoved};

use tokio::time::Instant;

use super::{Part, Process, State};

#[derive(Default, Debug)]
pub(super) struct Record {
    put: Option<OrderRecord>,
    progress: u64,
    deliveries: u32,
    entered: BTreeMap<(u32, usize, u32), (Timestamp, Arc<str>)>,
    outcomes: BTreeMap<(u32, usize, u32), RecordedOutcome>,
    cancelled: Option<Cancellation>,
    ended: Option<(OrderRecord, Instant)>,
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
        let ended_before = record.ended.as_ref().is_some_and(|(ended, _)| ended.passage >= order.passage);
        let progress = progress_of(order);
        let accepted = Progress::accepted(order.passage).as_u64();
        let is_anothers = record.put.as_ref().is_some_and(|put| put.order != order.order) && record.progress > accepted;
        if ended_before || is_anothers || (record.put.is_some() && record.progress >= progress) {
            return;
        }
        let is_later = record.passage() < order.passage;
        if record.cancelled.is_some() && !is_later {
            return;
        }
        record.begin_anew(order);
    }

    fn claim(&mut self, order: &OrderRecord) -> Claim {
        match self.records.get(&order.id).and_then(|record| record.put.as_ref().map(|put| (record, put))) {
            Some((_, put)) if put.order != order.order => Claim::Other,
            Some((record, _)) => Claim::Same {
                is_under_way: record.ended.is_some()
                    || record.passage() > order.passage
                    || record.progress > Progress::accepted(order.passage).as_u64(),
            },
            None => {
                self.put(order);
                Claim::New
            }
        }
    }

    /// A record of other content that nobody has begun takes this one in.
    fn make_way_for(&mut self, order: &OrderRecord) {
        if self.records[&order.id].is_of_another(order) {
            self.records.remove(&order.id);
            self.put(order);
        }
    }

    /// What a record does not know of the way that led to an attempt it takes in first: it has no gaps. Perhaps it knows
    /// what a worker recorded that nobody followed.
    fn follow(&mut self, order: &OrderRecord, entered: u64) {
        let record = self.records.get_mut(&order.id).expect("it is there");
        if !record.has_ended(order.passage) && record.progress < entered && !record.knows(order) {
            record.begin_anew(order);
        }
    }

    fn begin(&mut self, stage: Stage, worker: &Arc<str>, at: Timestamp, order: &OrderRecord) -> Begun {
        let point = point(order, stage);
        let Some(record) = self.records.get(&order.id).filter(|record| record.put.is_some()) else {
            return Begun::Absent;
        };
        if record.is_of_another_for_good(order) {
            return Begun::Passed;
        }
        self.make_way_for(order);
        let record = &self.records[&order.id];
        let finished = Progress::finished(point.0, stage, point.2).as_u64();
        if record.has_ended(order.passage) || record.progress > finished {
            return Begun::Passed;
        }
        if let Some(cancellation) = record.cancelled.clone().filter(|_| record.passage() == order.passage) {
            return Begun::Cancelled { cancellation, outcome: record.outcomes.get(&point).cloned() };
        }
        if let Some(outcome) = record.outcomes.get(&point) {
            return Begun::Recorded(outcome.clone());
        }
        let entered = Progress::entered(point.0, stage, point.2).as_u64();
        self.follow(order, entered);
        let record = self.records.get_mut(&order.id).unwrap();
        record.deliveries = if record.progress < entered { 1 } else { record.deliveries + 1 };
        record.progress = entered;
        record.entered.entry(point).or_insert((at, worker.clone()));
        Begun::Fresh { deliveries: record.deliveries }
    }

    fn record(&mut self, stage: Stage, order: &OrderRecord, outcome: &RecordedOutcome) -> Recorded {
        let point = point(order, stage);
        let Some(record) = self.records.get(&order.id).filter(|record| record.put.is_some()) else {
            return Recorded::Absent;
        };
        if record.is_of_another_for_good(order) {
            return Recorded::Passed;
        }
        self.make_way_for(order);
        let entered = Progress::entered(point.0, stage, point.2).as_u64();
        let record = &self.records[&order.id];
        let cancellation = record.cancelled.clone().filter(|_| record.passage() == order.passage);
        if cancellation.is_none() {
            self.follow(order, entered);
        }
        let record = self.records.get_mut(&order.id).expect("it is there");
        let finished = Progress::finished(point.0, stage, point.2).as_u64();
        if record.has_ended(order.passage) || record.progress > finished {
            return Recorded::Passed;
        }
        match (record.outcomes.get(&point).cloned(), cancellation) {
            (Some(outcome), Some(cancellation)) => return Recorded::Cancelled { cancellation, outcome },
            (Some(outcome), None) => return Recorded::Earlier(outcome),
            (None, Some(cancellation)) if record.progress != entered => {
                return Recorded::Cancelled { cancellation, outcome: outcome.clone() };
            }
            (None, Some(cancellation)) => {
                self.set_recorded(point, order.id, outcome, finished);
                return Recorded::Cancelled { cancellation, outcome: outcome.clone() };
            }
            (None, None) => self.set_recorded(point, order.id, outcome, finished),
        }
        Recorded::First
    }

    fn set_recorded(&mut self, point: (u32, usize, u32), id: OrderId, outcome: &RecordedOutcome, finished: u64) {
        let record = self.records.get_mut(&id).expect("it is there");
        record.entered.entry(point).or_insert((outcome.entered_at, outcome.worker.clone()));
        record.outcomes.insert(point, outcome.clone());
        record.progress = finished;
        self.ever_recorded.entry((id, point.0, point.1, point.2)).or_default().push(outcome.clone());
    }

    fn cancel(&mut self, id: OrderId, passage: u32, cancellation: &Cancellation) -> Cancelling {
        let Some(record) = self.records.get_mut(&id).filter(|record| record.passage() >= passage) else {
            return Cancelling::Absent;
        };
        if record.ended.is_some() || record.passage() > passage {
            return Cancelling::Ended;
        }
        let Some(mut unmoved) = record.unmoved() else { return Cancelling::Absent };
        if record.cancelled.is_none() && unmoved.order.history.status().has_ended() {
            return Cancelling::AtWork;
        }
        let cancellation = record.cancelled.get_or_insert_with(|| cancellation.clone()).clone();
        if unmoved.is_at_work {
            return Cancelling::AtWork;
        }
        unmoved.order.history.cancel(cancellation);
        Cancelling::Waits(Box::new(unmoved.order))
    }

    fn find(&self, id: OrderId) -> Option<OrderRecord> {
        let record = self.records.get(&id)?;
        if let Some((ended, _)) = &record.ended {
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

    fn unmoved(&self) -> Vec<Unmoved> {
        let in_flight = self.records.values().filter(|record| record.ended.is_none());
        in_flight.filter_map(Record::unmoved).collect()
    }
}

impl Record {
    /// The passage it is of, 0 if it is none.
    fn passage(&self) -> u32 {
        Progress::from(self.progress).attempt().0
    }

    /// Whether an order of this passage has ended.
    fn has_ended(&self, passage: u32) -> bool {
        self.passage() > passage || (self.ended.is_some() && self.passage() == passage)
    }

    /// Takes in what a message brings, in the place of what it knew.
    fn begin_anew(&mut self, order: &OrderRecord) {
        if self.passage() < order.passage {
            (self.ended, self.cancelled) = (None, None);
        }
        self.progress = progress_of(order);
        self.put = Some(order.clone());
    }

    /// Whether what was recorded last is what the order brings, and nothing was begun since.
    fn knows(&self, order: &OrderRecord) -> bool {
        let last = |order: &OrderRecord| {
            order.history.steps().last().map(|step| (step.stage, step.attempts, step.outcome, step.uncounted))
        };
        self.progress == progress_of(order) && self.unmoved().is_some_and(|known| last(&known.order) == last(order))
    }

    fn is_of_another(&self, order: &OrderRecord) -> bool {
        order.id.placed() == Placed::AnyTime && self.put.as_ref().is_some_and(|put| put.order != order.order)
    }

    /// Of two orders with one key the first that is begun has it.
    fn is_of_another_for_good(&self, order: &OrderRecord) -> bool {
        let is_begun = self.ended.is_some() || self.progress > Progress::accepted(self.passage()).as_u64();
        self.is_of_another(order) && is_begun
    }

    pub(super) fn ended_at(&self) -> Option<Instant> {
        self.ended.as_ref().map(|(_, at)| *at)
    }

    fn unmoved(&self) -> Option<Unmoved> {
        let mut order = self.put.clone()?;
        let mut since = Unmoved::since(&order);
        let mut is_at_work = false;
        while let Some(stage) = Stage::ALL.into_iter().find(|stage| order.history.is_at(*stage)) {
            let point = point(&order, stage);
            if let Some((at, _)) = self.entered.get(&point) {
                since = since.max(*at);
                is_at_work = !self.outcomes.contains_key(&point);
            }
            let Some(outcome) = self.outcomes.get(&point) else { break };
            order.history.record(stage, outcome);
            since = since.max(match outcome.decision {
                Decision::Retry { delay, .. } => outcome.finished_at.after(delay.as_duration()),
                Decision::Advance(_) | Decision::End(_) => outcome.finished_at,
            });
        }
        Some(Unmoved { order, since, is_at_work })
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

    async fn claim(&self, orders: &[OrderRecord]) -> Result<Vec<Claim>, Unavailable> {
        let claim =
            self.world.effect(self, Part::InFlight, |state| orders.iter().map(|order| state.0.claim(order)).collect());
        claim.await.map_err(|(_, unavailable)| {
            self.world.state.lock().unwrap().whole_since = self.world.now();
            unavailable
        })
    }

    async fn scan(&self, _cursor: u64) -> Result<Scan, Unavailable> {
        let scan = self.world.effect(self, Part::InFlight, |state| Scan { orders: state.0.unmoved(), next: None });
        scan.await.map_err(|(_, unavailable)| unavailable)
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

    async fn cancel(&self, id: OrderId, passage: u32, cancellation: &Cancellation) -> Result<Cancelling, Unavailable> {
        let cancel = self.world.effect(self, Part::InFlight, |state| state.0.cancel(id, passage, cancellation));
        cancel.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn end(&self, orders: &[OrderRecord]) -> Result<(), Unavailable> {
        let end = self.world.effect(self, Part::InFlight, |state| {
            for order in orders {
                // A record of an earlier passage lacks all of this one.
                state.0.records.retain(|id, record| *id != order.id || record.passage() >= order.passage);
                if let Some(record) = state.0.records.get_mut(&order.id)
                    && record.passage() == order.passage
                {
                    record.ended.get_or_insert((order.clone(), Instant::now()));
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

//! What happens to an order, as those are told who follow it from outside.
//!
//! Events are read off an order's history and nothing else. So whoever tells of an order a second time (it was delivered
//! again, a process died in between) tells the same events with the same [`Event::sequence`], and whoever is told can
//! see that.

use super::history::{EarlierPassage, History, RetriedAttempt, Status, Step, StepOutcome};
use super::order::{OrderId, OrderRecord};
use super::progress::Progress;
use super::stage::Stage;
use super::timestamp::Timestamp;

/// What can happen to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// It was taken.
    OrderAccepted,
    /// It had failed, and goes on in another passage.
    OrderRetried,
    /// A worker began a stage, for the first time.
    StepStarted,
    /// A stage is done.
    StepDone,
    /// An attempt at a stage wants another one.
    StepRetried,
    OrderCompleted,
    OrderFailed,
    OrderCancelled,
}

impl EventKind {
    pub const ALL: [EventKind; 8] = [
        EventKind::OrderAccepted,
        EventKind::OrderRetried,
        EventKind::StepStarted,
        EventKind::StepDone,
        EventKind::StepRetried,
        EventKind::OrderCompleted,
        EventKind::OrderFailed,
        EventKind::OrderCancelled,
    ];

    /// The name in JSON and in parameters.
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::OrderAccepted => "order.accepted",
            EventKind::OrderRetried => "order.retried",
            EventKind::StepStarted => "step.started",
            EventKind::StepDone => "step.done",
            EventKind::StepRetried => "step.retried",
            EventKind::OrderCompleted => "order.completed",
            EventKind::OrderFailed => "order.failed",
            EventKind::OrderCancelled => "order.cancelled",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<EventKind> {
        EventKind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Some of the kinds of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventKinds(u8);

impl EventKinds {
    pub const NONE: EventKinds = EventKinds(0);

    pub fn all() -> EventKinds {
        EventKind::ALL.into_iter().collect()
    }

    pub fn contains(self, kind: EventKind) -> bool {
        self.0 & Self::bit(kind) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn union(self, other: EventKinds) -> EventKinds {
        EventKinds(self.0 | other.0)
    }

    /// In the order of [`EventKind::ALL`].
    pub fn iter(self) -> impl Iterator<Item = EventKind> {
        EventKind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }

    fn bit(kind: EventKind) -> u8 {
        1 << kind as u8
    }
}

impl FromIterator<EventKind> for EventKinds {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> EventKinds {
        EventKinds(kinds.into_iter().fold(0, |bits, kind| bits | Self::bit(kind)))
    }
}

/// Something that happened to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub order: OrderId,
    /// Grows along the order's way, with gaps. Two events of one order with one sequence are the same event.
    pub sequence: u64,
    pub kind: EventKind,
    pub at: Timestamp,
    /// The stage it happened at; `None` for what concerns the order as a whole.
    pub stage: Option<Stage>,
    /// The attempt at that stage, 1 for the first.
    pub attempt: Option<u32>,
    /// Why it is tried again, failed or was cancelled.
    pub reason: Option<String>,
}

impl Event {
    /// That this order was taken.
    pub fn accepted(order: &OrderRecord) -> Event {
        of_order(order.id, EventKind::OrderAccepted, Progress::accepted(1), order.placed_at)
    }

    /// What its passage begins with: that it was taken, or tried again.
    pub fn beginning(order: &OrderRecord) -> Event {
        match order.history.earlier().last() {
            Some(before) => retried_order(order.id, order.passage, before.retried_at),
            None => Event::accepted(order),
        }
    }

    /// That a worker began `stage` for the first time, at `at`; `None` if it was begun before.
    pub fn started(order: &OrderRecord, stage: Stage, at: Timestamp) -> Option<Event> {
        (order.history.next_attempt(stage) == 1).then(|| started(order.id, order.passage, stage, at))
    }

    /// Whether nothing was begun in the order's passage yet.
    pub fn is_beginning(order: &OrderRecord) -> bool {
        let before = order.history.earlier().last().map(|before| &before.steps[..]);
        order.history.steps().len() == taken_over(order.history.steps(), before)
    }

    /// Everything that has happened to an order, as far as its history keeps it, in the order of sequences.
    pub fn all_of(order: &OrderRecord) -> Vec<Event> {
        let mut events = vec![Event::accepted(order)];
        let mut before: Option<&EarlierPassage> = None;
        for earlier in order.history.earlier() {
            events.extend(before.map(|before| retried_order(order.id, earlier.passage, before.retried_at)));
            let own = taken_over(&earlier.steps, before.map(|before| &before.steps[..]));
            events.extend(earlier.steps[own..].iter().flat_map(|step| of_whole_step(order.id, earlier.passage, step)));
            events.extend(earlier.steps.last().map(|last| failed(order.id, earlier.passage, last)));
            before = Some(earlier);
        }
        events.extend(before.map(|_| Event::beginning(order)));
        let own = taken_over(order.history.steps(), before.map(|before| &before.steps[..]));
        let steps = &order.history.steps()[own..];
        events.extend(steps.iter().flat_map(|step| of_whole_step(order.id, order.passage, step)));
        events.extend(end(order));
        events
    }

    /// What the outcome that was recorded last brought with it, in the order of sequences; nothing, before the first.
    /// The beginning of its stage is among it if this was the first attempt, and what the passage began with if this was
    /// its first step, with the end of the passage before: whoever was to tell of that may have died before it did. So who
    /// is told of every outcome is told everything.
    pub fn of_last_outcome(order: &OrderRecord) -> Vec<Event> {
        let (mut events, end) = (Vec::with_capacity(3), end(order));
        if Event::is_beginning(order) {
            // It ended before anything was begun, or nothing has happened yet.
            return end.map_or_else(Vec::new, |end| whole_beginning(order).into_iter().chain([end]).collect());
        }
        let Some((step, steps_before)) = order.history.steps().split_last() else { return events };
        if step.attempts == 1 {
            let before = order.history.earlier().last().map(|before| &before.steps[..]);
            if steps_before.len() == taken_over(steps_before, before) {
                events.extend(whole_beginning(order));
            }
            events.push(started(order.id, order.passage, step.stage, step.entered_at));
        }
        if step.outcome.is_none()
            && let Some(retry) = step.retries.last()
        {
            events.push(retried(order.id, order.passage, step.stage, retry));
        }
        events.extend(done(order.id, order.passage, step));
        events.extend(end);
        events
    }

    /// How the order ended; `None` if it has not.
    pub fn of_end(order: &OrderRecord) -> Option<Event> {
        end(order)
    }

    /// The same for the same event, however often it is told, and for no other.
    pub fn id(&self) -> String {
        format!("{}:{}", self.order, self.sequence)
    }
}

/// How many of `steps` were done in the passage before, which took these.
fn taken_over(steps: &[Step], before: Option<&[Step]>) -> usize {
    before.map_or(0, |before| steps.iter().zip(before).take_while(|(step, before)| step == before).count())
}

/// What the order's passage begins with, after the last outcome of the one before, and all that was to be told with that.
fn whole_beginning(order: &OrderRecord) -> Vec<Event> {
    let earlier = order.history.earlier();
    let own_steps = |n: usize| {
        let before = n.checked_sub(1).map(|before| &earlier[before].steps[..]);
        &earlier[n].steps[taken_over(&earlier[n].steps, before)..]
    };
    // A passage of one outcome was to tell of the passage before it as well.
    let mut first = earlier.len().saturating_sub(1);
    while first > 0 && own_steps(first).len() == 1 {
        first -= 1;
    }
    let mut events = Vec::new();
    for (n, passage) in earlier.iter().enumerate().skip(first) {
        if own_steps(n).len() == 1 {
            events.push(match n.checked_sub(1) {
                Some(before) => retried_order(order.id, passage.passage, earlier[before].retried_at),
                None => Event::accepted(order),
            });
        }
        if let Some(last) = passage.steps.last() {
            events.extend(of_whole_step(order.id, passage.passage, last));
            events.push(failed(order.id, passage.passage, last));
        }
    }
    events.push(Event::beginning(order));
    events
}

fn of_order(order: OrderId, kind: EventKind, sequence: Progress, at: Timestamp) -> Event {
    Event { order, sequence: sequence.as_u64(), kind, at, stage: None, attempt: None, reason: None }
}

fn retried_order(order: OrderId, passage: u32, at: Timestamp) -> Event {
    of_order(order, EventKind::OrderRetried, Progress::accepted(passage), at)
}

fn of_step(order: OrderId, kind: EventKind, sequence: Progress, at: Timestamp) -> Event {
    let (_, stage, attempt) = sequence.attempt();
    Event { stage: Some(stage), attempt: Some(attempt), ..of_order(order, kind, sequence, at) }
}

fn of_whole_step(order: OrderId, passage: u32, step: &Step) -> Vec<Event> {
    let mut events = vec![started(order, passage, step.stage, step.entered_at)];
    events.extend(step.retries.iter().map(|retry| retried(order, passage, step.stage, retry)));
    events.extend(done(order, passage, step));
    events
}

fn started(order: OrderId, passage: u32, stage: Stage, at: Timestamp) -> Event {
    of_step(order, EventKind::StepStarted, Progress::entered(passage, stage, 1), at)
}

fn retried(order: OrderId, passage: u32, stage: Stage, retry: &RetriedAttempt) -> Event {
    let sequence = Progress::finished(passage, stage, retry.attempt);
    Event { reason: Some(retry.reason.clone()), ..of_step(order, EventKind::StepRetried, sequence, retry.at) }
}

fn done(order: OrderId, passage: u32, step: &Step) -> Option<Event> {
    match step.outcome {
        Some(StepOutcome::Done) => {
            let sequence = Progress::finished(passage, step.stage, step.attempts);
            Some(of_step(order, EventKind::StepDone, sequence, step.finished_at.unwrap_or(step.entered_at)))
        }
        // What it means for the order is told: that it failed, and why.
        Some(StepOutcome::Rejected) | None => None,
    }
}

/// How a passage failed, by its last step.
fn failed(order: OrderId, passage: u32, last: &Step) -> Event {
    let at = last.finished_at.unwrap_or(last.entered_at);
    Event {
        stage: Some(last.stage),
        attempt: Some(last.attempts),
        reason: last.reason.clone(),
        ..of_order(order, EventKind::OrderFailed, Progress::ended(passage), at)
    }
}

fn end(order: &OrderRecord) -> Option<Event> {
    let history: &History = &order.history;
    let kind = match history.status() {
        Status::Accepted | Status::In(_) => return None,
        Status::Completed => EventKind::OrderCompleted,
        Status::Failed => EventKind::OrderFailed,
        Status::Cancelled => EventKind::OrderCancelled,
    };
    let failure = history.failure();
    let attempt = failure.as_ref().and_then(|_| history.steps().last()).map(|step| step.attempts);
    Some(Event {
        order: order.id,
        sequence: Progress::ended(order.passage).as_u64(),
        kind,
        at: history.finished_at().unwrap_or_else(|| order.updated_at()),
        stage: failure.as_ref().map(|failure| failure.stage),
        attempt,
        reason: match history.cancellation() {
            Some(cancellation) => cancellation.reason.clone(),
            None => failure.map(|failure| failure.reason),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::{Decision, Delay, End, Order, RecordedOutcome, Report};

    fn accepted() -> OrderRecord {
        let json = br#"{"customer_id":"c","currency":"EUR","items":[{"sku":"s","quantity":1,"unit_price":"1"}]}"#;
        let id = OrderId::from_uuid(Uuid::from_u128(5));
        OrderRecord::new(id, Timestamp::from_millis(0), Order::from_json(json).unwrap())
    }

    fn record(order: &mut OrderRecord, stage: Stage, at: i64, decision: Decision) {
        let (entered_at, finished_at) = (Timestamp::from_millis(at), Timestamp::from_millis(at + 1));
        let outcome =
            RecordedOutcome { entered_at, finished_at, worker: "w".into(), decision, report: Report::default() };
        order.history.record(stage, &outcome);
    }

    fn retry() -> Decision {
        Decision::Retry { reason: "busy".into(), delay: Delay::at_least(Duration::ZERO), counts: true }
    }

    /// An order that is tried again at the second stage; after each step what came with it.
    fn completed() -> (OrderRecord, Vec<Event>) {
        let (mut order, mut told, mut at) = (accepted(), Vec::new(), 10);
        for stage in Stage::ALL {
            let tries = if stage == Stage::PreProcessing { 2 } else { 0 };
            let last = stage.next().map_or(Decision::End(End::Completed), Decision::Advance);
            for decision in std::iter::repeat_n(retry(), tries).chain([last]) {
                record(&mut order, stage, at, decision);
                told.extend(Event::of_last_outcome(&order));
                at += 10;
            }
        }
        (order, told)
    }

    #[test]
    fn told_step_by_step_or_at_once_it_is_the_same() {
        let (order, told) = completed();
        assert_eq!(told, Event::all_of(&order));
        assert!(told.is_sorted_by(|a, b| a.sequence < b.sequence), "{told:?}");
        let kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(
            kinds[..6],
            ["order.accepted", "step.started", "step.done", "step.started", "step.retried", "step.retried"]
        );
        assert_eq!(
            kinds[6..],
            ["step.done", "step.started", "step.done", "step.started", "step.done", "order.completed"]
        );
        let retried = &told[5];
        assert_eq!((retried.stage, retried.attempt), (Some(Stage::PreProcessing), Some(2)));
        assert_eq!((retried.reason.as_deref(), retried.at), (Some("busy"), Timestamp::from_millis(31)));
        assert_eq!(told[6].attempt, Some(3));
    }

    #[test]
    fn a_failed_order_says_where_and_why() {
        let mut order = accepted();
        assert_eq!(Event::of_last_outcome(&order), []);
        record(&mut order, Stage::Scheduling, 3, retry());
        record(&mut order, Stage::Scheduling, 5, Decision::End(End::Failed { reason: "no stock".into() }));
        let [failed] = &Event::of_last_outcome(&order)[..] else { panic!("one event") };
        assert_eq!(
            (failed.kind, failed.stage, failed.attempt),
            (EventKind::OrderFailed, Some(Stage::Scheduling), Some(2))
        );
        assert_eq!((failed.reason.as_deref(), failed.at), (Some("no stock"), Timestamp::from_millis(6)));
        assert_eq!(Event::all_of(&order).last(), Some(failed));
    }

    #[test]
    fn only_the_first_attempt_starts_a_step() {
        let (mut order, at) = (accepted(), Timestamp::from_millis(7));
        let started = Event::started(&order, Stage::Scheduling, at).unwrap();
        assert_eq!((started.kind, started.at, started.attempt), (EventKind::StepStarted, at, Some(1)));
        record(&mut order, Stage::Scheduling, 7, retry());
        assert_eq!(Event::started(&order, Stage::Scheduling, at), None);
        assert!(Event::all_of(&order).contains(&started));
    }

    #[test]
    fn a_later_passage_comes_after_everything_of_the_earlier_one() {
        let (mut order, mut told) = (accepted(), Vec::new());
        record(&mut order, Stage::Scheduling, 1, Decision::Advance(Stage::PreProcessing));
        told.extend(Event::of_last_outcome(&order));
        record(&mut order, Stage::PreProcessing, 3, Decision::End(End::Failed { reason: "no".into() }));
        told.extend(Event::of_last_outcome(&order));
        let mut again = order.next_passage(Stage::PreProcessing, Timestamp::from_millis(9)).unwrap();
        assert!(Event::is_beginning(&again));
        assert_eq!(Event::of_last_outcome(&again), []);
        record(&mut again, Stage::PreProcessing, 11, Decision::Advance(Stage::Processing));
        assert!(!Event::is_beginning(&again));
        let first = Event::of_last_outcome(&again);
        // The end before is told again.
        assert_eq!(first[..2], told[told.len() - 2..]);
        told.extend(first.into_iter().skip(2));
        let kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
        let expected = [
            "order.accepted",
            "step.started",
            "step.done",
            "step.started",
            "order.failed",
            "order.retried",
            "step.started",
            "step.done",
        ];
        assert_eq!(kinds, expected);
        assert_eq!(Event::all_of(&again), told);
        assert!(told.is_sorted_by(|a, b| a.sequence < b.sequence));
    }

    #[test]
    fn the_first_outcome_of_a_passage_tells_what_failures_at_once_before_it_were_to_tell() {
        let mut order = accepted();
        for at in [10, 20, 30] {
            record(&mut order, Stage::Scheduling, at, Decision::End(End::Failed { reason: "no".into() }));
            assert_eq!(Event::of_last_outcome(&order), Event::all_of(&order));
            order = order.next_passage(Stage::Scheduling, Timestamp::from_millis(at + 5)).unwrap();
        }
        record(&mut order, Stage::Scheduling, 40, Decision::Advance(Stage::PreProcessing));
        assert_eq!(Event::of_last_outcome(&order), Event::all_of(&order));
    }

    #[test]
    fn kinds_are_found_by_their_names() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(EventKind::parse("order.lost"), None);
        let kinds: EventKinds = [EventKind::OrderFailed, EventKind::StepDone].into_iter().collect();
        assert_eq!(kinds.iter().collect::<Vec<_>>(), [EventKind::StepDone, EventKind::OrderFailed]);
        assert!(EventKinds::NONE.is_empty() && !kinds.contains(EventKind::StepRetried));
        assert_eq!(kinds.union(EventKinds::all()), EventKinds::all());
    }
}

//! What has happened to an order. Its status is read off this and kept nowhere else.

use std::sync::Arc;

use super::decision::{Decision, End};
use super::stage::Stage;
use super::timestamp::Timestamp;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    Done,
    Rejected,
}

impl StepOutcome {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            StepOutcome::Done => "done",
            StepOutcome::Rejected => "rejected",
        }
    }
}

/// One order's passage through one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub stage: Stage,
    /// When a worker first began this stage.
    pub entered_at: Timestamp,
    /// When the outcome was recorded; absent while the stage is at work or waits to try again.
    pub finished_at: Option<Timestamp>,
    /// Calls of the handler so far, the one under way included.
    pub attempts: u32,
    pub outcome: Option<StepOutcome>,
    /// Why it was rejected, or why the last attempt wants another.
    pub reason: Option<String>,
    /// The worker that had it last.
    pub worker: Arc<str>,
}

/// What was recorded of one attempt at one stage: the first record of an attempt is the one that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedOutcome {
    pub entered_at: Timestamp,
    pub finished_at: Timestamp,
    pub worker: Arc<str>,
    pub decision: Decision,
}

/// Why and where an order failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub stage: Stage,
    pub reason: String,
}

/// Where an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Taken; no worker has begun it.
    Accepted,
    /// In this stage, or between it and the next.
    In(Stage),
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Accepted => "accepted",
            Status::In(stage) => stage.as_snake(),
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }

    /// Whether an order of this status takes no further step.
    pub fn has_ended(self) -> bool {
        match self {
            Status::Accepted | Status::In(_) => false,
            Status::Completed | Status::Failed | Status::Cancelled => true,
        }
    }
}

/// The steps of an order so far, in the order of the stages; at most the last one is unfinished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    steps: Vec<Step>,
}

impl History {
    /// A history of these steps.
    ///
    /// `None` if they are not the first stages in order, each but the last one done: no history of an order looks
    /// like that, so whoever holds such steps holds something else.
    pub fn of(steps: Vec<Step>) -> Option<History> {
        let in_order = steps.len() <= Stage::ALL.len()
            && steps.iter().zip(Stage::ALL).all(|(step, stage)| step.stage == stage)
            && steps.iter().rev().skip(1).all(|step| step.outcome == Some(StepOutcome::Done))
            && steps.iter().all(|step| step.outcome.is_some() == step.finished_at.is_some());
        in_order.then_some(History { steps })
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether an order of this history may be at work in `stage`: all stages before it done, itself not finished.
    pub fn is_at(&self, stage: Stage) -> bool {
        match self.steps.last() {
            None => stage == Stage::FIRST,
            Some(last) => match last.outcome {
                None => last.stage == stage,
                Some(StepOutcome::Done) => last.stage.next() == Some(stage),
                Some(StepOutcome::Rejected) => false,
            },
        }
    }

    /// The number of the attempt that comes next at `stage`: 1 for the first.
    pub fn next_attempt(&self, stage: Stage) -> u32 {
        self.unfinished(stage).map_or(1, |step| step.attempts.saturating_add(1))
    }

    /// When `stage` was first entered, if an earlier attempt did.
    pub fn entered_at(&self, stage: Stage) -> Option<Timestamp> {
        self.unfinished(stage).map(|step| step.entered_at)
    }

    fn unfinished(&self, stage: Stage) -> Option<&Step> {
        self.steps.last().filter(|step| step.stage == stage && step.outcome.is_none())
    }

    /// Takes in that a worker began `stage`, for readers of an order that is at work there. `attempt` counts from 1.
    pub fn enter(&mut self, stage: Stage, attempt: u32, entered_at: Timestamp, worker: Arc<str>) {
        let entered_at = self.entered_at(stage).unwrap_or(entered_at);
        let reason = self.unfinished(stage).and_then(|step| step.reason.clone());
        self.put(Step { stage, entered_at, finished_at: None, attempts: attempt, outcome: None, reason, worker });
    }

    /// Takes in what was recorded of the next attempt at `stage`.
    pub fn record(&mut self, stage: Stage, record: &RecordedOutcome) {
        let attempts = self.next_attempt(stage);
        self.record_attempt(stage, attempts, record);
    }

    /// Takes in what was recorded of attempt number `attempt` at `stage`.
    pub fn record_attempt(&mut self, stage: Stage, attempt: u32, record: &RecordedOutcome) {
        let (outcome, reason) = match &record.decision {
            Decision::Advance(_) | Decision::End(End::Completed) => (Some(StepOutcome::Done), None),
            Decision::End(End::Failed { reason }) => (Some(StepOutcome::Rejected), Some(reason.clone())),
            Decision::Retry { reason, delay: _ } => (None, Some(reason.clone())),
        };
        self.put(Step {
            stage,
            entered_at: self.entered_at(stage).unwrap_or(record.entered_at),
            finished_at: outcome.map(|_| record.finished_at),
            attempts: attempt,
            outcome,
            reason,
            worker: record.worker.clone(),
        });
    }

    /// Takes in what the in-flight store knows of attempt number `attempt` at `stage`, for readers.
    ///
    /// An outcome that ends the order is not shown: until the archive has the order, another end may still be the
    /// first one there, and a status must not go back.
    pub fn show_attempt(
        &mut self,
        stage: Stage,
        attempt: u32,
        entered_at: Timestamp,
        worker: &Arc<str>,
        outcome: Option<&RecordedOutcome>,
    ) {
        match outcome {
            Some(outcome) if !matches!(outcome.decision, Decision::End(_)) => {
                self.record_attempt(stage, attempt, outcome);
            }
            Some(_) | None => self.enter(stage, attempt, entered_at, worker.clone()),
        }
    }

    fn put(&mut self, step: Step) {
        if self.unfinished(step.stage).is_some() {
            self.steps.pop();
        }
        self.steps.push(step);
    }

    /// Where the order is.
    pub fn status(&self) -> Status {
        match self.steps.last() {
            None => Status::Accepted,
            Some(last) => match last.outcome {
                Some(StepOutcome::Rejected) => Status::Failed,
                Some(StepOutcome::Done) if last.stage.next().is_none() => Status::Completed,
                Some(StepOutcome::Done) | None => Status::In(last.stage),
            },
        }
    }

    /// When the order ended; `None` if it has not.
    pub fn finished_at(&self) -> Option<Timestamp> {
        self.steps.last().filter(|_| self.status().has_ended()).and_then(|last| last.finished_at)
    }

    /// The last moment something was recorded; `None` before the first step.
    pub fn updated_at(&self) -> Option<Timestamp> {
        self.steps.last().map(|last| last.finished_at.unwrap_or(last.entered_at))
    }

    /// Why the order failed; `None` if it did not.
    pub fn failure(&self) -> Option<Failure> {
        let last = self.steps.last().filter(|last| last.outcome == Some(StepOutcome::Rejected))?;
        Some(Failure { stage: last.stage, reason: last.reason.clone().unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::Delay;

    fn record(at: i64, decision: Decision) -> RecordedOutcome {
        RecordedOutcome {
            entered_at: Timestamp::from_millis(at),
            finished_at: Timestamp::from_millis(at + 1),
            worker: "w1".into(),
            decision,
        }
    }

    #[test]
    fn four_steps_done_complete_an_order() {
        let mut history = History::default();
        assert_eq!(history.status(), Status::Accepted);
        for (n, stage) in Stage::ALL.into_iter().enumerate() {
            assert!(history.is_at(stage));
            let decision = stage.next().map_or(Decision::End(End::Completed), Decision::Advance);
            history.record(stage, &record(10 * n as i64, decision));
            assert!(!history.is_at(stage));
        }
        assert_eq!(history.status(), Status::Completed);
        assert_eq!(history.finished_at(), Some(Timestamp::from_millis(31)));
        assert_eq!(History::of(history.steps().to_vec()), Some(history));
    }

    #[test]
    fn a_rejected_step_fails_the_order_and_says_why() {
        let mut history = History::default();
        history.record(Stage::Scheduling, &record(1, Decision::End(End::Failed { reason: "no stock".into() })));
        assert_eq!(history.status(), Status::Failed);
        assert_eq!(history.failure(), Some(Failure { stage: Stage::Scheduling, reason: "no stock".into() }));
        assert!(!history.is_at(Stage::PreProcessing));
    }

    #[test]
    fn attempts_add_up_in_one_step_that_keeps_its_first_moment() {
        let mut history = History::default();
        let retry = Decision::Retry { reason: "busy".into(), delay: Delay::at_least(Duration::ZERO) };
        history.record(Stage::Scheduling, &record(5, retry));
        assert_eq!(history.next_attempt(Stage::Scheduling), 2);
        assert_eq!(history.status(), Status::In(Stage::Scheduling));
        history.record(Stage::Scheduling, &record(50, Decision::Advance(Stage::PreProcessing)));
        let [step] = history.steps() else { panic!("one step") };
        assert_eq!((step.attempts, step.entered_at, step.reason.as_deref()), (2, Timestamp::from_millis(5), None));
    }

    #[test]
    fn an_end_is_not_shown_before_the_archive_has_it() {
        let (mut history, worker, at) = (History::default(), Arc::from("w2"), Timestamp::from_millis(3));
        let failed = record(3, Decision::End(End::Failed { reason: "no".into() }));
        history.show_attempt(Stage::Scheduling, 1, at, &worker, Some(&failed));
        assert_eq!(history.status(), Status::In(Stage::Scheduling));
        let done = record(3, Decision::Advance(Stage::PreProcessing));
        history.show_attempt(Stage::Scheduling, 1, at, &worker, Some(&done));
        assert!(history.is_at(Stage::PreProcessing));
    }

    #[test]
    fn steps_out_of_order_are_no_history() {
        let mut history = History::default();
        history.record(Stage::Scheduling, &record(1, Decision::Advance(Stage::PreProcessing)));
        let step = history.steps()[0].clone();
        assert!(History::of(vec![step.clone(), step.clone()]).is_none());
        assert!(History::of(vec![Step { stage: Stage::Processing, ..step.clone() }]).is_none());
        assert!(History::of(vec![Step { finished_at: None, ..step }]).is_none());
    }
}

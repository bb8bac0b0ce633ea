//! What has happened to an order. Its status is read off this and kept nowhere else.

use std::sync::Arc;

use super::decision::{Attempts, Decision, End};
use super::report::Report;
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
    /// What the handler had to say when it was done.
    pub report: Report,
    /// The attempts that wanted another one, the last [`RETRIES_KEPT`] of them.
    pub retries: Vec<RetriedAttempt>,
    /// How many of all attempts are not held against the order.
    pub uncounted: u32,
}

/// Attempts that want another one are kept in a step, up to so many: an outage may bring hundreds.
pub const RETRIES_KEPT: usize = 20;

/// An attempt that wanted another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetriedAttempt {
    /// 1 for the first at its stage.
    pub attempt: u32,
    /// When its outcome was recorded.
    pub at: Timestamp,
    pub reason: String,
    /// Whether it is one of those that the stage's policy allows.
    pub counts: bool,
}

impl Step {
    /// About what it takes in a message beyond a step without words, in bytes.
    pub fn words_bytes(&self) -> usize {
        let retries: usize = self.retries.iter().map(|retried| retried.reason.len() + 64).sum();
        self.reason.as_deref().map_or(0, str::len) + self.report.size_bytes() + retries
    }
}

/// What was recorded of one attempt at one stage: the first record of an attempt is the one that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedOutcome {
    pub entered_at: Timestamp,
    pub finished_at: Timestamp,
    pub worker: Arc<str>,
    pub decision: Decision,
    /// What the handler had to say; empty unless it was done.
    pub report: Report,
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

/// A person wants an order to go no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancellation {
    /// When it was asked for.
    pub at: Timestamp,
    pub reason: Option<String>,
}

/// A passage that failed, before the order was tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierPassage {
    /// 1 for the first.
    pub passage: u32,
    pub steps: Vec<Step>,
    /// When it was decided to try the order again.
    pub retried_at: Timestamp,
}

/// Earlier passages are kept up to so many.
pub const EARLIER_PASSAGES_KEPT: usize = 10;

/// The steps of an order so far, in the order of the stages; at most the last one is unfinished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    steps: Vec<Step>,
    /// The last [`EARLIER_PASSAGES_KEPT`] of them, in their order.
    earlier: Vec<EarlierPassage>,
    cancellation: Option<Cancellation>,
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
        in_order.then_some(History { steps, ..History::default() })
    }

    /// The same, after these passages that failed.
    #[must_use]
    pub fn with_earlier(self, earlier: Vec<EarlierPassage>) -> History {
        History { earlier, ..self }
    }

    /// The same, ended by this cancellation if there is one.
    #[must_use]
    pub fn with_cancellation(self, cancellation: Option<Cancellation>) -> History {
        History { cancellation, ..self }
    }

    /// The history of the next passage, which goes on at `stage`: what was done before that stage stays done. `passage` is
    /// the number of this one, `at` the moment it was decided. `None` unless the order has failed, at `stage` or behind it.
    pub fn next_passage(&self, passage: u32, stage: Stage, at: Timestamp) -> Option<History> {
        if self.failure()?.stage < stage {
            return None;
        }
        let steps = self.steps.iter().take_while(|step| step.stage < stage).cloned().collect();
        let dropped = (self.earlier.len() + 1).saturating_sub(EARLIER_PASSAGES_KEPT);
        let mut earlier: Vec<_> = self.earlier.iter().skip(dropped).cloned().collect();
        earlier.push(EarlierPassage { passage, steps: self.steps.clone(), retried_at: at });
        Some(History { steps, earlier, cancellation: None })
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub fn earlier(&self) -> &[EarlierPassage] {
        &self.earlier
    }

    pub fn cancellation(&self) -> Option<&Cancellation> {
        self.cancellation.as_ref()
    }

    /// All steps, those of earlier passages included.
    pub fn all_steps(&self) -> impl Iterator<Item = &Step> {
        self.earlier.iter().flat_map(|earlier| &earlier.steps).chain(&self.steps)
    }

    /// Ends the order as cancelled, unless it was before.
    pub fn cancel(&mut self, cancellation: Cancellation) {
        self.cancellation.get_or_insert(cancellation);
    }

    /// Whether an order of this history may be at work in `stage`: all stages before it done, itself not finished.
    pub fn is_at(&self, stage: Stage) -> bool {
        if self.cancellation.is_some() {
            return false;
        }
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

    /// The calls at `stage`, the one that comes next included.
    pub fn next_attempts(&self, stage: Stage) -> Attempts {
        let uncounted = self.unfinished(stage).map_or(0, |step| step.uncounted);
        Attempts { number: self.next_attempt(stage), uncounted }
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
        let mut step = self.taken_up(stage, entered_at, worker);
        step.attempts = attempt;
        self.steps.push(step);
    }

    /// The unfinished step at `stage`, taken out to be put back further on, or a new one.
    fn taken_up(&mut self, stage: Stage, entered_at: Timestamp, worker: Arc<str>) -> Step {
        match self.unfinished(stage).is_some().then(|| self.steps.pop()).flatten() {
            Some(step) => Step { worker, ..step },
            None => Step {
                stage,
                entered_at,
                finished_at: None,
                attempts: 0,
                outcome: None,
                reason: None,
                worker,
                report: Report::default(),
                retries: Vec::new(),
                uncounted: 0,
            },
        }
    }

    /// Takes in what was recorded of the next attempt at `stage`.
    pub fn record(&mut self, stage: Stage, record: &RecordedOutcome) {
        let attempts = self.next_attempt(stage);
        self.record_attempt(stage, attempts, record);
    }

    /// Takes in what was recorded of attempt number `attempt` at `stage`.
    pub fn record_attempt(&mut self, stage: Stage, attempt: u32, record: &RecordedOutcome) {
        let mut step = self.taken_up(stage, record.entered_at, record.worker.clone());
        step.attempts = attempt;
        (step.outcome, step.reason) = match &record.decision {
            Decision::Advance(_) | Decision::End(End::Completed) => (Some(StepOutcome::Done), None),
            Decision::End(End::Failed { reason }) => (Some(StepOutcome::Rejected), Some(reason.clone())),
            Decision::Retry { reason, delay: _, counts } => {
                if step.retries.len() == RETRIES_KEPT {
                    step.retries.remove(0);
                }
                let (at, reason) = (record.finished_at, reason.clone());
                step.retries.push(RetriedAttempt { attempt, at, reason: reason.clone(), counts: *counts });
                step.uncounted += u32::from(!counts);
                (None, Some(reason))
            }
        };
        step.finished_at = step.outcome.map(|_| record.finished_at);
        step.report = record.report.clone();
        self.steps.push(step);
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

    /// Where the order is.
    pub fn status(&self) -> Status {
        match self.steps.last() {
            _ if self.cancellation.is_some() => Status::Cancelled,
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
        if self.cancellation.is_some() {
            return self.updated_at();
        }
        self.steps.last().filter(|_| self.status().has_ended()).and_then(|last| last.finished_at)
    }

    /// The last moment something was recorded; `None` before the first step.
    pub fn updated_at(&self) -> Option<Timestamp> {
        let of_step = self.steps.last().map(|last| last.finished_at.unwrap_or(last.entered_at));
        of_step.max(self.cancellation.as_ref().map(|cancellation| cancellation.at))
    }

    /// Why the order failed; `None` if it did not.
    pub fn failure(&self) -> Option<Failure> {
        let last = self.steps.last().filter(|last| last.outcome == Some(StepOutcome::Rejected))?;
        if self.cancellation.is_some() {
            return None;
        }
        Some(Failure { stage: last.stage, reason: last.reason.clone().unwrap_or_default() })
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;

//! From what a handler said to what happens to the order.

use std::time::Duration;

use super::report::{Report, text};
use super::retry::{Delay, RetryPolicy};
use super::stage::Stage;

/// What a handler says of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The stage's work is done.
    Done(Report),
    /// It may work later, after `least_wait` if whoever does the work asked for a wait.
    Retry { reason: String, least_wait: Option<Duration> },
    /// What does the work is down for every order: later, and the attempt is not held against this one.
    Wait { reason: String, least_wait: Option<Duration> },
    /// It will never work: the order fails.
    Reject { reason: String },
}

impl Outcome {
    /// Done, with nothing to say.
    pub fn done() -> Outcome {
        Outcome::Done(Report::default())
    }

    pub fn retry(reason: impl Into<String>) -> Outcome {
        Outcome::Retry { reason: reason.into(), least_wait: None }
    }

    pub fn reject(reason: impl Into<String>) -> Outcome {
        Outcome::Reject { reason: reason.into() }
    }

    /// What is to be kept of it in the step.
    pub fn report(&self) -> Report {
        match self {
            Outcome::Done(report) => report.clone(),
            Outcome::Retry { .. } | Outcome::Wait { .. } | Outcome::Reject { .. } => Report::default(),
        }
    }
}

/// How an order ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Completed,
    Failed { reason: String },
}

/// What happens to the order next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// On to this stage's queue.
    Advance(Stage),
    /// Into the delay queue, and back to the same stage after `delay`. `counts`: the attempt is one of those that the
    /// stage's policy allows.
    Retry { reason: String, delay: Delay, counts: bool },
    /// Into the archive.
    End(End),
}

/// How often an order may be sent back without its attempt being counted. A probe of a service that is down every minute
/// uses them up in most of a day; past that the order is not the one that waits for an outage to end.
pub const UNCOUNTED_MAX: u32 = 1_000;

/// The calls of a handler for one order at one stage, the one under way included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// The number of the attempt under way, 1 for the first.
    pub number: u32,
    /// Those before it that are not held against the order.
    pub uncounted: u32,
}

/// Decides what follows from `outcome` of an attempt at `stage`. Reasons are cleaned and cut as [`text`] does.
///
/// `jitter` lies in 0..1 and spreads retries.
pub fn decide(stage: Stage, outcome: Outcome, attempts: Attempts, policy: &RetryPolicy, jitter: f64) -> Decision {
    let counted = attempts.number.saturating_sub(attempts.uncounted).max(1);
    let at_least = |wait: Option<Duration>| Delay::at_least(wait.unwrap_or_default());
    match outcome {
        Outcome::Done(_) => stage.next().map_or(Decision::End(End::Completed), Decision::Advance),
        Outcome::Reject { reason } => Decision::End(End::Failed { reason: text(&reason) }),
        // It comes back soon: while its stage is closed the queue holds it, and it is there when the stage opens. Who
        // allows one attempt wants no second call, whatever came of the first.
        Outcome::Wait { reason, least_wait } if policy.attempts_max > 1 && attempts.uncounted < UNCOUNTED_MAX => {
            Decision::Retry { reason: text(&reason), delay: at_least(least_wait), counts: false }
        }
        Outcome::Retry { reason, .. } | Outcome::Wait { reason, .. } if counted >= policy.attempts_max => {
            Decision::End(End::Failed { reason: text(&format!("retries exhausted: {reason}")) })
        }
        Outcome::Retry { reason, least_wait } | Outcome::Wait { reason, least_wait } => Decision::Retry {
            reason: text(&reason),
            delay: policy.delay_after(counted, jitter).max(at_least(least_wait)),
            counts: true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { attempts_max: 3, base: Duration::from_secs(1), cap: Duration::from_secs(60) };

    fn attempt(number: u32) -> Attempts {
        Attempts { number, uncounted: 0 }
    }

    #[test]
    fn done_leads_to_the_next_stage_and_after_the_last_to_the_end() {
        let decided = |stage| decide(stage, Outcome::done(), attempt(1), &POLICY, 0.5);
        assert_eq!(decided(Stage::Scheduling), Decision::Advance(Stage::PreProcessing));
        assert_eq!(decided(Stage::PostProcessing), Decision::End(End::Completed));
    }

    #[test]
    fn a_rejected_order_ends_at_once() {
        let decision = decide(Stage::Scheduling, Outcome::reject("no\n stock"), attempt(1), &POLICY, 0.5);
        assert_eq!(decision, Decision::End(End::Failed { reason: "no stock".into() }));
    }

    #[test]
    fn retries_are_limited() {
        let retry = || Outcome::retry("busy");
        assert!(matches!(decide(Stage::Processing, retry(), attempt(2), &POLICY, 0.5), Decision::Retry { .. }));
        let last = decide(Stage::Processing, retry(), attempt(3), &POLICY, 0.5);
        assert_eq!(last, Decision::End(End::Failed { reason: "retries exhausted: busy".into() }));
    }

    #[test]
    fn a_retry_waits_as_long_as_it_was_asked_to() {
        let asked = |secs| Outcome::Retry { reason: "busy".into(), least_wait: Some(Duration::from_secs(secs)) };
        let delay = |outcome| match decide(Stage::Processing, outcome, attempt(2), &POLICY, 1.0) {
            Decision::Retry { delay, .. } => delay.as_secs(),
            Decision::Advance(_) | Decision::End(_) => panic!("it is tried again"),
        };
        assert_eq!((delay(asked(1)), delay(asked(40)), delay(asked(86_400))), (2, 45, 900));
    }

    #[test]
    fn an_attempt_that_met_an_outage_is_not_held_against_its_order() {
        let wait = |number, uncounted| {
            let outcome = Outcome::Wait { reason: "down".into(), least_wait: None };
            decide(Stage::Processing, outcome, Attempts { number, uncounted }, &POLICY, 1.0)
        };
        let again = Decision::Retry { reason: "down".into(), delay: Delay::at_least(Duration::ZERO), counts: false };
        assert_eq!(wait(3, 0), again);
        assert_eq!(wait(900, 897), again);
        // The counted ones before it still count, and so do all when it has gone on for too long.
        let busy =
            decide(Stage::Processing, Outcome::retry("busy"), Attempts { number: 9, uncounted: 6 }, &POLICY, 1.0);
        assert_eq!(busy, Decision::End(End::Failed { reason: "retries exhausted: busy".into() }));
        assert!(matches!(wait(1_001, 1_000), Decision::Retry { counts: true, .. }));
        assert!(matches!(wait(1_003, 1_000), Decision::End(End::Failed { .. })));
    }

    #[test]
    fn one_attempt_means_one_call() {
        let policy = RetryPolicy { attempts_max: 1, ..POLICY };
        let outcome = Outcome::Wait { reason: "down".into(), least_wait: None };
        let decision = decide(Stage::Processing, outcome, attempt(1), &policy, 0.5);
        assert_eq!(decision, Decision::End(End::Failed { reason: "retries exhausted: down".into() }));
    }
}

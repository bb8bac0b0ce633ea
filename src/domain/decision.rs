//! From what a handler said to what happens to the order.

use super::retry::{Delay, RetryPolicy};
use super::stage::Stage;

/// What a handler says of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The stage's work is done.
    Done,
    /// It may work later.
    Retry { reason: String },
    /// It will never work: the order fails.
    Reject { reason: String },
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
    /// Into the delay queue, and back to the same stage after `delay`.
    Retry { reason: String, delay: Delay },
    /// Into the archive.
    End(End),
}

/// Decides what follows from `outcome` of attempt number `attempt` (1 for the first) at `stage`.
///
/// `jitter` lies in 0..1 and spreads retries.
pub fn decide(stage: Stage, outcome: Outcome, attempt: u32, policy: &RetryPolicy, jitter: f64) -> Decision {
    match outcome {
        Outcome::Done => stage.next().map_or(Decision::End(End::Completed), Decision::Advance),
        Outcome::Reject { reason } => Decision::End(End::Failed { reason }),
        Outcome::Retry { reason } if attempt >= policy.attempts_max => {
            Decision::End(End::Failed { reason: format!("retries exhausted: {reason}") })
        }
        Outcome::Retry { reason } => Decision::Retry { reason, delay: policy.delay_after(attempt, jitter) },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { attempts_max: 3, base: Duration::from_secs(1), cap: Duration::from_secs(60) };

    #[test]
    fn done_leads_to_the_next_stage_and_after_the_last_to_the_end() {
        assert_eq!(decide(Stage::Scheduling, Outcome::Done, 1, &POLICY, 0.5), Decision::Advance(Stage::PreProcessing));
        assert_eq!(decide(Stage::PostProcessing, Outcome::Done, 1, &POLICY, 0.5), Decision::End(End::Completed));
    }

    #[test]
    fn a_rejected_order_ends_at_once() {
        let decision = decide(Stage::Scheduling, Outcome::Reject { reason: "no".into() }, 1, &POLICY, 0.5);
        assert_eq!(decision, Decision::End(End::Failed { reason: "no".into() }));
    }

    #[test]
    fn retries_are_limited() {
        let retry = || Outcome::Retry { reason: "busy".into() };
        assert!(matches!(decide(Stage::Processing, retry(), 2, &POLICY, 0.5), Decision::Retry { .. }));
        let last = decide(Stage::Processing, retry(), 3, &POLICY, 0.5);
        assert_eq!(last, Decision::End(End::Failed { reason: "retries exhausted: busy".into() }));
    }
}

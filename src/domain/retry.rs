//! When a stage tries an order again.

use std::time::Duration;

/// A waiting time that the queues can hold an order for.
///
/// A broker's delay queue has one time to live for all its messages (mixed ones would wait behind its head), so
/// waiting times come in fixed steps, one delay queue each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Delay(u32);

impl Delay {
    /// The steps, in seconds: close enough to each other that rounding up at most triples a wait.
    pub const STEPS_SECS: [u32; 8] = [1, 2, 5, 15, 45, 120, 300, 900];

    /// The shortest step of at least `wait`; the longest there is for waits beyond it.
    pub fn at_least(wait: Duration) -> Delay {
        let fits = Self::STEPS_SECS.into_iter().find(|secs| Duration::from_secs(u64::from(*secs)) >= wait);
        Delay(fits.unwrap_or(Self::STEPS_SECS[Self::STEPS_SECS.len() - 1]))
    }

    /// All steps, shortest first.
    pub fn all() -> impl Iterator<Item = Delay> {
        Self::STEPS_SECS.into_iter().map(Delay)
    }

    pub fn as_secs(self) -> u32 {
        self.0
    }

    pub fn as_duration(self) -> Duration {
        Duration::from_secs(u64::from(self.0))
    }
}

/// How often and how patiently a stage tries an order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Calls of the handler in all, the first one included; at least 1.
    pub attempts_max: u32,
    /// The longest wait before the second attempt; each further one doubles it.
    pub base: Duration,
    /// The longest wait before any attempt.
    pub cap: Duration,
}

impl RetryPolicy {
    /// The wait after attempt number `attempt` (1 for the first) failed: exponential with full jitter, so that
    /// orders that failed together do not come back together. `jitter` lies in 0..1.
    pub fn delay_after(&self, attempt: u32, jitter: f64) -> Delay {
        let doublings = attempt.saturating_sub(1).min(31);
        let ceiling = self.base.saturating_mul(1 << doublings).min(self.cap);
        Delay::at_least(ceiling.mul_f64(jitter.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { attempts_max: 5, base: Duration::from_secs(2), cap: Duration::from_secs(60) };

    #[test]
    fn waits_double_up_to_the_cap() {
        let waits: Vec<u32> = (1..=8).map(|attempt| POLICY.delay_after(attempt, 1.0).as_secs()).collect();
        assert_eq!(waits, [2, 5, 15, 45, 45, 120, 120, 120]);
    }

    #[test]
    fn jitter_spreads_a_wait_over_its_whole_range() {
        assert_eq!(POLICY.delay_after(5, 0.0).as_secs(), 1);
        assert!(POLICY.delay_after(5, 0.3) < POLICY.delay_after(5, 0.9));
        assert_eq!(POLICY.delay_after(u32::MAX, 1.0).as_secs(), 120);
    }
}

//! What is known of whether a server can be reached: a small circuit breaker that keeps the log to two lines.
//!
//! A server that is gone would cost every call a whole timeout. So after a failure calls fail at once for a short
//! while; then one call is let through as a probe, and its fate decides. The operator gets one WARN line when the
//! server is lost and one INFO line when it is back, however many calls there were.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ports::Unavailable;

/// How long calls fail at once after the first failure; doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest that calls fail at once: a server that is back must not wait long for its work.
const PAUSE_LONGEST: Duration = Duration::from_secs(1);

pub(super) struct Reach {
    part: &'static str,
    /// `host:port`, for the log.
    address: String,
    lost: Mutex<Option<Lost>>,
}

struct Lost {
    failures: u32,
    /// Until then calls fail at once.
    until: Instant,
    /// A call was let through, and its fate is not known yet.
    is_probed: bool,
    reason: String,
}

impl Lost {
    /// Whether it is time for a probe.
    fn is_due(&self, now: Instant) -> bool {
        !self.is_probed && now >= self.until
    }
}

/// Held by a call that was let through for as long as it takes.
#[must_use]
pub(super) struct Admitted<'a> {
    reach: &'a Reach,
    /// Of a probe, why the server was taken to be out of reach.
    last_failure: Option<String>,
}

impl Admitted<'_> {
    /// For a probe that need not be sent: its server is still out of reach.
    pub(super) fn still_lost(&self) -> Option<Unavailable> {
        let reason = self.last_failure.as_ref()?;
        Some(Unavailable::new(self.reach.part, reason))
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.last_failure.is_none() {
            return;
        }
        // A probe that was given up before it came to anything makes way for the next one.
        if let Some(lost) = self.reach.lost().as_mut().filter(|lost| lost.is_probed) {
            lost.is_probed = false;
        }
    }
}

impl Reach {
    /// Of a server nothing bad is known of yet.
    pub(super) fn new(part: &'static str, address: String) -> Reach {
        Reach { part, address, lost: Mutex::new(None) }
    }

    /// Lets a call through, or not.
    ///
    /// # Errors
    /// [`Unavailable`] with the reason of the last failure, while it is too early to try again.
    pub(super) fn admit(&self) -> Result<Admitted<'_>, Unavailable> {
        self.admit_at(Instant::now())
    }

    /// Whether [`Reach::admit`] would let a call through. It does so again as soon as it is time for a probe: whoever asks
    /// first goes on to call, and that call is the probe.
    ///
    /// # Errors
    /// As [`Reach::admit`].
    pub(super) fn would_admit(&self) -> Result<(), Unavailable> {
        self.would_admit_at(Instant::now())
    }

    fn would_admit_at(&self, now: Instant) -> Result<(), Unavailable> {
        match &*self.lost() {
            Some(lost) if !lost.is_due(now) => Err(Unavailable::new(self.part, &lost.reason)),
            Some(_) | None => Ok(()),
        }
    }

    fn admit_at(&self, now: Instant) -> Result<Admitted<'_>, Unavailable> {
        let mut lost = self.lost();
        if let Some(lost) = lost.as_mut() {
            if !lost.is_due(now) {
                return Err(Unavailable::new(self.part, &lost.reason));
            }
            lost.is_probed = true;
        }
        Ok(Admitted { reach: self, last_failure: lost.as_ref().map(|lost| lost.reason.clone()) })
    }

    /// The server answered, if only to refuse.
    pub(super) fn works(&self) {
        if self.lost().take().is_some() {
            tracing::info!(address = %self.address, "{} is back", self.part);
        }
    }

    /// The server could not be reached, or did not answer in time.
    pub(super) fn failed(&self, reason: impl Into<String>) -> Unavailable {
        self.failed_at(Instant::now(), reason.into())
    }

    fn failed_at(&self, now: Instant, reason: String) -> Unavailable {
        let unavailable = Unavailable::new(self.part, &reason);
        let mut lost = self.lost();
        let failures = match &*lost {
            None => {
                tracing::warn!(address = %self.address, reason, "{} is out of reach", self.part);
                0
            }
            // One of many calls that were under way when it was lost: no news.
            Some(lost) if !lost.is_probed && now < lost.until => return unavailable,
            Some(lost) => lost.failures,
        };
        let pause = PAUSE_FIRST.saturating_mul(1 << failures.min(8)).min(PAUSE_LONGEST);
        *lost = Some(Lost { failures: failures.saturating_add(1), until: now + pause, is_probed: false, reason });
        unavailable
    }

    fn lost(&self) -> MutexGuard<'_, Option<Lost>> {
        // Whole at every moment: a panic elsewhere cannot have left it half written.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach() -> Reach {
        Reach::new("Redis", "127.0.0.1:1".into())
    }

    fn failed(reach: &Reach, now: Instant) {
        reach.failed_at(now, "refused".into());
    }

    #[test]
    fn after_a_failure_one_probe_at_a_time_is_let_through() {
        let (reach, start) = (reach(), Instant::now());
        assert!(reach.admit_at(start).is_ok());
        failed(&reach, start);
        assert_eq!(reach.admit_at(start).err().unwrap().reason, "refused");
        let later = start + PAUSE_FIRST;
        let probe = reach.admit_at(later).ok().unwrap();
        assert!(reach.admit_at(later).is_err());

        reach.works();
        assert!(reach.admit_at(later).is_ok());
        drop(probe);
        assert!(reach.admit_at(later).is_ok());
    }

    #[test]
    fn who_only_asks_is_told_what_a_call_would_be_told_and_is_no_probe() {
        let (reach, start) = (reach(), Instant::now());
        assert!(reach.would_admit_at(start).is_ok());
        failed(&reach, start);
        assert_eq!(reach.would_admit_at(start).unwrap_err().reason, "refused");
        let later = start + PAUSE_FIRST;
        // Nobody calls while this says no: it must say yes before anybody has called.
        for _ in 0..3 {
            assert!(reach.would_admit_at(later).is_ok());
        }
        let probe = reach.admit_at(later).ok().unwrap();
        assert!(reach.would_admit_at(later).is_err());
        drop(probe);
        assert!(reach.would_admit_at(later).is_ok());
    }

    #[test]
    fn pauses_grow_to_a_second_however_many_calls_fail_at_once() {
        let (reach, mut now) = (reach(), Instant::now());
        for pause_ms in [250, 500, 1000, 1000] {
            for _ in 0..10 {
                failed(&reach, now);
            }
            now += Duration::from_millis(pause_ms - 1);
            assert!(reach.admit_at(now).is_err());
            now += Duration::from_millis(1);
            // The next failure is this probe's.
            std::mem::forget(reach.admit_at(now).ok().unwrap());
        }
    }

    #[test]
    fn a_probe_that_is_given_up_makes_way_for_another() {
        let (reach, start) = (reach(), Instant::now());
        failed(&reach, start);
        let later = start + PAUSE_FIRST;
        drop(reach.admit_at(later));
        let probe = reach.admit_at(later).ok().unwrap();
        assert!(reach.admit_at(later).is_err());
        drop(probe);
        assert!(reach.admit_at(later).is_ok());
    }
}

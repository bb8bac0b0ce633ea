//! How far an order has come, as one number that only grows.
//!
//! The stores that fence an order's steps (see [`crate::ports::InFlight`]) compare these numbers instead of
//! clocks: clocks of two machines order nothing.

use super::stage::Stage;

/// A point on an order's way. Later points compare greater: by passage, then stage, then attempt, then entered
/// before finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Progress(u64);

impl Progress {
    /// Attempts at one stage that can be told apart; also the span of one stage, twice (entered, finished). Chosen
    /// so that all numbers of 10 million passages stay below 2^53, where a Redis script can still count exactly.
    const ATTEMPTS_MAX: u64 = 100_000;
    pub const STAGE_SPAN: u64 = 2 * Self::ATTEMPTS_MAX;

    /// Accepted, for the first time or again, nothing begun.
    pub fn accepted(passage: u32) -> Progress {
        Progress(u64::from(passage) * Stage::ALL.len() as u64 * Self::STAGE_SPAN)
    }

    /// Attempt number `attempt` (1 for the first) at `stage` was begun.
    pub fn entered(passage: u32, stage: Stage, attempt: u32) -> Progress {
        let attempt = u64::from(attempt).min(Self::ATTEMPTS_MAX - 1);
        Progress(Self::accepted(passage).0 + stage.index() as u64 * Self::STAGE_SPAN + 2 * attempt)
    }

    /// The outcome of that attempt was recorded.
    pub fn finished(passage: u32, stage: Stage, attempt: u32) -> Progress {
        Progress(Self::entered(passage, stage, attempt).0 + 1)
    }

    /// The passage is over: no point of it comes after this one. (An attempt of the largest number there is at the last
    /// stage would share it; policies allow some thousand attempts.)
    pub fn ended(passage: u32) -> Progress {
        Progress(Self::accepted(passage.saturating_add(1)).0 - 1)
    }

    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The passage, the stage and the attempt it is a point of; attempt 0 if nothing was begun.
    pub fn attempt(self) -> (u32, Stage, u32) {
        let stages = self.0 / Self::STAGE_SPAN;
        let passage = stages / Stage::ALL.len() as u64;
        let stage = Stage::ALL[(stages % Stage::ALL.len() as u64) as usize];
        let attempt = self.0 % Self::STAGE_SPAN / 2;
        (u32::try_from(passage).unwrap_or(u32::MAX), stage, u32::try_from(attempt).unwrap_or(u32::MAX))
    }
}

impl From<u64> for Progress {
    fn from(number: u64) -> Self {
        Progress(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_grow_along_the_way() {
        let mut points = Vec::new();
        for passage in [1, 2] {
            points.push(Progress::accepted(passage));
            for stage in Stage::ALL {
                for attempt in [1, 2, 99_998] {
                    points.push(Progress::entered(passage, stage, attempt));
                    points.push(Progress::finished(passage, stage, attempt));
                }
            }
            points.push(Progress::ended(passage));
        }
        assert!(points.is_sorted_by(|a, b| a < b));
        for stage in Stage::ALL {
            for attempt in [1, 2, 99_999] {
                assert_eq!(Progress::entered(7, stage, attempt).attempt(), (7, stage, attempt));
                assert_eq!(Progress::finished(7, stage, attempt).attempt(), (7, stage, attempt));
            }
        }
        assert!(Progress::finished(10_000_000, Stage::PostProcessing, u32::MAX).as_u64() < 1 << 53);
    }
}

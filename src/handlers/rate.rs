//! Spreads calls evenly over time: at most so many a second, without bursts.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Gives turns, `interval` apart.
pub struct Rate {
    interval: Duration,
    next: Mutex<Option<Instant>>,
}

impl Rate {
    /// `per_second` turns each second; at least 1.
    pub fn new(per_second: u32) -> Rate {
        Rate { interval: Duration::from_secs(1) / per_second.max(1), next: Mutex::new(None) }
    }

    /// Waits for the next turn, first come first served. A turn that is not waited for to its end is lost.
    pub async fn turn(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let at = next.map_or(now, |next| next.max(now));
            *next = Some(at + self.interval);
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_evenly_and_unused_ones_are_not_saved_up() {
        let (rate, begun) = (Rate::new(4), Instant::now());
        let mut at = Vec::new();
        for _ in 0..3 {
            rate.turn().await;
            at.push(begun.elapsed().as_millis());
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        for _ in 0..2 {
            rate.turn().await;
            at.push(begun.elapsed().as_millis());
        }
        assert_eq!(at, [0, 250, 500, 10_500, 10_750]);
    }
}

//! How long deliveries have waited to be taken up.

use tokio::time::Instant;

/// Since when the deliveries that wait may have waited: nobody notes when each came, but they are taken in turn.
pub(super) struct Line {
    since: Instant,
    /// Those that waited at a moment, and are not yet taken: when they are, all others came after it.
    marked: usize,
    marked_at: Instant,
}

impl Line {
    pub(super) fn new() -> Line {
        let now = Instant::now();
        Line { since: now, marked: 0, marked_at: now }
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// `taken` were taken, out of a line that `was_empty` before; `waiting` are left.
    pub(super) fn took(&mut self, taken: usize, was_empty: bool, waiting: usize) {
        let now = Instant::now();
        self.marked = self.marked.saturating_sub(taken);
        if was_empty || self.marked == 0 {
            self.since = if was_empty { now } else { self.marked_at };
            (self.marked, self.marked_at) = (waiting, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_knows_since_when_it_may_have_been_waited_in() {
        let step = Duration::from_secs(1);
        let mut line = Line::new();
        // Out of an empty line: what waits now has come now.
        tokio::time::sleep(100 * step).await;
        line.took(1, true, 4);
        assert_eq!(line.since, Instant::now());
        let begun = Instant::now();
        // Each takes one, and one comes: those of the beginning are there for four steps.
        for _ in 0..3 {
            tokio::time::sleep(step).await;
            line.took(1, false, 4);
            assert_eq!(line.since, begun);
        }
        tokio::time::sleep(step).await;
        line.took(1, false, 4);
        assert_eq!(line.since, begun);
        for _ in 0..4 {
            tokio::time::sleep(step).await;
            line.took(1, false, 4);
        }
        assert_eq!(line.since, begun + 4 * step, "however long it goes on");
    }
}

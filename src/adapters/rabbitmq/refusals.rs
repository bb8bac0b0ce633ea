//! Which queues refuse what they are given, and when it is the connection's fault. Pure.
//!
//! A queue may refuse a message because it is full (an operator's policy). But a channel whose first message for a queue
//! comes while that queue's leader has just died asks the dead node whether it may, is told no, and keeps asking that node
//! for as long as it lives, though the others have elected another leader within half a second (seen with 3.10:
//! `rabbit_fifo_client` learns of a new leader only from queues that took something). So a queue that has taken nothing
//! on a connection and goes on refusing costs that connection. If it refuses on the next one as well, it is left alone
//! for twice as long.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::topology::Queue;

/// How long a queue may refuse everything on a new connection. An election takes half a second.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// How often that is doubled at most: to a minute.
const DOUBLINGS_MAX: u32 = 6;

/// What is known of the queues, over connections.
#[derive(Default)]
pub(super) struct Refusals {
    /// On this connection.
    queues: HashMap<Queue, Answers>,
    /// How many connections in a row each queue has cost.
    cost: HashMap<Queue, u32>,
}

enum Answers {
    Took,
    /// Nothing but refusals.
    Refuses {
        since: Instant,
    },
}

impl Refusals {
    /// The queue has taken a message.
    pub fn held(&mut self, queue: Queue) {
        if !matches!(self.queues.get(&queue), Some(Answers::Took)) {
            self.queues.insert(queue, Answers::Took);
            self.cost.remove(&queue);
        }
    }

    /// The queue has refused a message. True if the connection is to be given up for it.
    pub fn refused(&mut self, queue: Queue, now: Instant) -> bool {
        match self.queues.entry(queue).or_insert(Answers::Refuses { since: now }) {
            Answers::Took => false,
            Answers::Refuses { since } => {
                let cost = self.cost.entry(queue).or_default();
                let is_over = now.duration_since(*since) >= REFUSED_FOR * (1 << (*cost).min(DOUBLINGS_MAX));
                *cost += u32::from(is_over);
                is_over
            }
        }
    }

    /// The next connection begins.
    pub fn connected(&mut self) {
        self.queues.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Stage;
    use crate::ports::Place;

    const FULL: Queue = Queue::Of(Place::Ending);
    const OTHER: Queue = Queue::Of(Place::Stage(Stage::Processing));

    #[test]
    fn a_queue_that_takes_nothing_on_a_connection_costs_it_and_the_next_one_later() {
        let mut refusals = Refusals::default();
        let mut now = Instant::now();
        for patience_secs in [1, 2, 4, 8, 16, 32, 64, 64] {
            refusals.connected();
            // That others take what is theirs changes nothing.
            refusals.held(OTHER);
            assert!(!refusals.refused(FULL, now));
            now += Duration::from_secs(patience_secs) - Duration::from_millis(1);
            assert!(!refusals.refused(FULL, now), "{patience_secs}");
            now += Duration::from_millis(1);
            assert!(refusals.refused(FULL, now), "{patience_secs}");
        }
        refusals.connected();
        refusals.held(FULL);
        refusals.connected();
        assert!(!refusals.refused(FULL, now));
        assert!(refusals.refused(FULL, now + REFUSED_FOR));
    }

    #[test]
    fn a_queue_that_took_something_is_full_if_it_refuses() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        refusals.held(FULL);
        for secs in [0, 5, 500] {
            assert!(!refusals.refused(FULL, now + Duration::from_secs(secs)));
        }
    }
}

//! What is known of the queues: which were missing, and which have stood empty since when.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::GRACE;
use crate::domain::{Delay, Stage, Timestamp};
use crate::ports::{Place, Source, Unmoved};

/// When a lost queue's orders are looked for: soon, and then for those that wait to be tried again, until the longest
/// wait is over.
const LOOKS: [Duration; 4] = [
    GRACE,
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(Delay::STEPS_SECS[Delay::STEPS_SECS.len() - 1] as u64 + 60),
];

/// A queue that was missing, at the moment of one of the looks for its orders.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    pub(super) source: Source,
    /// When it was noticed.
    pub(super) at: Timestamp,
    is_first_look: bool,
    /// The look before this one: what was due then is back already.
    looked_at: Timestamp,
}

impl Loss {
    /// Whether the missing queue must have held this order, and nobody has brought it back yet.
    pub(super) fn has_taken(&self, unmoved: &Unmoved, now: Timestamp) -> bool {
        if Place::next_of(&unmoved.order).source() != self.source || unmoved.is_at_work {
            return false;
        }
        let last = unmoved.order.history.steps().last();
        match last.filter(|step| step.outcome.is_none()) {
            None => self.is_first_look && unmoved.since < self.at,
            // It waits to be tried again, perhaps in a queue that is still there: until its time has come nobody knows.
            Some(step) => {
                let missed_at = unmoved.since.after(GRACE);
                step.entered_at < self.at && missed_at < now && (self.is_first_look || missed_at >= self.looked_at)
            }
        }
    }

    /// Whether orders that only the journal knows of are to be looked for as well.
    pub(super) fn is_of_beginning(&self) -> bool {
        self.is_first_look && self.source == Source::Stage(Stage::FIRST)
    }
}

#[derive(Debug)]
struct Missing {
    at: Timestamp,
    looks: usize,
    looked_at: Timestamp,
}

#[derive(Default)]
pub(super) struct Evidence {
    missing: BTreeMap<Source, Missing>,
    empty_since: BTreeMap<Source, Instant>,
}

impl Evidence {
    /// A queue of `source` was missing, as was noticed at the moment `now`.
    pub(super) fn lost(&mut self, source: Source, now: Timestamp) {
        self.missing.insert(source, Missing { at: now, looks: 0, looked_at: now });
    }

    /// The losses whose orders are to be looked for now.
    pub(super) fn losses_due(&self, now: Timestamp) -> Vec<Loss> {
        let due = self.missing.iter().filter(|(_, missing)| now.since(missing.at) >= LOOKS[missing.looks]);
        let loss = |(source, missing): (&Source, &Missing)| Loss {
            source: *source,
            at: missing.at,
            is_first_look: missing.looks == 0,
            looked_at: missing.looked_at,
        };
        due.map(loss).collect()
    }

    /// A look was taken at the moment `now`.
    pub(super) fn looked_for(&mut self, loss: Loss, now: Timestamp) {
        let Some(missing) = self.missing.get_mut(&loss.source).filter(|missing| missing.at == loss.at) else {
            return;
        };
        missing.looks += 1;
        missing.looked_at = now;
        if missing.looks == LOOKS.len() {
            self.missing.remove(&loss.source);
        }
    }

    /// Whether all queues were missing, within a short time of `at`.
    pub(super) fn all_lost_at(&self, at: Timestamp) -> bool {
        let near = |missing: &Missing| missing.at.since(at).max(at.since(missing.at)) <= GRACE;
        Source::all().all(|source| self.missing.get(&source).is_some_and(near))
    }

    /// How many messages wait in the queue of `source` at the moment `now`.
    pub(super) fn waits(&mut self, source: Source, messages: u64, now: Instant) {
        if messages == 0 {
            self.empty_since.entry(source).or_insert(now);
        } else {
            self.empty_since.remove(&source);
        }
    }

    /// The queue of `source` is not looked at: that it was empty says nothing of the time to come.
    pub(super) fn forget(&mut self, source: Source) {
        self.empty_since.remove(&source);
    }

    /// Somebody else looks: what was seen so far says nothing of the time since.
    pub(super) fn forget_empty(&mut self) {
        self.empty_since.clear();
    }

    pub(super) fn is_empty_for(&self, source: Source, time: Duration) -> bool {
        self.empty_since.get(&source).is_some_and(|since| since.elapsed() >= time)
    }

    pub(super) fn any_empty_for(&self, time: Duration) -> bool {
        Source::all().any(|source| self.is_empty_for(source, time))
    }

    pub(super) fn all_empty_for(&self, time: Duration) -> bool {
        Source::all().all(|source| self.is_empty_for(source, time))
    }
}

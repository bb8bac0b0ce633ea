//! Which publish awaits which confirm. Pure: knows neither channels nor time but what it is told.
//!
//! On a channel in confirm mode the broker numbers publishes 1, 2, 3 … in the order they arrive and confirms these
//! numbers (tags), several at once if it likes. A message that no queue takes is sent back first, by its message id,
//! and then confirmed like any other: the return decides.

use std::collections::BTreeMap;
use std::time::Instant;

/// The publishes of one channel that are not confirmed yet, each with somebody (`W`) who waits for it.
pub(super) struct Confirms<W> {
    last_tag: u64,
    pending: BTreeMap<u64, Pending<W>>,
}

struct Pending<W> {
    waiter: W,
    sent_at: Instant,
    returned: Option<String>,
}

/// What the broker said of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A queue holds it.
    Held,
    /// It was taken and refused by a queue.
    Refused,
    /// There is no queue for it; with the broker's reason.
    Returned(String),
}

impl<W> Confirms<W> {
    pub fn new() -> Self {
        Confirms { last_tag: 0, pending: BTreeMap::new() }
    }

    /// Notes a publish that is about to be sent, before it is: the confirm could come faster than the note. Returns its
    /// tag.
    pub fn sending(&mut self, waiter: W, now: Instant) -> u64 {
        self.last_tag += 1;
        let pending = Pending { waiter, sent_at: now, returned: None };
        self.pending.insert(self.last_tag, pending);
        self.last_tag
    }

    /// Takes back a note: the publish could not be sent. The channel is at its end then, so the tag is not used again.
    pub fn not_sent(&mut self, tag: u64) -> Option<W> {
        self.pending.remove(&tag).map(|pending| pending.waiter)
    }

    /// The broker sent this one back. Its confirm follows.
    pub fn returned(&mut self, tag: u64, reason: String) {
        if let Some(pending) = self.pending.get_mut(&tag) {
            pending.returned = Some(reason);
        }
    }

    /// The broker confirmed (`held`) or refused this tag; with `multiple` all tags up to it. Calls `tell` for each.
    pub fn confirmed(&mut self, tag: u64, multiple: bool, held: bool, mut tell: impl FnMut(W, Verdict)) {
        let confirmed = if multiple {
            let later = self.pending.split_off(&tag.saturating_add(1));
            std::mem::replace(&mut self.pending, later)
        } else {
            self.pending.remove_entry(&tag).into_iter().collect()
        };
        for pending in confirmed.into_values() {
            let verdict = match pending.returned {
                Some(reason) => Verdict::Returned(reason),
                None if held => Verdict::Held,
                None => Verdict::Refused,
            };
            tell(pending.waiter, verdict);
        }
    }

    /// When the one that waits longest was sent.
    pub fn oldest(&self) -> Option<Instant> {
        self.pending.first_key_value().map(|(_, pending)| pending.sent_at)
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Everybody who still waits, when the connection is gone.
    pub fn into_waiters(self) -> impl Iterator<Item = W> {
        self.pending.into_values().map(|pending| pending.waiter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(count: u64) -> Confirms<u64> {
        let mut confirms = Confirms::new();
        for n in 1..=count {
            assert_eq!(confirms.sending(n, Instant::now()), n);
        }
        confirms
    }

    fn told(confirms: &mut Confirms<u64>, tag: u64, multiple: bool, held: bool) -> Vec<(u64, Verdict)> {
        let mut told = Vec::new();
        confirms.confirmed(tag, multiple, held, |waiter, verdict| told.push((waiter, verdict)));
        told
    }

    #[test]
    fn a_multiple_confirm_is_for_all_up_to_its_tag() {
        let mut confirms = sent(5);
        assert_eq!(told(&mut confirms, 2, false, true), [(2, Verdict::Held)]);
        assert_eq!(told(&mut confirms, 4, true, true), [(1, Verdict::Held), (3, Verdict::Held), (4, Verdict::Held)]);
        assert_eq!(told(&mut confirms, 4, true, true), []);
        assert_eq!(confirms.into_waiters().collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn a_returned_message_is_not_held_though_it_is_confirmed() {
        let mut confirms = sent(3);
        confirms.returned(2, "NO_ROUTE".into());
        confirms.returned(9, "never sent".into());
        assert_eq!(
            told(&mut confirms, 3, true, true),
            [(1, Verdict::Held), (2, Verdict::Returned("NO_ROUTE".into())), (3, Verdict::Held)]
        );
        assert!(confirms.is_empty());
    }

    #[test]
    fn refusals_are_told_apart() {
        let mut confirms = sent(2);
        assert_eq!(told(&mut confirms, 2, true, false), [(1, Verdict::Refused), (2, Verdict::Refused)]);
        assert_eq!(confirms.oldest(), None);
    }

    #[test]
    fn what_could_not_be_sent_waits_for_nothing() {
        let mut confirms = sent(2);
        assert_eq!(confirms.not_sent(2), Some(2));
        assert_eq!(told(&mut confirms, u64::MAX, true, true), [(1, Verdict::Held)]);
        assert_eq!(confirms.sending(3, Instant::now()), 3);
    }
}

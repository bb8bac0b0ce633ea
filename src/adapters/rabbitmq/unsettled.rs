//! Which deliveries of a channel are not settled yet, and how to ack many with few frames. Pure.
//!
//! An ack with `multiple` settles every delivery up to its tag. So it may only be sent for a tag below which nothing
//! is left to settle otherwise. An ack of a tag that is not outstanding would close the channel: such tags are dropped
//! here.

use std::collections::BTreeSet;

/// The outstanding delivery tags of one channel.
#[derive(Default)]
pub(super) struct Unsettled {
    outstanding: BTreeSet<u64>,
}

/// One `basic.ack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AckFrame {
    pub tag: u64,
    pub multiple: bool,
}

impl Unsettled {
    /// A delivery came in. All before it must have been noted: the broker sends them in the order of their tags.
    pub fn delivered(&mut self, tag: u64) {
        self.outstanding.insert(tag);
    }

    /// One delivery is given back. False if there is nothing to give back.
    pub fn given_back(&mut self, tag: u64) -> bool {
        self.outstanding.remove(&tag)
    }

    /// Settles `tags` with as few frames as can be: one for all from the lowest outstanding up to the first gap, and one
    /// for each of the others.
    pub fn acked(&mut self, tags: &mut Vec<u64>) -> Vec<AckFrame> {
        tags.retain(|tag| self.outstanding.contains(tag));
        tags.sort_unstable();
        tags.dedup();
        let prefix = tags.iter().zip(&self.outstanding).take_while(|(acked, outstanding)| acked == outstanding).count();
        let mut frames = Vec::new();
        if let Some(last) = prefix.checked_sub(1) {
            frames.push(AckFrame { tag: tags[last], multiple: prefix > 1 });
        }
        frames.extend(tags[prefix..].iter().map(|tag| AckFrame { tag: *tag, multiple: false }));
        for tag in tags.drain(..) {
            self.outstanding.remove(&tag);
        }
        frames
    }

    pub fn is_empty(&self) -> bool {
        self.outstanding.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outstanding(tags: std::ops::RangeInclusive<u64>) -> Unsettled {
        let mut unsettled = Unsettled::default();
        tags.for_each(|tag| unsettled.delivered(tag));
        unsettled
    }

    fn one(tag: u64) -> AckFrame {
        AckFrame { tag, multiple: false }
    }

    fn up_to(tag: u64) -> AckFrame {
        AckFrame { tag, multiple: true }
    }

    #[test]
    fn acks_in_a_row_are_one_frame() {
        let mut unsettled = outstanding(1..=5);
        assert_eq!(unsettled.acked(&mut vec![3, 1, 2]), [up_to(3)]);
        assert_eq!(unsettled.acked(&mut vec![4]), [one(4)]);
        assert_eq!(unsettled.acked(&mut vec![5]), [one(5)]);
        assert!(unsettled.is_empty());
    }

    #[test]
    fn nothing_below_is_settled_by_the_way() {
        let mut unsettled = outstanding(1..=6);
        assert_eq!(unsettled.acked(&mut vec![2, 3, 6]), [one(2), one(3), one(6)]);
        assert!(unsettled.given_back(1));
        assert_eq!(unsettled.acked(&mut vec![4, 5]), [up_to(5)]);
    }

    #[test]
    fn what_is_settled_is_not_settled_again() {
        let mut unsettled = outstanding(1..=3);
        assert_eq!(unsettled.acked(&mut vec![2, 2]), [one(2)]);
        assert_eq!(unsettled.acked(&mut vec![2, 9]), []);
        assert!(!unsettled.given_back(2));
        assert_eq!(unsettled.acked(&mut vec![3, 1]), [up_to(3)]);
    }

    proptest! {
        /// Plays the broker: whatever the order of acks and gifts back, exactly what was settled here is settled there.
        #[test]
        fn the_broker_settles_what_was_meant(
            steps in proptest::collection::vec(proptest::collection::vec((0u64..40, any::<bool>()), 0..8), 0..20)
        ) {
            let mut unsettled = Unsettled::default();
            let mut broker = BTreeSet::new();
            let mut settled = BTreeSet::new();
            for (n, step) in steps.into_iter().enumerate() {
                for tag in 3 * n as u64..3 * n as u64 + 3 {
                    unsettled.delivered(tag);
                    broker.insert(tag);
                }
                let delivered = 3 * n as u64 + 3;
                let mut acks = Vec::new();
                for (tag, ack) in step {
                    if tag >= delivered {
                        continue;
                    }
                    if ack {
                        acks.push(tag);
                    } else if unsettled.given_back(tag) {
                        prop_assert!(broker.remove(&tag), "unknown delivery tag {tag}");
                        settled.insert(tag);
                    }
                }
                settled.extend(&acks);
                for frame in unsettled.acked(&mut acks) {
                    prop_assert!(broker.contains(&frame.tag), "unknown delivery tag {}", frame.tag);
                    broker.retain(|tag| *tag != frame.tag && !(frame.multiple && *tag < frame.tag));
                }
                let expected: BTreeSet<u64> = (0..delivered).filter(|tag| !settled.contains(tag)).collect();
                prop_assert_eq!(&broker, &expected);
            }
        }
    }
}

//! Which faults come when, by a seed. Pure: two schedules of one seed are the same, whatever happens meanwhile.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::kinds::Kind;

/// How often a second fault strikes while the first lasts.
const SECOND: f64 = 1.0 / 3.0;

/// One fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub kind: Kind,
    /// How long after the begin of its round it strikes.
    pub after: Duration,
    /// How long it lasts before it is healed.
    pub lasts: Duration,
    /// Which node, process or connections it strikes: any number, taken modulo how many there are.
    pub target: usize,
}

/// One or two faults, and a pause after they were healed.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    pub faults: Vec<Fault>,
    pub pause: Duration,
}

/// Rounds without end. Every kind comes before one comes again.
pub struct Schedule {
    random: StdRng,
    kinds: Vec<Kind>,
    /// What has not come yet since all had come.
    left: Vec<Kind>,
    lasts_ms: std::ops::Range<u64>,
    pause_ms: std::ops::Range<u64>,
}

impl Schedule {
    /// `lasts_ms` bounds how long a fault lasts, `pause_ms` the pause after a round.
    pub fn new(
        seed: u64,
        kinds: Vec<Kind>,
        lasts_ms: std::ops::Range<u64>,
        pause_ms: std::ops::Range<u64>,
    ) -> Schedule {
        assert!(!kinds.is_empty());
        Schedule { random: StdRng::seed_from_u64(seed), kinds, left: Vec::new(), lasts_ms, pause_ms }
    }

    fn fault(&mut self, kind: Kind) -> Fault {
        let lasts = Duration::from_millis(self.random.random_range(self.lasts_ms.clone()));
        Fault { kind, after: Duration::ZERO, lasts, target: self.random.random_range(0..1_000_000) }
    }

    /// Of the kinds that are left, one that can strike beside `first`.
    fn second(&mut self, first: Kind) -> Option<Kind> {
        let beside = |kind: &Kind| first.part() != kind.part() && !first.is_alone() && !kind.is_alone();
        let n = self.left.iter().rposition(beside)?;
        Some(self.left.remove(n))
    }
}

impl Iterator for Schedule {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        if self.left.is_empty() {
            self.left = self.kinds.clone();
            self.left.shuffle(&mut self.random);
        }
        let first = self.left.pop()?;
        let mut faults = vec![self.fault(first)];
        if self.random.random_bool(SECOND)
            && let Some(second) = self.second(first)
        {
            let mut second = self.fault(second);
            let lasts_ms = u64::try_from(faults[0].lasts.as_millis()).unwrap_or(u64::MAX);
            second.after = Duration::from_millis(self.random.random_range(0..lasts_ms.max(1)));
            faults.push(second);
        }
        let pause = Duration::from_millis(self.random.random_range(self.pause_ms.clone()));
        Some(Round { faults, pause })
    }
}

#[test]
fn a_seed_makes_the_same_rounds_again_and_another_one_others() {
    let rounds = |seed| Schedule::new(seed, Kind::ALL.to_vec(), 1..9, 1..9).take(100).collect::<Vec<_>>();
    assert_eq!(rounds(7), rounds(7));
    assert_ne!(rounds(7), rounds(8));
}

#[test]
fn every_kind_comes_before_one_comes_again_and_two_at_once_strike_different_parts() {
    let mut schedule = Schedule::new(3, Kind::ALL.to_vec(), 1_000..6_000, 1..9);
    for _ in 0..50 {
        let mut come = Vec::new();
        let mut at_once = 0;
        while come.len() < Kind::ALL.len() {
            let Round { faults, .. } = schedule.next().unwrap();
            if let [first, second] = &faults[..] {
                at_once += 1;
                assert_ne!(first.kind.part(), second.kind.part());
                assert!(!faults.iter().any(|fault| fault.kind.is_alone()));
                assert!(second.after < first.lasts);
            }
            come.extend(faults.iter().map(|fault| fault.kind));
        }
        come.sort();
        assert_eq!(come, Kind::ALL);
        assert!(at_once > 0);
    }
}

#[test]
fn kinds_are_found_by_the_begin_of_their_names() {
    assert_eq!(Kind::named("kill-redis"), [Kind::KillRedis]);
    assert_eq!(Kind::named("slow"), [Kind::SlowRabbitMq, Kind::SlowRedis, Kind::SlowPostgres]);
    assert_eq!(Kind::named("nothing"), []);
}

//! A circuit breaker: when a service is down, calls to it pause, so that the outage is not paid for with the attempts of
//! every order that comes by.
//!
//! ```text
//!            so many failures in a row                    the pause is over
//!   Closed ────────────────────────────▶ Open (a pause) ────────────────────▶ Probing (one call)
//!     ▲                                    ▲                                     │ fails: a longer pause
//!     │                                    └─────────────────────────────────────┤
//!     └──────────────────────────────────────────────────────────── succeeds ────┘
//! ```
//!
//! The breaker owns a [`Gate`]: open while closed (a closed circuit conducts), closed during a pause, ajar while
//! probing. Each process has its own; they find out on their own.
//!
//! # Invariants
//! - A failure is held against an order only if it came while the circuit was closed and did not open it.
//! - Only calls of the present period count: what was called before the circuit opened says nothing of now.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use crate::gate::Gate;

/// When calls pause, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row that open the circuit; 0 for a breaker that never does.
    pub failures: u32,
    /// The first pause; each probe that fails doubles it.
    pub pause_base: Duration,
    pub pause_cap: Duration,
}

impl BreakerPolicy {
    /// The pause after the circuit opened for the `opened`th time (1 for the first) without a success between.
    fn pause(&self, opened: u32) -> Duration {
        self.pause_base.saturating_mul(1 << opened.saturating_sub(1).min(31)).min(self.pause_cap)
    }
}

/// The breaker before one service.
pub struct Breaker(Arc<Shared>);

struct Shared {
    /// What it stands before, for the log.
    name: String,
    policy: BreakerPolicy,
    state: Mutex<State>,
    gate: watch::Sender<Gate>,
}

struct State {
    circuit: Circuit,
    /// Counts the changes of `circuit`: tells calls of the present period from those of before.
    period: u64,
    /// How often it opened since the last success.
    opened: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Circuit {
    Closed { failures: u32 },
    Open,
    Probing { is_under_way: bool },
}

/// Leave to make one call. Dropped without a verdict (the call was broken off) it says nothing.
pub struct Leave {
    shared: Arc<Shared>,
    period: u64,
    has_ended: bool,
}

impl Breaker {
    pub fn new(name: impl Into<String>, policy: BreakerPolicy) -> Breaker {
        let state = State { circuit: Circuit::Closed { failures: 0 }, period: 0, opened: 0 };
        let (name, gate) = (name.into(), watch::Sender::new(Gate::Open));
        Breaker(Arc::new(Shared { name, policy, state: Mutex::new(state), gate }))
    }

    pub fn gate(&self) -> watch::Receiver<Gate> {
        self.0.gate.subscribe()
    }

    /// Leave for a call; `None` while there is no point in calling.
    pub fn leave(&self) -> Option<Leave> {
        let mut state = self.0.state();
        match &mut state.circuit {
            Circuit::Closed { .. } => {}
            Circuit::Probing { is_under_way } if !*is_under_way => *is_under_way = true,
            Circuit::Open | Circuit::Probing { .. } => return None,
        }
        Some(Leave { shared: self.0.clone(), period: state.period, has_ended: false })
    }
}

impl Leave {
    /// The service answered, whatever it said.
    pub fn succeeded(mut self) {
        self.has_ended = true;
        let mut state = self.shared.state();
        if state.period != self.period {
            return;
        }
        match &mut state.circuit {
            Circuit::Closed { failures } => *failures = 0,
            Circuit::Open => {}
            Circuit::Probing { .. } => {
                tracing::info!(handler = self.shared.name, "the handler answers again");
                state.opened = 0;
                self.shared.change(&mut state, Circuit::Closed { failures: 0 }, Gate::Open);
            }
        }
    }

    /// The service did not answer, or said that it cannot. Whether that is held against the order. To be called from
    /// within the runtime.
    pub fn failed(mut self, why: &str) -> bool {
        self.has_ended = true;
        let mut state = self.shared.state();
        if state.period != self.period {
            return false;
        }
        if let Circuit::Closed { failures } = &mut state.circuit {
            *failures += 1;
            if self.shared.policy.failures == 0 || *failures < self.shared.policy.failures {
                return true;
            }
        }
        self.shared.open(&mut state, why);
        false
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let mut state = self.shared.state();
        if state.period == self.period
            && let Circuit::Probing { is_under_way } = &mut state.circuit
        {
            *is_under_way = false;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, state: &mut State, circuit: Circuit, gate: Gate) {
        state.circuit = circuit;
        state.period += 1;
        self.gate.send_replace(gate);
    }

    fn open(self: &Arc<Self>, state: &mut State, why: &str) {
        state.opened = state.opened.saturating_add(1);
        let pause = self.policy.pause(state.opened);
        // Once for an outage, however many probes fail after it.
        if state.opened == 1 {
            tracing::warn!(handler = self.name, why, ?pause, "calls to the handler pause: it does not answer");
        } else {
            tracing::debug!(handler = self.name, why, ?pause, "a probe of the handler failed");
        }
        self.change(state, Circuit::Open, Gate::Closed);
        tokio::spawn(probe_after(pause, Arc::downgrade(self), state.period));
    }
}

async fn probe_after(pause: Duration, breaker: Weak<Shared>, period: u64) {
    tokio::time::sleep(pause).await;
    let Some(shared) = breaker.upgrade() else { return };
    let mut state = shared.state();
    if state.period == period {
        shared.change(&mut state, Circuit::Probing { is_under_way: false }, Gate::Ajar);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BreakerPolicy =
        BreakerPolicy { failures: 3, pause_base: Duration::from_secs(1), pause_cap: Duration::from_secs(5) };

    fn fail(breaker: &Breaker) -> bool {
        breaker.leave().expect("calls are let through").failed("down")
    }

    /// Waits until a probe may be made; how long that took, in seconds.
    async fn until_probing(breaker: &Breaker) -> u64 {
        let since = tokio::time::Instant::now();
        breaker.gate().wait_for(|gate| *gate == Gate::Ajar).await.unwrap();
        since.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_the_circuit_and_the_last_of_them_is_free() {
        let breaker = Breaker::new("processing", POLICY);
        assert!(fail(&breaker) && fail(&breaker));
        breaker.leave().unwrap().succeeded();
        let of_before = [breaker.leave().unwrap(), breaker.leave().unwrap()];
        assert!(fail(&breaker) && fail(&breaker) && !fail(&breaker));
        assert_eq!(*breaker.gate().borrow(), Gate::Closed);
        assert!(breaker.leave().is_none());
        // Called before it opened: neither held against its order, nor a sign of life.
        let [failed, succeeded] = of_before;
        assert!(!failed.failed("down"));
        succeeded.succeeded();
        assert_eq!(*breaker.gate().borrow(), Gate::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_a_probe_succeeds() {
        let breaker = Breaker::new("processing", POLICY);
        let _ = (fail(&breaker), fail(&breaker), fail(&breaker));
        let mut pauses = Vec::new();
        for _ in 0..5 {
            pauses.push(until_probing(&breaker).await);
            assert!(!fail(&breaker), "a probe is free");
        }
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
        until_probing(&breaker).await;
        breaker.leave().unwrap().succeeded();
        assert_eq!(*breaker.gate().borrow(), Gate::Open);
        assert!(fail(&breaker) && fail(&breaker) && !fail(&breaker));
        assert_eq!(until_probing(&breaker).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_is_made_at_a_time_and_one_that_was_broken_off_makes_room() {
        let breaker = Breaker::new("processing", POLICY);
        let _ = (fail(&breaker), fail(&breaker), fail(&breaker));
        until_probing(&breaker).await;
        let probe = breaker.leave().unwrap();
        assert!(breaker.leave().is_none());
        drop(probe);
        assert!(breaker.leave().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_the_circuit_never_opens() {
        let breaker = Breaker::new("processing", BreakerPolicy { failures: 0, ..POLICY });
        assert!((0..1_000).all(|_| fail(&breaker)));
        assert_eq!(*breaker.gate().borrow(), Gate::Open);
    }
}

//! The gate before a stage: how many orders the stage may take up at the moment.
//!
//! Whoever has a reason to hold a stage up (a circuit breaker, an operator) owns a gate and moves it; the worker obeys
//! all gates of a stage. Orders that are not taken up wait in the queue, not in memory, and no attempt is counted.

use futures_util::future::select_all;
use tokio::sync::watch;

/// How far a gate stands open. Of several gates the narrowest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// No order is taken up.
    Closed,
    /// One order at a time, to see how it goes.
    Ajar,
    Open,
}

/// All gates of a stage.
#[derive(Clone, Debug, Default)]
pub struct Gates(Vec<watch::Receiver<Gate>>);

impl Gates {
    /// A gate whose owner is gone stays as it was.
    pub fn new(gates: impl IntoIterator<Item = watch::Receiver<Gate>>) -> Gates {
        Gates(gates.into_iter().collect())
    }

    /// How far they let anybody through.
    pub fn now(&self) -> Gate {
        self.0.iter().map(|gate| *gate.borrow()).min().unwrap_or(Gate::Open)
    }

    /// Waits until `holds` says so of what they let through, and gives that. Safe to drop while it waits.
    pub async fn until(&mut self, holds: impl Fn(Gate) -> bool) -> Gate {
        loop {
            let now = self.now();
            if holds(now) {
                return now;
            }
            if self.0.is_empty() {
                std::future::pending::<()>().await;
            }
            select_all(self.0.iter_mut().map(|gate| Box::pin(moved(gate)))).await;
        }
    }
}

async fn moved(gate: &mut watch::Receiver<Gate>) {
    if gate.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_narrowest_of_several_gates_counts() {
        let (one, two) = (watch::Sender::new(Gate::Open), watch::Sender::new(Gate::Ajar));
        let mut gates = Gates::new([one.subscribe(), two.subscribe()]);
        assert_eq!(gates.now(), Gate::Ajar);
        one.send_replace(Gate::Closed);
        assert_eq!(gates.until(|now| now < Gate::Ajar).await, Gate::Closed);
        let opened = tokio::spawn(async move { gates.until(|now| now == Gate::Open).await });
        two.send_replace(Gate::Open);
        tokio::task::yield_now().await;
        assert!(!opened.is_finished());
        one.send_replace(Gate::Open);
        assert_eq!(opened.await.unwrap(), Gate::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_without_an_owner_stays_as_it_was() {
        let mut gates = Gates::new([watch::Sender::new(Gate::Open).subscribe()]);
        assert_eq!(gates.now(), Gate::Open);
        let long = std::time::Duration::from_secs(3_600);
        assert!(tokio::time::timeout(long, gates.until(|now| now != Gate::Open)).await.is_err());
        assert_eq!(Gates::default().until(|now| now == Gate::Open).await, Gate::Open);
    }
}

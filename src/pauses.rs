//! Which stages are paused, as far as this process knows.
//!
//! What counts is what the store says ([`Pauses`]). A [`Watch`] asks it about once a second and moves a gate before each stage;
//! the worker obeys the gates ([`crate::gate`]), and nobody publishes orders of a paused stage again.
//!
//! # Failure handling
//! - The store cannot be asked: what was known last holds. A process that never had an answer holds nothing up; it waits
//!   a second for the first one, so that a restart lets no order through.
//! - Stages that are to be paused at the start are held at once, and paused in the store when it is in reach, unless
//!   somebody said something of them since this process saw them first. From then on the store counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::domain::Stage;
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::ports::{Clock, Pause, Pauses, Ports, StageState};

/// How often the store is asked.
const EVERY: Duration = Duration::from_millis(800);
/// How long it may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What this process knows. Until the store was asked for the first time every gate is closed.
#[derive(Clone)]
pub struct PausedStages(Arc<[Standing; 4]>);

struct Standing {
    gate: watch::Sender<Gate>,
    is_paused: AtomicBool,
}

impl Default for PausedStages {
    fn default() -> Self {
        let unknown = || Standing { gate: watch::Sender::new(Gate::Closed), is_paused: AtomicBool::new(false) };
        PausedStages(Arc::new(Stage::ALL.map(|_| unknown())))
    }
}

impl PausedStages {
    /// The gate before `stage`.
    pub fn gate(&self, stage: Stage) -> watch::Receiver<Gate> {
        self.of(stage).gate.subscribe()
    }

    /// Whether `stage` takes up no orders in this process.
    pub fn is_held(&self, stage: Stage) -> bool {
        *self.of(stage).gate.borrow() == Gate::Closed
    }

    /// The paused stages.
    pub fn paused(&self) -> Vec<Stage> {
        Stage::ALL.into_iter().filter(|stage| self.of(*stage).is_paused.load(Ordering::Relaxed)).collect()
    }

    fn of(&self, stage: Stage) -> &Standing {
        &self.0[stage.index()]
    }

    /// Whether that is news.
    fn put(&self, stage: Stage, is_paused: bool) -> bool {
        let standing = self.of(stage);
        let was_paused = standing.is_paused.swap(is_paused, Ordering::Relaxed);
        let gate = if is_paused { Gate::Closed } else { Gate::Open };
        standing.gate.send_if_modified(|before| std::mem::replace(before, gate) != gate);
        was_paused != is_paused
    }
}

/// Keeps [`PausedStages`] as the store has them.
pub struct Watch {
    stages: PausedStages,
    pauses: Arc<dyn Pauses>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Stages to be paused because this process starts, and the revision at which it saw each first.
    to_pause: BTreeMap<Stage, Option<u64>>,
    reason: String,
}

impl Watch {
    /// `start_paused`: the stages that this process, `holder`, pauses because it starts.
    pub fn new(
        stages: PausedStages,
        ports: &Ports,
        metrics: Arc<Metrics>,
        start_paused: &[Stage],
        holder: &str,
    ) -> Watch {
        let watch = Watch {
            stages,
            pauses: ports.pauses.clone(),
            clock: ports.clock.clone(),
            metrics,
            to_pause: start_paused.iter().map(|stage| (*stage, None)).collect(),
            reason: format!("start_paused of {holder}"),
        };
        for stage in start_paused {
            watch.put(*stage, true);
        }
        watch
    }

    /// Runs until `stop`; the gates then stay as they are.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.turn() => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    async fn turn(&mut self) {
        match timeout(ANSWER_WITHIN, self.pauses.states()).await {
            Ok(Ok(states)) => {
                for state in states {
                    self.learn(state).await;
                }
            }
            Ok(Err(_)) | Err(_) => {
                let paused = self.stages.paused();
                for stage in Stage::ALL {
                    self.put(stage, paused.contains(&stage));
                }
            }
        }
    }

    async fn learn(&mut self, mut state: StageState) {
        let stage = state.stage;
        if let Some(seen) = self.to_pause.get_mut(&stage) {
            let seen = *seen.get_or_insert(state.revision);
            if state.revision == seen && state.pause.is_none() {
                let pause = Pause { since: self.clock.now(), reason: Some(self.reason.clone()) };
                let paused = timeout(ANSWER_WITHIN, self.pauses.pause(stage, &pause, Some(seen))).await;
                let Ok(Ok(paused)) = paused else { return };
                state = paused;
            }
            self.to_pause.remove(&stage);
        }
        self.put(stage, state.pause.is_some());
    }

    fn put(&self, stage: Stage, is_paused: bool) {
        self.metrics.stage_paused(stage, is_paused);
        match (self.stages.put(stage, is_paused), is_paused) {
            (true, true) => tracing::info!(%stage, "the stage is paused"),
            (true, false) => tracing::info!(%stage, "the stage is resumed"),
            (false, _) => {}
        }
    }
}

#[cfg(test)]
#[path = "pauses_tests.rs"]
mod tests;

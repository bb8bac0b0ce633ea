//! Which stages are paused.

use async_trait::async_trait;
use ordering::domain::Stage;
use ordering::ports::{Pause, Pauses, StageState, Unavailable};

use super::{Part, Process};

#[async_trait]
impl Pauses for Process {
    async fn states(&self) -> Result<[StageState; 4], Unavailable> {
        let states = self.world.effect(self, Part::Archive, |state| state.0.stages.clone());
        states.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn pause(&self, stage: Stage, pause: &Pause, seen: Option<u64>) -> Result<StageState, Unavailable> {
        let paused = self.world.effect(self, Part::Archive, |state| {
            let now = &mut state.0.stages[stage.index()];
            if seen.is_none_or(|seen| seen == now.revision) {
                now.revision += 1;
                now.pause.get_or_insert(pause.clone());
            }
            now.clone()
        });
        paused.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn resume(&self, stage: Stage) -> Result<StageState, Unavailable> {
        let resumed = self.world.effect(self, Part::Archive, |state| {
            let now = &mut state.0.stages[stage.index()];
            now.revision += 1;
            now.pause = None;
            now.clone()
        });
        resumed.await.map_err(|(_, unavailable)| unavailable)
    }
}

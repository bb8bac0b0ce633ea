//! Which stages people hold up.

use async_trait::async_trait;

use super::Unavailable;
use crate::domain::{Stage, Timestamp};

/// Why a stage takes up no orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    pub since: Timestamp,
    pub reason: Option<String>,
}

/// What was said last of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageState {
    pub stage: Stage,
    /// `None` if it is at work.
    pub pause: Option<Pause>,
    /// Grows whenever the stage is paused or resumed; 0 if it never was.
    pub revision: u64,
}

impl StageState {
    /// A stage of which nobody said anything.
    pub fn untouched(stage: Stage) -> StageState {
        StageState { stage, pause: None, revision: 0 }
    }
}

/// Keeps which stages are paused, for all processes and over their restarts.
#[async_trait]
pub trait Pauses: Send + Sync + 'static {
    /// All four stages, first to last.
    ///
    /// # Errors
    /// [`Unavailable`]: nobody knows.
    async fn states(&self) -> Result<[StageState; 4], Unavailable>;

    /// Pauses `stage`, and gives how it stands now. One that is paused stays so since it was; its reason changes if `pause`
    /// has one. With `seen` nothing changes if the stage's revision is another by now.
    ///
    /// # Errors
    /// [`Unavailable`]: it is paused, or not.
    async fn pause(&self, stage: Stage, pause: &Pause, seen: Option<u64>) -> Result<StageState, Unavailable>;

    /// Lets `stage` work, and gives how it stands now.
    ///
    /// # Errors
    /// [`Unavailable`]: it is resumed, or not.
    async fn resume(&self, stage: Stage) -> Result<StageState, Unavailable>;
}

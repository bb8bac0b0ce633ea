//! What [`Pauses`] promises: what was said last of a stage is what everybody reads.

use std::sync::Arc;

use ordering::domain::{Stage, Timestamp};
use ordering::ports::{Pause, Pauses, StageState};

/// Pauses of its own.
pub struct Subject {
    pub pauses: Arc<dyn Pauses>,
    /// What must live as long as they do.
    #[allow(dead_code, reason = "it is held, not read")]
    pub holds: Box<dyn std::any::Any + Send + Sync>,
}

macro_rules! suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            pauses,
            $subject,
            at_the_beginning_every_stage_is_at_work,
            a_paused_stage_is_read_as_paused_until_it_is_resumed,
            a_stage_that_is_paused_again_stays_so_since_it_was,
            a_pause_that_has_seen_less_changes_nothing,
            of_many_that_saw_the_same_one_pauses,
            any_reason_will_do,
        );
    };
}
pub(crate) use suite;

const STAGE: Stage = Stage::PreProcessing;

fn pause(since_ms: i64, reason: Option<&str>) -> Pause {
    Pause { since: Timestamp::from_millis(since_ms), reason: reason.map(str::to_owned) }
}

impl Subject {
    async fn state(&self) -> StageState {
        let states = self.pauses.states().await.unwrap();
        assert_eq!(states.clone().map(|state| state.stage), Stage::ALL);
        states[STAGE.index()].clone()
    }

    async fn pause(&self, pause: Pause, seen: Option<u64>) -> StageState {
        let said = self.pauses.pause(STAGE, &pause, seen).await.unwrap();
        assert_eq!(said, self.state().await);
        said
    }
}

pub async fn at_the_beginning_every_stage_is_at_work(subject: &Subject) {
    assert_eq!(subject.pauses.states().await.unwrap(), Stage::ALL.map(StageState::untouched));
}

pub async fn a_paused_stage_is_read_as_paused_until_it_is_resumed(subject: &Subject) {
    let first = pause(1_764_000_000_007, Some("the service moves"));
    let paused = subject.pause(first.clone(), None).await;
    assert_eq!(paused.pause, Some(first));
    let others = subject.pauses.states().await.unwrap().into_iter().filter(|state| state.stage != STAGE);
    assert!(others.into_iter().all(|state| state == StageState::untouched(state.stage)));
    let resumed = subject.pauses.resume(STAGE).await.unwrap();
    assert_eq!(resumed, subject.state().await);
    assert_eq!(resumed.pause, None);
    assert!(resumed.revision > paused.revision);
    let again = pause(1_764_000_000_009, None);
    assert_eq!(subject.pause(again.clone(), None).await.pause, Some(again), "nothing is left of the first pause");
}

pub async fn a_stage_that_is_paused_again_stays_so_since_it_was(subject: &Subject) {
    subject.pause(pause(1, Some("one")), None).await;
    assert_eq!(subject.pause(pause(2, None), None).await.pause, Some(pause(1, Some("one"))));
    assert_eq!(subject.pause(pause(3, Some("other")), None).await.pause, Some(pause(1, Some("other"))));
    for _ in 0..2 {
        assert_eq!(subject.pauses.resume(STAGE).await.unwrap().pause, None);
    }
}

pub async fn a_pause_that_has_seen_less_changes_nothing(subject: &Subject) {
    // Resumed though it never was paused: who saw it before that does not pause it any more.
    let resumed = subject.pauses.resume(STAGE).await.unwrap();
    assert_eq!(subject.pause(pause(1, None), Some(0)).await, resumed);
    let paused = subject.pause(pause(2, None), Some(resumed.revision)).await;
    assert_eq!(paused.pause, Some(pause(2, None)));
    assert_eq!(subject.pause(pause(3, Some("late")), Some(resumed.revision)).await, paused);
}

pub async fn of_many_that_saw_the_same_one_pauses(subject: &Subject) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let pauses = subject.pauses.clone();
        tasks.spawn(async move { pauses.pause(STAGE, &pause(n, Some(&n.to_string())), Some(0)).await.unwrap() });
    }
    let said = tasks.join_all().await;
    assert!(said.iter().all(|state| *state == said[0] && state.revision == 1), "{said:?}");
}

pub async fn any_reason_will_do(subject: &Subject) {
    for reason in ["", "ä \u{1F6D1} 'quoted' \\ \"twice\"\n", &"x".repeat(500)] {
        subject.pauses.resume(STAGE).await.unwrap();
        assert_eq!(subject.pause(pause(1, Some(reason)), None).await.pause, Some(pause(1, Some(reason))));
    }
}

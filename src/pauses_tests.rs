use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::domain::Timestamp;
use crate::ports::Unavailable;

const STAGE: Stage = Stage::Processing;

/// One stage in memory, which can be away, and can lose its reply.
#[derive(Default)]
struct Store {
    state: Mutex<Option<StageState>>,
    is_away: AtomicBool,
    loses_replies: AtomicBool,
}

impl Store {
    fn change(&self, pause: Option<Pause>) -> StageState {
        let mut state = self.state.lock().unwrap();
        let revision = state.as_ref().map_or(0, |state| state.revision) + 1;
        state.insert(StageState { stage: STAGE, pause, revision }).clone()
    }

    fn now(&self) -> StageState {
        self.state.lock().unwrap().clone().unwrap_or(StageState::untouched(STAGE))
    }

    fn answer(&self) -> Result<(), Unavailable> {
        match self.is_away.load(Ordering::Relaxed) {
            true => Err(Unavailable::new("test", "away")),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Pauses for Store {
    async fn states(&self) -> Result<[StageState; 4], Unavailable> {
        self.answer()?;
        Ok(Stage::ALL.map(|stage| if stage == STAGE { self.now() } else { StageState::untouched(stage) }))
    }

    async fn pause(&self, _: Stage, pause: &Pause, seen: Option<u64>) -> Result<StageState, Unavailable> {
        self.answer()?;
        if seen.is_some_and(|seen| seen != self.now().revision) {
            return Ok(self.now());
        }
        let state = self.change(Some(pause.clone()));
        match self.loses_replies.load(Ordering::Relaxed) {
            true => Err(Unavailable::new("test", "the reply was lost")),
            false => Ok(state),
        }
    }

    async fn resume(&self, _: Stage) -> Result<StageState, Unavailable> {
        Ok(self.change(None))
    }
}

struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(0)
    }
}

fn watch(store: &Arc<Store>, start_paused: &[Stage]) -> Watch {
    let mut watch = Watch {
        stages: PausedStages::default(),
        pauses: store.clone(),
        clock: Arc::new(Noon),
        metrics: Arc::default(),
        to_pause: BTreeMap::new(),
        reason: "test".into(),
    };
    for stage in start_paused {
        watch.to_pause.insert(*stage, None);
        watch.put(*stage, true);
    }
    watch
}

fn paused() -> Option<Pause> {
    Some(Pause { since: Timestamp::from_millis(7), reason: None })
}

#[tokio::test]
async fn nothing_goes_through_before_the_first_answer_and_then_what_the_store_says_holds() {
    let store = Arc::<Store>::default();
    store.change(paused());
    let mut watch = watch(&store, &[]);
    assert!(Stage::ALL.into_iter().all(|stage| watch.stages.is_held(stage)));
    assert!(watch.stages.paused().is_empty());
    watch.turn().await;
    assert_eq!(watch.stages.paused(), [STAGE]);
    assert!(!watch.stages.is_held(Stage::Scheduling));
    assert!(watch.metrics.text().contains("ordering_stage_paused{stage=\"processing\"} 1"));
    store.is_away.store(true, Ordering::Relaxed);
    watch.turn().await;
    assert!(watch.stages.is_held(STAGE), "what was known last holds");
    store.is_away.store(false, Ordering::Relaxed);
    store.change(None);
    watch.turn().await;
    assert!(!watch.stages.is_held(STAGE));
}

#[tokio::test]
async fn a_process_that_never_had_an_answer_holds_nothing_up_but_what_it_starts_paused() {
    let store = Arc::<Store>::default();
    store.is_away.store(true, Ordering::Relaxed);
    let mut watch = watch(&store, &[STAGE]);
    watch.turn().await;
    assert_eq!(watch.stages.paused(), [STAGE]);
    assert!(!watch.stages.is_held(Stage::Scheduling));
    store.is_away.store(false, Ordering::Relaxed);
    watch.turn().await;
    assert!(store.now().pause.is_some(), "the row is written when it can be");
    store.change(None);
    watch.turn().await;
    assert!(!watch.stages.is_held(STAGE), "from then on the store counts");
    watch.turn().await;
    assert!(store.now().pause.is_none());
}

#[tokio::test]
async fn who_resumes_before_the_process_knows_that_it_paused_is_not_overruled() {
    let store = Arc::<Store>::default();
    store.loses_replies.store(true, Ordering::Relaxed);
    let mut watch = watch(&store, &[STAGE]);
    watch.turn().await;
    assert!(watch.stages.is_held(STAGE));
    store.change(None);
    watch.turn().await;
    assert!(!watch.stages.is_held(STAGE));
    assert!(store.now().pause.is_none());
}

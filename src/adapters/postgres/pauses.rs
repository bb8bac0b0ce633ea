//! Paused stages in Postgres: a row for each stage that somebody ever paused.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio_postgres::Row;

use super::PART;
use super::connections::Connections;
use super::rows::{fit, moment, timestamp};
use crate::domain::Stage;
use crate::ports::{Pause, Pauses, StageState, Unavailable};

const STATES: &str = include_str!("pauses/states.sql");
const PAUSE: &str = include_str!("pauses/pause.sql");
const RESUME: &str = include_str!("pauses/resume.sql");

/// Says which stages are paused.
pub struct PostgresPauses {
    connections: Arc<Connections>,
}

impl PostgresPauses {
    pub(super) fn on(connections: Arc<Connections>) -> PostgresPauses {
        PostgresPauses { connections }
    }

    async fn state(&self, stage: Stage) -> Result<StageState, Unavailable> {
        let states = self.states().await?;
        Ok(states.into_iter().nth(stage.index()).expect("there is one for each stage"))
    }
}

#[async_trait]
impl Pauses for PostgresPauses {
    async fn states(&self) -> Result<[StageState; 4], Unavailable> {
        let mut states = Stage::ALL.map(StageState::untouched);
        for row in self.connections.query(STATES, &[]).await? {
            if let Some(state) = read(&row)? {
                let index = state.stage.index();
                states[index] = state;
            }
        }
        Ok(states)
    }

    async fn pause(&self, stage: Stage, pause: &Pause, seen: Option<u64>) -> Result<StageState, Unavailable> {
        let reason = pause.reason.as_deref().map(|reason| fit(Cow::Borrowed(reason)));
        let seen = seen.map(u64::cast_signed);
        let (name, since) = (stage.as_kebab(), moment(pause.since));
        let rows = self.connections.query(PAUSE, &[&name, &since, &reason, &seen]).await?;
        match rows.first() {
            Some(row) => Ok(read(row)?.unwrap_or_else(|| StageState::untouched(stage))),
            // Somebody has said something of it since.
            None => self.state(stage).await,
        }
    }

    async fn resume(&self, stage: Stage) -> Result<StageState, Unavailable> {
        let rows = self.connections.query(RESUME, &[&stage.as_kebab()]).await?;
        Ok(rows.first().map(read).transpose()?.flatten().unwrap_or_else(|| StageState::untouched(stage)))
    }
}

/// What a row `stage, revision, paused_since, reason` says; `None` if its stage is none of this release.
fn read(row: &Row) -> Result<Option<StageState>, Unavailable> {
    let columns = || {
        Ok::<_, tokio_postgres::Error>((
            row.try_get::<_, &str>(0)?,
            row.try_get::<_, i64>(1)?,
            row.try_get::<_, Option<SystemTime>>(2)?,
            row.try_get::<_, Option<String>>(3)?,
        ))
    };
    let (stage, revision, since, reason) = columns().map_err(|error| Unavailable::new(PART, error))?;
    let Ok(stage) = stage.parse() else { return Ok(None) };
    let pause = since.map(|since| Pause { since: timestamp(since), reason });
    Ok(Some(StageState { stage, pause, revision: revision.unsigned_abs() }))
}

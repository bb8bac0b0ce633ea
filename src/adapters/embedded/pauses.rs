//! Paused stages: a row for each stage that somebody ever paused.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};

use super::readers::Readers;
use super::writer::Writer;
use crate::domain::{Stage, Timestamp};
use crate::ports::{Pause, Pauses, StageState, Unavailable};

/// [`Pauses`] over SQLite. Made by [`super::Embedded::open`].
pub struct EmbeddedPauses {
    writer: Writer,
    readers: Arc<Readers>,
}

impl EmbeddedPauses {
    pub(super) fn new(writer: Writer, readers: Arc<Readers>) -> Self {
        EmbeddedPauses { writer, readers }
    }

    async fn write(
        &self,
        stage: Stage,
        write: impl Fn(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<StageState, Unavailable> {
        let write = move |connection: &Connection| {
            write(connection)?;
            states(connection)
        };
        let states = self.writer.write(0, write).await?;
        Ok(states.into_iter().nth(stage.index()).expect("there is one for each stage"))
    }
}

#[async_trait]
impl Pauses for EmbeddedPauses {
    async fn states(&self) -> Result<[StageState; 4], Unavailable> {
        self.readers.read(states).await
    }

    async fn pause(&self, stage: Stage, pause: &Pause, seen: Option<u64>) -> Result<StageState, Unavailable> {
        let Pause { since, reason } = pause.clone();
        let seen = seen.map(u64::cast_signed);
        let pause = move |connection: &Connection| {
            let mut pause = connection.prepare_cached(
                "INSERT INTO stage_pauses (stage, revision, paused_since, reason) VALUES (?1, 1, ?2, ?3)
                 ON CONFLICT (stage) DO UPDATE SET
                     revision = revision + 1,
                     paused_since = coalesce(paused_since, excluded.paused_since),
                     reason = coalesce(excluded.reason, CASE WHEN paused_since IS NOT NULL THEN reason END)
                 WHERE ?4 IS NULL OR revision = ?4",
            )?;
            pause.execute(params![stage.as_kebab(), since.as_millis(), reason, seen]).map(drop)
        };
        self.write(stage, pause).await
    }

    async fn resume(&self, stage: Stage) -> Result<StageState, Unavailable> {
        let resume = move |connection: &Connection| {
            let mut resume = connection.prepare_cached(
                "INSERT INTO stage_pauses (stage, revision, paused_since, reason) VALUES (?1, 1, NULL, NULL)
                 ON CONFLICT (stage) DO UPDATE SET revision = revision + 1, paused_since = NULL, reason = NULL",
            )?;
            resume.execute([stage.as_kebab()]).map(drop)
        };
        self.write(stage, resume).await
    }
}

fn states(connection: &Connection) -> rusqlite::Result<[StageState; 4]> {
    let mut states = Stage::ALL.map(StageState::untouched);
    let mut select = connection.prepare_cached("SELECT stage, revision, paused_since, reason FROM stage_pauses")?;
    for state in select.query_map([], read)? {
        if let Some(state) = state? {
            let index = state.stage.index();
            states[index] = state;
        }
    }
    Ok(states)
}

/// What a row says; `None` if its stage is none of this release.
fn read(row: &Row) -> rusqlite::Result<Option<StageState>> {
    let Ok(stage) = row.get::<_, String>(0)?.parse() else { return Ok(None) };
    let revision = row.get::<_, i64>(1)?.unsigned_abs();
    let (since, reason) = (row.get::<_, Option<i64>>(2)?, row.get(3)?);
    let pause = since.map(|since| Pause { since: Timestamp::from_millis(since), reason });
    Ok(Some(StageState { stage, pause, revision }))
}

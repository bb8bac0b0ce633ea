//! Dead letters in Postgres: a row for each, one statement per batch.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::Row;
use uuid::Uuid;

use super::PART;
use super::connections::Connections;
use super::rows::{count, fit, moment, timestamp};
use crate::domain::Stage;
use crate::ports::{DeadLetter, DeadLetterId, DeadLetterPage, DeadLetters, Source, Unavailable};

const KEEP: &str = include_str!("dead_letters/keep.sql");
const LIST: &str = include_str!("dead_letters/list.sql");
const LIST_OF_SOURCE: &str = include_str!("dead_letters/list_of_source.sql");
const FIND: &str = include_str!("dead_letters/find.sql");
const REMOVE: &str = include_str!("dead_letters/remove.sql");
const COUNT: &str = include_str!("dead_letters/count.sql");

/// Where messages that nobody can read wait for a person.
pub struct PostgresDeadLetters {
    connections: Arc<Connections>,
}

impl PostgresDeadLetters {
    pub(super) fn on(connections: Arc<Connections>) -> PostgresDeadLetters {
        PostgresDeadLetters { connections }
    }
}

#[async_trait]
impl DeadLetters for PostgresDeadLetters {
    async fn keep(&self, letters: &[DeadLetter]) -> Result<(), Unavailable> {
        if letters.is_empty() {
            return Ok(());
        }
        let mut sorted: Vec<&DeadLetter> = letters.iter().collect();
        // Stable: of several with one id the first is kept.
        sorted.sort_by_key(|letter| letter.id);
        let ids: Vec<Uuid> = sorted.iter().map(|letter| letter.id.as_uuid()).collect();
        let sources: Vec<&str> = sorted.iter().map(|letter| name(letter.source)).collect();
        let reasons: Vec<Cow<'_, str>> = sorted.iter().map(|letter| fit(Cow::Borrowed(&letter.reason))).collect();
        let moments: Vec<SystemTime> = sorted.iter().map(|letter| moment(letter.at)).collect();
        let bytes: Vec<&[u8]> = sorted.iter().map(|letter| &*letter.bytes).collect();
        self.connections.query(KEEP, &[&ids, &sources, &reasons, &moments, &bytes]).await?;
        Ok(())
    }

    async fn list(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, Unavailable> {
        let at = page.before.map(|(at, _)| moment(at));
        let id = page.before.map(|(_, id)| id.as_uuid());
        let letters_max = i64::from(page.letters_max);
        let rows = match page.source.map(name) {
            None => self.connections.query(LIST, &[&at, &id, &letters_max]).await?,
            Some(source) => self.connections.query(LIST_OF_SOURCE, &[&at, &id, &letters_max, &source]).await?,
        };
        rows.iter().map(read).collect()
    }

    async fn find(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, Unavailable> {
        self.connections.query(FIND, &[&id.as_uuid()]).await?.first().map(read).transpose()
    }

    async fn remove(&self, id: DeadLetterId) -> Result<bool, Unavailable> {
        Ok(!self.connections.query(REMOVE, &[&id.as_uuid()]).await?.is_empty())
    }

    async fn count(&self) -> Result<u64, Unavailable> {
        count(&self.connections.query(COUNT, &[]).await?)
    }
}

/// What a queue is called in its rows.
fn name(source: Source) -> &'static str {
    match source {
        Source::Stage(stage) => stage.as_kebab(),
        Source::Ending => "ending",
    }
}

fn source(name: &str) -> Result<Source, String> {
    match name {
        "ending" => Ok(Source::Ending),
        stage => stage.parse::<Stage>().map(Source::Stage).map_err(|error| error.to_string()),
    }
}

/// The letter of a row `id, source, reason, at, bytes`.
fn read(row: &Row) -> Result<DeadLetter, Unavailable> {
    let columns = || {
        Ok::<_, tokio_postgres::Error>((
            row.try_get::<_, Uuid>(0)?,
            row.try_get::<_, &str>(1)?,
            row.try_get::<_, String>(2)?,
            row.try_get::<_, SystemTime>(3)?,
            row.try_get::<_, &[u8]>(4)?,
        ))
    };
    let (id, source_name, reason, at, bytes) = columns().map_err(|error| Unavailable::new(PART, error))?;
    let source = source(source_name)
        .map_err(|error| Unavailable::new(PART, format!("the row of dead letter {id} cannot be read: {error}")))?;
    let (id, at, bytes) = (DeadLetterId::from_uuid(id), timestamp(at), Bytes::copy_from_slice(bytes));
    Ok(DeadLetter { id, source, reason, at, bytes })
}

//! The dead letters: a table that the `sqlite3` shell shows. What the queues bury is written here at once.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::messages::{source_name, source_of};
use super::readers::Readers;
use super::writer::Writer;
use crate::domain::Timestamp;
use crate::ports::{DeadLetter, DeadLetterId, DeadLetterPage, DeadLetters, Unavailable};

/// [`DeadLetters`] over SQLite. Made by [`super::Embedded::open`].
pub struct EmbeddedDeadLetters {
    writer: Writer,
    readers: Arc<Readers>,
}

impl EmbeddedDeadLetters {
    pub(super) fn new(writer: Writer, readers: Arc<Readers>) -> Self {
        EmbeddedDeadLetters { writer, readers }
    }
}

#[async_trait]
impl DeadLetters for EmbeddedDeadLetters {
    async fn keep(&self, letters: &[DeadLetter]) -> Result<(), Unavailable> {
        let size_bytes = letters.iter().map(|letter| letter.bytes.len() + letter.reason.len()).sum();
        let letters = letters.to_vec();
        let write = move |connection: &Connection| letters.iter().try_for_each(|letter| keep(connection, letter));
        Ok(self.writer.write(size_bytes, write).await?)
    }

    async fn list(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, Unavailable> {
        let page = *page;
        self.readers.read(move |connection| list(connection, &page)).await
    }

    async fn find(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, Unavailable> {
        self.readers.read(move |connection| find(connection, id)).await
    }

    async fn remove(&self, id: DeadLetterId) -> Result<bool, Unavailable> {
        let id = id.to_string();
        let write = move |connection: &Connection| {
            connection.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?.execute([&id])
        };
        Ok(self.writer.write(0, write).await? > 0)
    }

    async fn count(&self) -> Result<u64, Unavailable> {
        let count = |connection: &Connection| {
            let mut count = connection.prepare_cached("SELECT count(*) FROM dead_letters")?;
            count.query_row([], |row| row.get::<_, i64>(0))
        };
        Ok(self.readers.read(count).await?.unsigned_abs())
    }
}

/// Keeps a letter, unless it is kept already.
pub(super) fn keep(connection: &Connection, letter: &DeadLetter) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO dead_letters (id, source, reason, at, bytes) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            letter.id.to_string(),
            source_name(letter.source),
            letter.reason,
            letter.at.as_millis(),
            &*letter.bytes
        ])
        .map(drop)
}

fn list(connection: &Connection, page: &DeadLetterPage) -> rusqlite::Result<Vec<DeadLetter>> {
    // Behind every letter there can be: no moment comes after the last one of the calendar.
    let (at, id) = page.before.map_or((i64::MAX, String::new()), |(at, id)| (at.as_millis(), id.to_string()));
    let read = |row: &Row| read(row);
    match page.source {
        None => connection
            .prepare_cached(
                "SELECT id, source, reason, at, bytes FROM dead_letters
                 WHERE (at, id) < (?1, ?2) ORDER BY at DESC, id DESC LIMIT ?3",
            )?
            .query_map(params![at, id, page.letters_max], read)?
            .collect(),
        Some(source) => connection
            .prepare_cached(
                "SELECT id, source, reason, at, bytes FROM dead_letters
                 WHERE source = ?4 AND (at, id) < (?1, ?2) ORDER BY at DESC, id DESC LIMIT ?3",
            )?
            .query_map(params![at, id, page.letters_max, source_name(source)], read)?
            .collect(),
    }
}

fn find(connection: &Connection, id: DeadLetterId) -> rusqlite::Result<Option<DeadLetter>> {
    connection
        .prepare_cached("SELECT id, source, reason, at, bytes FROM dead_letters WHERE id = ?1")?
        .query_row([id.to_string()], read)
        .optional()
}

/// # Errors
/// Also for a row that somebody else wrote, with an id or a source that are none.
fn read(row: &Row) -> rusqlite::Result<DeadLetter> {
    let invalid =
        |column| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, FromSqlError::InvalidType.into());
    let id: String = row.get("id")?;
    let source: String = row.get("source")?;
    Ok(DeadLetter {
        id: DeadLetterId::from_uuid(Uuid::try_parse(&id).map_err(|_| invalid(0))?),
        source: source_of(&source).ok_or_else(|| invalid(1))?,
        reason: row.get("reason")?,
        at: Timestamp::from_millis(row.get("at")?),
        bytes: Bytes::from(row.get::<_, Vec<u8>>("bytes")?),
    })
}

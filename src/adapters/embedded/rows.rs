//! The SQL of the in-flight store. Every function is one step of a transaction, or one read.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::stored_order::Json;
use crate::domain::{History, Order, OrderRecord, Progress, Stage, Timestamp};
use crate::wire;

/// An order as a message brings it.
pub(super) struct Row {
    pub(super) id: String,
    pub(super) passage: u32,
    /// How far its history has come.
    pub(super) progress: Progress,
    /// Whether an order of other content can have its id.
    pub(super) is_derived: bool,
    steps: String,
    placed_at: Timestamp,
    order: Order,
}

impl Row {
    pub(super) fn of(order: &OrderRecord) -> Row {
        Row {
            id: order.id.to_string(),
            passage: order.passage,
            progress: progress_of(order.passage, &order.history),
            is_derived: order.id.is_derived(),
            steps: wire::encode_steps(&order.history),
            placed_at: order.placed_at,
            order: order.order.clone(),
        }
    }
}

/// How far an order of this history has come.
fn progress_of(passage: u32, history: &History) -> Progress {
    match history.steps().last() {
        None => Progress::accepted(passage),
        Some(last) => Progress::finished(passage, last.stage, last.attempts),
    }
}

/// The attempt a message is for.
pub(super) struct Attempt {
    stage: Stage,
    at: Timestamp,
    worker: Arc<str>,
    pub(super) entered: Progress,
    pub(super) finished: Progress,
}

impl Attempt {
    pub(super) fn next_of(order: &OrderRecord, stage: Stage, at: Timestamp, worker: Arc<str>) -> Attempt {
        let attempt = order.history.next_attempt(stage);
        Attempt {
            stage,
            at,
            worker,
            entered: Progress::entered(order.passage, stage, attempt),
            finished: Progress::finished(order.passage, stage, attempt),
        }
    }
}

/// What a row says.
pub(super) struct Known {
    pub(super) passage: u32,
    pub(super) progress: Progress,
    pub(super) outcome: Option<String>,
    pub(super) ended: bool,
    /// As JSON, if it is to go no further.
    pub(super) cancelled: Option<String>,
    content: Option<i64>,
}

impl Known {
    /// Whether an attempt was begun in its passage, or the order has ended.
    pub(super) fn is_begun(&self) -> bool {
        self.ended || self.progress > Progress::accepted(self.passage)
    }
}

/// What stands in the database for it.
fn number(progress: Progress) -> i64 {
    i64::try_from(progress.as_u64()).unwrap_or(i64::MAX)
}

pub(super) fn look(connection: &Connection, id: &str) -> rusqlite::Result<Option<Known>> {
    connection
        .prepare_cached(
            "SELECT passage, progress, outcome, expires_at IS NOT NULL, content, cancelled
             FROM in_flight WHERE id = ?1",
        )?
        .query_row([id], |row| {
            Ok(Known {
                passage: row.get(0)?,
                progress: Progress::from(row.get::<_, i64>(1)?.unsigned_abs()),
                outcome: row.get(2)?,
                ended: row.get(3)?,
                content: row.get(4)?,
                cancelled: row.get(5)?,
            })
        })
        .optional()
}

/// Whether the order of the row was placed with the same content, byte for byte. The archive has the content of a row that
/// has none.
pub(super) fn is_same_content(connection: &Connection, row: &Row, known: &Known) -> rusqlite::Result<bool> {
    let json = Json(row.order.json());
    match known.content {
        Some(content) => connection
            .prepare_cached("SELECT 1 FROM in_flight_content WHERE n = ?1 AND content = ?2")?
            .exists(params![content, json]),
        None => connection
            .prepare_cached("SELECT 1 FROM archive WHERE id = ?1 AND content = ?2")?
            .exists(params![row.id, json]),
    }
}

/// Writes the row as the message brings it, in the place of `known`.
pub(super) fn replace(connection: &Connection, row: &Row, known: Option<&Known>) -> rusqlite::Result<()> {
    let content = match known.and_then(|known| known.content) {
        Some(content) => {
            replace_content(connection, row, content)?;
            content
        }
        None => insert_content(connection, row)?,
    };
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO in_flight (id, passage, progress, deliveries, steps, content)
             VALUES (?1, ?2, ?3, 0, ?4, ?5)",
        )?
        .execute(params![row.id, row.passage, number(row.progress), row.steps, content])
        .map(drop)
}

fn insert_content(connection: &Connection, row: &Row) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("INSERT INTO in_flight_content (id, placed_at, total, content) VALUES (?1, ?2, ?3, ?4)")?
        .insert(params![row.id, row.placed_at.as_millis(), row.order.total(), Json(row.order.json())])
}

/// In its place: a content keeps its number as long as the order is in flight, so that whoever reads along the numbers
/// comes upon each that stays.
fn replace_content(connection: &Connection, row: &Row, content: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE in_flight_content SET placed_at = ?2, total = ?3, content = ?4 WHERE n = ?1")?
        .execute(params![content, row.placed_at.as_millis(), row.order.total(), Json(row.order.json())])
        .map(drop)
}

fn delete_content(connection: &Connection, content: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM in_flight_content WHERE n = ?1")?.execute([content]).map(drop)
}

/// Notes that the attempt was begun, unless the row has come as far, or has ended; says whether it did.
pub(super) fn enter_if_new(connection: &Connection, row: &Row, attempt: &Attempt) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "UPDATE in_flight
             SET passage = ?2, progress = ?3, deliveries = 1, steps = ?4, stage = ?5, entered_at = ?6, worker = ?7,
                 outcome = NULL, cancelled = NULL
             WHERE id = ?1 AND progress < ?3 AND expires_at IS NULL AND (cancelled IS NULL OR passage < ?2)",
        )?
        .execute(params![
            row.id,
            row.passage,
            number(attempt.entered),
            row.steps,
            attempt.stage.as_snake(),
            attempt.at.as_millis(),
            attempt.worker
        ])
        .map(|rows| rows == 1)
}

/// Counts one more delivery of the attempt; gives how many there were.
pub(super) fn deliver_again(connection: &Connection, id: &str) -> rusqlite::Result<u32> {
    connection
        .prepare_cached("UPDATE in_flight SET deliveries = deliveries + 1 WHERE id = ?1 RETURNING deliveries")?
        .query_row([id], |row| row.get(0))
}

/// Records the outcome of the attempt, if it was begun and has none; says whether it did.
pub(super) fn record_if_entered(
    connection: &Connection,
    id: &str,
    attempt: &Attempt,
    outcome: &str,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "UPDATE in_flight SET progress = ?3, outcome = ?4
             WHERE id = ?1 AND progress = ?2 AND expires_at IS NULL AND cancelled IS NULL",
        )?
        .execute(params![id, number(attempt.entered), number(attempt.finished), outcome])
        .map(|rows| rows == 1)
}

/// The same of an order that is to go no further.
pub(super) fn record_of_cancelled(
    connection: &Connection,
    id: &str,
    attempt: &Attempt,
    outcome: &str,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE in_flight SET progress = ?3, outcome = ?4 WHERE id = ?1 AND progress = ?2")?
        .execute(params![id, number(attempt.entered), number(attempt.finished), outcome])
        .map(drop)
}

/// Notes that the order is to go no further.
pub(super) fn cancel(connection: &Connection, id: &str, json: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE in_flight SET cancelled = ?2 WHERE id = ?1")?.execute(params![id, json]).map(drop)
}

/// Notes that the order has ended. Its content goes if the archive has it.
pub(super) fn end(
    connection: &Connection,
    row: &Row,
    known: &Known,
    expires_at: Timestamp,
    archived: bool,
) -> rusqlite::Result<()> {
    let content = match (archived, known.content) {
        (true, Some(content)) => {
            delete_content(connection, content)?;
            None
        }
        (true, None) => None,
        (false, Some(content)) => {
            if row.is_derived {
                replace_content(connection, row, content)?;
            }
            Some(content)
        }
        (false, None) => Some(insert_content(connection, row)?),
    };
    let steps = if archived { "[]" } else { row.steps.as_str() };
    connection
        .prepare_cached(
            "UPDATE in_flight
             SET passage = ?2, progress = max(progress, ?3), steps = ?4, content = ?5, expires_at = ?6,
                 stage = NULL, entered_at = NULL, worker = NULL, outcome = NULL
             WHERE id = ?1",
        )?
        .execute(params![row.id, row.passage, number(row.progress), steps, content, expires_at.as_millis()])
        .map(drop)
}

pub(super) fn next_expiry(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    connection
        .prepare_cached("SELECT min(expires_at) FROM in_flight WHERE expires_at IS NOT NULL")?
        .query_row([], |row| row.get::<_, Option<i64>>(0))
        .map(|ms| ms.map(Timestamp::from_millis))
}

pub(super) fn delete_expired(connection: &Connection, now: Timestamp, limit: u32) -> rusqlite::Result<()> {
    let expired = connection
        .prepare_cached("SELECT id, content FROM in_flight WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2")?
        .query_map(params![now.as_millis(), limit], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Option<i64>>(1)?))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut delete = connection.prepare_cached("DELETE FROM in_flight WHERE id = ?1")?;
    for (id, content) in expired {
        delete.execute([id])?;
        if let Some(content) = content {
            delete_content(connection, content)?;
        }
    }
    Ok(())
}

//! Orders as they stand in the database, and how they are read from it.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, ToSql, params};

use crate::domain::{History, Order, OrderId, OrderRecord, RecordedOutcome, Stage, Timestamp};
use crate::ports::Unmoved;
use crate::wire;

/// JSON, which is UTF-8, as text, so that the `sqlite3` shell shows it and its JSON functions read it.
pub(super) struct Json<'a>(pub(super) &'a [u8]);

impl ToSql for Json<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

/// Where an order can be read.
pub(super) enum Stored {
    InArchive,
    /// The order as far as it has come, or why its row cannot be read.
    Here(Box<Result<OrderRecord, String>>),
}

/// The order of an in-flight record.
pub(super) fn find_in_flight(connection: &Connection, id: &str) -> rusqlite::Result<Option<Stored>> {
    connection
        .prepare_cached(
            "SELECT f.id, f.passage, c.placed_at, c.total, c.content, f.steps, f.stage, f.entered_at, f.worker,
                    f.outcome, f.content IS NULL
             FROM in_flight f LEFT JOIN in_flight_content c ON c.n = f.content
             WHERE f.id = ?1",
        )?
        .query_row([id], |row| {
            if row.get(10)? {
                return Ok(Stored::InArchive);
            }
            let attempt = NotedAttempt::read(row)?;
            Ok(Stored::Here(Box::new(read_order(row)?.and_then(|mut order| {
                if let Some(attempt) = attempt {
                    attempt.add_to(&mut order.history)?;
                }
                Ok(order)
            }))))
        })
        .optional()
}

struct NotedAttempt {
    stage: String,
    entered_at: i64,
    worker: String,
    outcome: Option<String>,
}

impl NotedAttempt {
    /// Reads it off the columns 6 to 9 of a row.
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<NotedAttempt>> {
        let Some(stage) = row.get::<_, Option<String>>(6)? else {
            return Ok(None);
        };
        Ok(Some(NotedAttempt { stage, entered_at: row.get(7)?, worker: row.get(8)?, outcome: row.get(9)? }))
    }

    fn add_to(&self, history: &mut History) -> Result<(), String> {
        let (stage, outcome) = self.decode()?;
        let (attempt, entered_at) = (history.next_attempt(stage), Timestamp::from_millis(self.entered_at));
        history.show_attempt(stage, attempt, entered_at, &self.worker.as_str().into(), outcome.as_ref());
        Ok(())
    }

    fn move_on(&self, unmoved: &mut Unmoved) -> Result<(), String> {
        let (stage, outcome) = self.decode()?;
        let attempt = unmoved.order.history.next_attempt(stage);
        unmoved.take_in(stage, attempt, Timestamp::from_millis(self.entered_at), outcome.as_ref());
        Ok(())
    }

    fn decode(&self) -> Result<(Stage, Option<RecordedOutcome>), String> {
        let stage = self.stage.parse().map_err(|error: crate::domain::stage::UnknownStage| error.to_string())?;
        Ok((stage, self.outcome.as_deref().map(wire::decode_outcome).transpose()?))
    }
}

/// A row that is not as this release writes it.
pub(super) struct UnreadableRow {
    pub(super) id: String,
}

/// Orders that have not ended, with the numbers of their contents: up to `limit` of those past `after`.
pub(super) fn scan_in_flight(
    connection: &Connection,
    after: i64,
    limit: u32,
) -> rusqlite::Result<Vec<(i64, Result<Unmoved, UnreadableRow>)>> {
    connection
        .prepare_cached(
            "SELECT f.id, f.passage, c.placed_at, c.total, c.content, f.steps, f.stage, f.entered_at, f.worker,
                    f.outcome, c.n
             FROM in_flight_content c CROSS JOIN in_flight f ON f.id = c.id
             WHERE c.n > ?1 AND f.content = c.n AND f.expires_at IS NULL
             ORDER BY c.n LIMIT ?2",
        )?
        .query_map(params![after, limit], |row| Ok((row.get(10)?, read_unmoved(row)?)))?
        .collect()
}

/// One order that has not ended, as a scan gives it.
pub(super) fn find_unmoved(
    connection: &Connection,
    id: &str,
) -> rusqlite::Result<Option<Result<Unmoved, UnreadableRow>>> {
    connection
        .prepare_cached(
            "SELECT f.id, f.passage, c.placed_at, c.total, c.content, f.steps, f.stage, f.entered_at, f.worker, f.outcome
             FROM in_flight f JOIN in_flight_content c ON c.n = f.content
             WHERE f.id = ?1 AND f.expires_at IS NULL",
        )?
        .query_row([id], read_unmoved)
        .optional()
}

/// Reads it off a row of an order and the attempt behind it.
fn read_unmoved(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Unmoved, UnreadableRow>> {
    let attempt = NotedAttempt::read(row)?;
    let unmoved = read_order(row)?.and_then(|order| {
        let mut unmoved = Unmoved::of(order);
        if let Some(attempt) = attempt {
            attempt.move_on(&mut unmoved)?;
        }
        Ok(unmoved)
    });
    let id = row.get(0)?;
    Ok(unmoved.map_err(|_| UnreadableRow { id }))
}

/// Reads an order off a row that begins with id, passage, placed_at, total, content and steps.
pub(super) fn read_order(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<OrderRecord, String>> {
    let id: String = row.get(0)?;
    let passage = row.get(1)?;
    let placed_at = Timestamp::from_millis(row.get(2)?);
    let total: String = row.get(3)?;
    let json: String = row.get(4)?;
    let steps: String = row.get(5)?;
    let order = Order::from_parts(json.into(), total.into());
    Ok(OrderId::parse(&id).ok_or_else(|| "its id is no UUID".to_owned()).and_then(|id| {
        Ok(OrderRecord { id, passage, placed_at, order, history: wire::decode_steps(&steps)?, trace: None })
    }))
}

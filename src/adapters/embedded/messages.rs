//! The SQL of the queues. Every function is one step of a transaction, or one read.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};

use super::sources::Arrival;
use crate::domain::{Stage, Timestamp};
use crate::ports::Source;

/// What a source is called in the database.
pub(super) fn source_name(source: Source) -> &'static str {
    match source {
        Source::Stage(stage) => stage.as_kebab(),
        Source::Ending => "ending",
    }
}

/// The source that is called `name` in the database.
pub(super) fn source_of(name: &str) -> Option<Source> {
    if name == source_name(Source::Ending) {
        return Some(Source::Ending);
    }
    name.parse::<Stage>().ok().map(Source::Stage)
}

/// Puts a message at the end of its queue; gives its id.
pub(super) fn insert(connection: &Connection, source: Source, orders: usize, body: &[u8]) -> rusqlite::Result<i64> {
    connection.prepare_cached("INSERT INTO messages (source, orders, body) VALUES (?1, ?2, ?3)")?.insert(params![
        source_name(source),
        orders as i64,
        body
    ])
}

/// Puts a message where it waits until `ready_at`.
pub(super) fn insert_delayed(
    connection: &Connection,
    source: Source,
    ready_at: Timestamp,
    orders: usize,
    body: &[u8],
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO delayed_messages (source, ready_at, orders, body) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![source_name(source), ready_at.as_millis(), orders as i64, body])
        .map(drop)
}

/// Puts a message of one order aside until its time has come.
pub(super) fn insert_scheduled(connection: &Connection, ready_at: Timestamp, body: &[u8]) -> rusqlite::Result<()> {
    let source = source_name(Source::Stage(Stage::FIRST));
    connection
        .prepare_cached("INSERT INTO scheduled_messages (source, ready_at, orders, body) VALUES (?1, ?2, 1, ?3)")?
        .execute(params![source, ready_at.as_millis(), body])
        .map(drop)
}

/// When the first of the messages that have a time set is to be moved.
pub(super) fn next_scheduled_at(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    connection
        .prepare_cached("SELECT min(ready_at) FROM scheduled_messages")?
        .query_row([], |row| row.get::<_, Option<i64>>(0))
        .map(|ms| ms.map(Timestamp::from_millis))
}

/// When the first of the waiting messages is to be moved.
pub(super) fn next_ready_at(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    connection
        .prepare_cached("SELECT min(ready_at) FROM delayed_messages")?
        .query_row([], |row| row.get::<_, Option<i64>>(0))
        .map(|ms| ms.map(Timestamp::from_millis))
}

/// Moves messages whose time has come to their queues, about `limit` of them. What is to wait beyond `latest`, longer than any
/// wait can be, was written before the machine's clock was put back, and has its time now.
pub(super) fn move_ready(
    connection: &Connection,
    now: Timestamp,
    latest: Timestamp,
    limit: u32,
) -> rusqlite::Result<Vec<Arrival>> {
    // Two searches of the index: one condition with OR would read all of it.
    let mut arrivals = Vec::new();
    for (table, condition, bound) in [
        ("delayed_messages", "ready_at <= ?1", now),
        ("delayed_messages", "ready_at > ?1", latest),
        ("scheduled_messages", "ready_at <= ?1", now),
    ] {
        let mut select = connection
            .prepare_cached(&format!("SELECT id, source FROM {table} WHERE {condition} ORDER BY ready_at LIMIT ?2"))?;
        let rows = select.query_map(params![bound.as_millis(), limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let ready = rows.collect::<rusqlite::Result<Vec<(i64, String)>>>()?;
        for (waiting, source) in ready {
            let id = connection
                .prepare_cached(&format!(
                    "INSERT INTO messages (source, orders, body) SELECT source, orders, body FROM {table} WHERE id = ?1"
                ))?
                .insert([waiting])?;
            connection.prepare_cached(&format!("DELETE FROM {table} WHERE id = ?1"))?.execute([waiting])?;
            if let Some(source) = source_of(&source) {
                arrivals.push(Arrival { source, id });
            }
        }
    }
    Ok(arrivals)
}

/// Takes settled messages out of the queues.
pub(super) fn delete(connection: &Connection, ids: &[i64]) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached("DELETE FROM messages WHERE id = ?1")?;
    for id in ids {
        delete.execute([id])?;
    }
    Ok(())
}

/// The ids of up to `limit` messages of `source` after the message `after`, oldest first.
pub(super) fn ids_after(
    connection: &Connection,
    source: Source,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare_cached("SELECT id FROM messages WHERE source = ?1 AND id > ?2 ORDER BY id LIMIT ?3")?
        .query_map(params![source_name(source), after, limit as i64], |row| row.get(0))?
        .collect()
}

/// How many messages of `source` there are after the message `after`.
pub(super) fn count_after(connection: &Connection, source: Source, after: i64) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM messages WHERE source = ?1 AND id > ?2")?
        .query_row(params![source_name(source), after], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
}

/// The bytes of a message; `None` if it is gone.
pub(super) fn body(connection: &Connection, id: i64) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .prepare_cached("SELECT body FROM messages WHERE id = ?1")?
        .query_row([id], |row| {
            Ok(match row.get_ref(0)? {
                ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes.to_vec(),
                ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => Vec::new(),
            })
        })
        .optional()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_found_again_by_its_name() {
        for source in Source::all() {
            assert_eq!(source_of(source_name(source)), Some(source));
        }
    }
}

//! What was asked to go no further, until it has ended.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::readers::Readers;
use super::writer::Writer;
use crate::domain::{Cancellation, OrderId, Timestamp};
use crate::ports::{AskedCancellation, Cancellations, Unavailable};

/// [`Cancellations`] over SQLite. Made by [`super::Embedded::open`].
pub struct EmbeddedCancellations {
    writer: Writer,
    readers: Arc<Readers>,
}

impl EmbeddedCancellations {
    pub(super) fn new(writer: Writer, readers: Arc<Readers>) -> Self {
        EmbeddedCancellations { writer, readers }
    }
}

#[async_trait]
impl Cancellations for EmbeddedCancellations {
    async fn ask(&self, asked: &AskedCancellation) -> Result<AskedCancellation, Unavailable> {
        let asked = asked.clone();
        let size_bytes = asked.cancellation.reason.as_deref().map_or(0, str::len);
        let write = move |connection: &Connection| {
            let id = asked.id.to_string();
            connection
                .prepare_cached(
                    "INSERT INTO cancellations (id, passage, at, reason) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (id) DO UPDATE
                     SET passage = excluded.passage, at = excluded.at, reason = excluded.reason
                     WHERE cancellations.passage < excluded.passage",
                )?
                .execute(params![
                    id,
                    asked.passage,
                    asked.cancellation.at.as_millis(),
                    asked.cancellation.reason.as_deref()
                ])?;
            let (passage, cancellation) = find(connection, &id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            Ok(AskedCancellation { id: asked.id, passage, cancellation })
        };
        Ok(self.writer.write(size_bytes, write).await?)
    }

    async fn of(&self, orders: &[(OrderId, u32)]) -> Result<Vec<Option<Cancellation>>, Unavailable> {
        let orders: Vec<(String, u32)> = orders.iter().map(|(id, passage)| (id.to_string(), *passage)).collect();
        let read = move |connection: &Connection| {
            let of = |(id, passage): &(String, u32)| {
                let found = find(connection, id)?.filter(|(of, _)| of == passage);
                Ok(found.map(|(_, cancellation)| cancellation))
            };
            orders.iter().map(of).collect()
        };
        self.readers.read(read).await
    }

    async fn open(&self, after: Option<OrderId>, count_max: u32) -> Result<Vec<AskedCancellation>, Unavailable> {
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        let read = move |connection: &Connection| {
            connection
                .prepare_cached("SELECT id, passage, at, reason FROM cancellations WHERE id > ?1 ORDER BY id LIMIT ?2")?
                .query_map(params![after, count_max], |row| {
                    let id: String = row.get(0)?;
                    let cancellation = Cancellation { at: Timestamp::from_millis(row.get(2)?), reason: row.get(3)? };
                    Ok((OrderId::parse(&id), row.get(1)?, cancellation))
                })?
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = self.readers.read(read).await?;
        let asked = rows
            .into_iter()
            .filter_map(|(id, passage, cancellation)| Some(AskedCancellation { id: id?, passage, cancellation }));
        Ok(asked.collect())
    }

    async fn settle(&self, orders: &[(OrderId, u32)]) -> Result<(), Unavailable> {
        let orders: Vec<(String, u32)> = orders.iter().map(|(id, passage)| (id.to_string(), *passage)).collect();
        let write = move |connection: &Connection| {
            let mut delete = connection.prepare_cached("DELETE FROM cancellations WHERE id = ?1 AND passage <= ?2")?;
            for (id, passage) in &orders {
                delete.execute(params![id, passage])?;
            }
            Ok(())
        };
        Ok(self.writer.write(0, write).await?)
    }
}

fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<(u32, Cancellation)>> {
    connection
        .prepare_cached("SELECT passage, at, reason FROM cancellations WHERE id = ?1")?
        .query_row([id], |row| {
            Ok((row.get(0)?, Cancellation { at: Timestamp::from_millis(row.get(1)?), reason: row.get(2)? }))
        })
        .optional()
}

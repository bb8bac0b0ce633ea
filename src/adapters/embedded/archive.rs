//! The archive: one row for each order that has ended, in columns that the `sqlite3` shell shows and searches.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;

use super::database::unavailable_row;
use super::readers::Readers;
use super::stored_order::{Json, read_order};
use super::writer::Writer;
use crate::domain::{OrderId, OrderRecord, Stage, Timestamp};
use crate::ports::{Archive, Archived, FailedFilter, Unavailable};
use crate::wire;

/// [`Archive`] over SQLite. Made by [`super::Embedded::open`].
pub struct EmbeddedArchive {
    writer: Writer,
    readers: Arc<Readers>,
}

impl EmbeddedArchive {
    pub(super) fn new(writer: Writer, readers: Arc<Readers>) -> Self {
        EmbeddedArchive { writer, readers }
    }
}

#[async_trait]
impl Archive for EmbeddedArchive {
    async fn archive(&self, orders: &[OrderRecord]) -> Result<Vec<Archived>, Unavailable> {
        let size_bytes = orders.iter().map(OrderRecord::size_bytes).sum();
        let orders: Vec<EndedOrder> = orders.iter().map(EndedOrder::of).collect();
        let write = move |connection: &Connection| {
            orders.iter().map(|order| order.keep(connection)).collect::<rusqlite::Result<Vec<_>>>()
        };
        Ok(self.writer.write(size_bytes, write).await?)
    }

    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        let key = id.to_string();
        let Some(found) = self.readers.read(move |connection| find(connection, &key)).await? else {
            return Ok(None);
        };
        found.map(Some).map_err(|reason| unavailable_row("archive row", id, &reason))
    }

    async fn ended_passages(&self, ids: &[OrderId]) -> Result<Vec<Option<u32>>, Unavailable> {
        let keys: Vec<String> = ids.iter().map(OrderId::to_string).collect();
        self.readers.read(move |connection| keys.iter().map(|key| ended_passage(connection, key)).collect()).await
    }

    async fn failed(
        &self,
        filter: &FailedFilter,
        after: Option<OrderId>,
        orders_max: u32,
    ) -> Result<Vec<OrderRecord>, Unavailable> {
        let (filter, after) = (filter.clone(), after.map(|id| id.to_string()).unwrap_or_default());
        let rows = self.readers.read(move |connection| failed(connection, &filter, &after, orders_max)).await?;
        let mut orders = Vec::with_capacity(rows.len());
        for row in rows {
            match row {
                Ok(order) => orders.push(order),
                Err(reason) => tracing::warn!(reason, "an archive row is unreadable: passed over"),
            }
        }
        Ok(orders)
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.writer.check().await
    }
}

/// An order as its row has it.
struct EndedOrder {
    id: String,
    order: OrderRecord,
    steps: String,
}

/// Those fields of an order that have a column.
#[derive(Default, Deserialize)]
struct Columns<'a> {
    #[serde(borrow)]
    customer_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reference: Option<Cow<'a, str>>,
    #[serde(borrow)]
    currency: Option<Cow<'a, str>>,
}

impl EndedOrder {
    fn of(order: &OrderRecord) -> EndedOrder {
        EndedOrder { id: order.id.to_string(), steps: wire::encode_steps(&order.history), order: order.clone() }
    }

    /// Keeps it, unless an end of this passage or a later one is kept.
    fn keep(&self, connection: &Connection) -> rusqlite::Result<Archived> {
        let order = &self.order;
        // An order that is none can still be kept; it just cannot be searched.
        let columns: Columns = serde_json::from_slice(order.order.json()).unwrap_or_default();
        let failure = order.history.failure();
        let changed = connection
            .prepare_cached(
                "INSERT INTO archive (id, passage, status, customer_id, reference, currency, total, placed_at,
                                      finished_at, failure_stage, failure_reason, steps, content)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
                 ON CONFLICT (id) DO UPDATE
                 SET passage = excluded.passage, status = excluded.status, customer_id = excluded.customer_id,
                     reference = excluded.reference, currency = excluded.currency, total = excluded.total,
                     placed_at = excluded.placed_at, finished_at = excluded.finished_at,
                     failure_stage = excluded.failure_stage, failure_reason = excluded.failure_reason,
                     steps = excluded.steps, content = excluded.content
                 WHERE archive.passage < excluded.passage",
            )?
            .execute(params![
                self.id,
                order.passage,
                order.history.status().as_str(),
                columns.customer_id,
                columns.reference,
                columns.currency,
                order.order.total(),
                order.placed_at.as_millis(),
                order.history.finished_at().unwrap_or_else(|| order.updated_at()).as_millis(),
                failure.as_ref().map(|failure| failure.stage.as_snake()),
                failure.as_ref().map(|failure| failure.reason.as_str()),
                self.steps,
                Json(order.order.json()),
            ])?;
        Ok(if changed == 0 { Archived::Before } else { Archived::Now })
    }
}

/// The order as it ended, or why its row cannot be read.
pub(super) fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<Result<OrderRecord, String>>> {
    connection
        .prepare_cached("SELECT id, passage, placed_at, total, content, steps FROM archive WHERE id = ?1")?
        .query_row([id], read_order)
        .optional()
}

fn ended_passage(connection: &Connection, id: &str) -> rusqlite::Result<Option<u32>> {
    connection.prepare_cached("SELECT passage FROM archive WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()
}

fn failed(
    connection: &Connection,
    filter: &FailedFilter,
    after: &str,
    orders_max: u32,
) -> rusqlite::Result<Vec<Result<OrderRecord, String>>> {
    connection
        .prepare_cached(
            "SELECT id, passage, placed_at, total, content, steps FROM archive
             WHERE status = 'failed' AND id > ?1
                 AND (?2 IS NULL OR failure_stage = ?2) AND (?3 IS NULL OR instr(failure_reason, ?3) > 0)
                 AND (?4 IS NULL OR customer_id = ?4)
                 AND (?5 IS NULL OR finished_at >= ?5) AND (?6 IS NULL OR finished_at < ?6)
             ORDER BY id LIMIT ?7",
        )?
        .query_map(
            params![
                after,
                filter.stage.map(Stage::as_snake),
                filter.reason.as_deref(),
                filter.customer_id.as_deref(),
                filter.from.map(Timestamp::as_millis),
                filter.to.map(Timestamp::as_millis),
                orders_max
            ],
            read_order,
        )?
        .collect()
}

/// Whether an end of `passage` or a later one is kept.
pub(super) fn has(connection: &Connection, id: &str, passage: u32) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM archive WHERE id = ?1 AND passage >= ?2")?.exists(params![id, passage])
}

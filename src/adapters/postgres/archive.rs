//! The archive in Postgres: one row per order, one statement per batch.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::connections::Connections;
use super::{MigrateError, PART, PostgresOptions, migrate};
use crate::domain::{Order, OrderId, OrderRecord, Timestamp};
use crate::ports::{Archive, Archived, Unavailable};
use crate::wire;

const ARCHIVE: &str = include_str!("archive.sql");
const FIND: &str = include_str!("find.sql");
const CONTAINS: &str = include_str!("contains.sql");

/// Where orders stay when they have ended.
pub struct PostgresArchive {
    connections: Connections,
}

impl PostgresArchive {
    /// Connects when it is first needed; it comes back at once. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with the options; final.
    pub fn start(options: PostgresOptions) -> Result<PostgresArchive, String> {
        Ok(PostgresArchive { connections: Connections::start(options)? })
    }

    /// Makes the schema or brings it up to date, and answers which migrations that took. Any number of processes may
    /// do this at once.
    ///
    /// # Errors
    /// [`MigrateError`]; nothing of the migration that failed was done.
    pub async fn migrate(&self) -> Result<Vec<String>, MigrateError> {
        migrate::migrate(&self.connections).await
    }
}

#[async_trait]
impl Archive for PostgresArchive {
    async fn archive(&self, orders: &[OrderRecord]) -> Result<Vec<Archived>, Unavailable> {
        if orders.is_empty() {
            return Ok(Vec::new());
        }
        let chosen = choose(orders);
        let mut columns = Columns::default();
        for n in chosen.values() {
            columns.push(&orders[*n]);
        }
        let rows = self.connections.query(ARCHIVE, &columns.parameters()).await?;
        let kept = rows.iter().map(id).collect::<Result<HashSet<_>, _>>()?;
        let archived = orders.iter().enumerate().map(|(n, order)| {
            if chosen.get(&order.id) == Some(&n) && kept.contains(&order.id) { Archived::Now } else { Archived::Before }
        });
        Ok(archived.collect())
    }

    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        let rows = self.connections.query(FIND, &[&id.as_uuid()]).await?;
        rows.first().map(|row| read(id, row)).transpose()
    }

    async fn contains(&self, ids: &[OrderId]) -> Result<Vec<bool>, Unavailable> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
        let rows = self.connections.query(CONTAINS, &[&uuids]).await?;
        let found = rows.iter().map(id).collect::<Result<HashSet<_>, _>>()?;
        Ok(ids.iter().map(|id| found.contains(id)).collect())
    }

    async fn check(&self) -> Result<(), Unavailable> {
        let nobody: &[Uuid] = &[];
        self.connections.query(CONTAINS, &[&nobody]).await?;
        Ok(())
    }
}

/// Which of the orders to keep, by id: of several with one id the highest passage, and of those the first. (A
/// statement cannot update a row twice.)
fn choose(orders: &[OrderRecord]) -> BTreeMap<OrderId, usize> {
    let mut chosen = BTreeMap::new();
    for (n, order) in orders.iter().enumerate() {
        chosen
            .entry(order.id)
            .and_modify(|chosen: &mut usize| {
                if orders[*chosen].passage < order.passage {
                    *chosen = n;
                }
            })
            .or_insert(n);
    }
    chosen
}

/// The rows of a batch, column by column.
///
/// Nothing in here may be refused by Postgres: one row would keep the whole batch out, for ever. So texts are made
/// fit for it, and what is only there to be searched for is left empty if an order does not have it.
#[derive(Default)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    placed_at: Vec<SystemTime>,
    finished_at: Vec<SystemTime>,
    passages: Vec<i32>,
    statuses: Vec<&'static str>,
    customer_ids: Vec<Cow<'a, str>>,
    references: Vec<Option<Cow<'a, str>>>,
    currencies: Vec<Cow<'a, str>>,
    totals: Vec<Cow<'a, str>>,
    failure_stages: Vec<Option<&'static str>>,
    failure_reasons: Vec<Option<Cow<'a, str>>>,
    steps: Vec<String>,
    contents: Vec<Cow<'a, str>>,
}

/// What an order is searched for by.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Heading<'a> {
    #[serde(borrow)]
    customer_id: Cow<'a, str>,
    reference: Option<Cow<'a, str>>,
    #[serde(borrow)]
    currency: Cow<'a, str>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, order: &'a OrderRecord) {
        let heading: Heading = serde_json::from_slice(order.order.json()).unwrap_or_default();
        let failure = order.history.failure();
        let finished_at = order.history.finished_at();
        self.ids.push(order.id.as_uuid());
        self.placed_at.push(moment(order.placed_at));
        self.finished_at.push(moment(finished_at.unwrap_or(order.updated_at())));
        self.passages.push(i32::try_from(order.passage).unwrap_or(i32::MAX));
        self.statuses.push(order.history.status().as_str());
        self.customer_ids.push(fit(heading.customer_id));
        self.references.push(heading.reference.map(fit));
        self.currencies.push(fit(heading.currency));
        self.totals.push(fit(order.order.total().into()));
        self.failure_stages.push(failure.as_ref().map(|failure| failure.stage.as_snake()));
        self.failure_reasons.push(failure.map(|failure| fit(failure.reason.into())));
        self.steps.push(wire::encode_steps(&order.history));
        self.contents.push(String::from_utf8_lossy(order.order.json()));
    }

    /// In the order of `archive.sql`.
    fn parameters(&self) -> [&(dyn ToSql + Sync); 13] {
        [
            &self.ids,
            &self.placed_at,
            &self.finished_at,
            &self.passages,
            &self.statuses,
            &self.customer_ids,
            &self.references,
            &self.currencies,
            &self.totals,
            &self.failure_stages,
            &self.failure_reasons,
            &self.steps,
            &self.contents,
        ]
    }
}

/// The text without U+0000, which no text in Postgres can hold.
fn fit(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.contains('\0') {
        return text.replace('\0', "\u{fffd}").into();
    }
    text
}

/// As a `timestamptz`, which counts whole microseconds: exact both ways.
fn moment(timestamp: Timestamp) -> SystemTime {
    let ms = timestamp.as_millis();
    let since_epoch = Duration::from_millis(ms.unsigned_abs());
    if ms < 0 { UNIX_EPOCH - since_epoch } else { UNIX_EPOCH + since_epoch }
}

fn timestamp(moment: SystemTime) -> Timestamp {
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(match moment.duration_since(UNIX_EPOCH) {
        Ok(since_epoch) => ms(since_epoch),
        Err(before_epoch) => -ms(before_epoch.duration()),
    })
}

fn id(row: &Row) -> Result<OrderId, Unavailable> {
    row.try_get(0).map(OrderId::from_uuid).map_err(|error| Unavailable::new(PART, error))
}

/// The order of a row of `find.sql`.
fn read(id: OrderId, row: &Row) -> Result<OrderRecord, Unavailable> {
    let unreadable = |reason: String| Unavailable::new(PART, format!("the row of {id} cannot be read: {reason}"));
    let columns = || {
        Ok::<_, tokio_postgres::Error>((
            row.try_get::<_, i32>(0)?,
            row.try_get::<_, SystemTime>(1)?,
            row.try_get::<_, String>(2)?,
            row.try_get::<_, &str>(3)?,
            row.try_get::<_, String>(4)?,
        ))
    };
    let (passage, placed_at, total, steps, content) = columns().map_err(|error| unreadable(error.to_string()))?;
    Ok(OrderRecord {
        id,
        passage: u32::try_from(passage).map_err(|error| unreadable(error.to_string()))?,
        placed_at: timestamp(placed_at),
        order: Order::from_parts(Bytes::from(content), total.into()),
        history: wire::decode_steps(steps).map_err(unreadable)?,
    })
}

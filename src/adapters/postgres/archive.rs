//! The archive in Postgres: one row per order, one statement per batch.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::connections::Connections;
use super::rows::{OrderColumns, fit, id, moment, read};
use super::{MigrateError, PART, PostgresOptions, durability, migrate};
use crate::domain::{OrderId, OrderRecord, Stage};
use crate::ports::{Archive, Archived, FailedFilter, Unavailable};
use crate::wire;

const ARCHIVE: &str = include_str!("archive.sql");
const FIND: &str = include_str!("find.sql");
const ENDED_PASSAGES: &str = include_str!("ended_passages.sql");
const SCHEMA_VERSION: &str = "SELECT max(version) FROM refinery_schema_history";
const FAILED: &str = include_str!("failed.sql");

/// Where orders stay when they have ended.
pub struct PostgresArchive {
    connections: Arc<Connections>,
}

impl PostgresArchive {
    /// Connects when it is first needed; it comes back at once. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with the options; final.
    pub fn start(options: PostgresOptions) -> Result<PostgresArchive, String> {
        Ok(Self::on(Arc::new(Connections::start(options)?)))
    }

    pub(super) fn on(connections: Arc<Connections>) -> PostgresArchive {
        PostgresArchive { connections }
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
        rows.first().map(read).transpose()
    }

    async fn ended_passages(&self, ids: &[OrderId]) -> Result<Vec<Option<u32>>, Unavailable> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
        let rows = self.connections.query(ENDED_PASSAGES, &[&uuids]).await?;
        let found = rows.iter().map(|row| {
            let passage: i32 = row.try_get(1).map_err(|error| Unavailable::new(PART, error))?;
            Ok((id(row)?, u32::try_from(passage).map_err(|error| Unavailable::new(PART, error))?))
        });
        let found = found.collect::<Result<HashMap<_, _>, Unavailable>>()?;
        Ok(ids.iter().map(|id| found.get(id).copied()).collect())
    }

    async fn failed(
        &self,
        filter: &FailedFilter,
        after: Option<OrderId>,
        orders_max: u32,
    ) -> Result<Vec<OrderRecord>, Unavailable> {
        // No order has the nil id.
        let after = after.map_or(Uuid::nil(), OrderId::as_uuid);
        let text = |text: &'_ Option<String>| text.clone().map(|text| fit(text.into()));
        let parameters: [&(dyn ToSql + Sync); 7] = [
            &after,
            &filter.stage.map(Stage::as_snake),
            &text(&filter.reason),
            &text(&filter.customer_id),
            &filter.from.map(moment),
            &filter.to.map(moment),
            &i64::from(orders_max),
        ];
        self.connections.query(FAILED, &parameters).await?.iter().map(read).collect()
    }

    /// By Postgres' settings, and by who is connected to it now.
    async fn durability_warning(&self) -> Result<Option<String>, Unavailable> {
        durability::warning(&self.connections).await
    }

    async fn check(&self) -> Result<(), Unavailable> {
        let rows = self.connections.query(SCHEMA_VERSION, &[]).await?;
        let version: Option<i32> = rows.first().and_then(|row| row.try_get(0).ok());
        let (version, needed) = (version.unwrap_or(0), migrate::version_needed());
        if version < needed {
            let reason = format!("the schema has version {version}, not {needed} yet: see `ordering migrate`");
            return Err(Unavailable::new(PART, reason));
        }
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
#[derive(Default)]
struct Columns<'a> {
    orders: OrderColumns<'a>,
    finished_at: Vec<SystemTime>,
    statuses: Vec<&'static str>,
    failure_stages: Vec<Option<&'static str>>,
    failure_reasons: Vec<Option<Cow<'a, str>>>,
    steps: Vec<String>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, order: &'a OrderRecord) {
        let failure = order.history.failure();
        let finished_at = order.history.finished_at();
        self.orders.push(order);
        self.finished_at.push(moment(finished_at.unwrap_or(order.updated_at())));
        self.statuses.push(order.history.status().as_str());
        self.failure_stages.push(failure.as_ref().map(|failure| failure.stage.as_snake()));
        self.failure_reasons.push(failure.map(|failure| fit(failure.reason.into())));
        self.steps.push(wire::encode_steps(&order.history));
    }

    /// In the order of `archive.sql`.
    fn parameters(&self) -> [&(dyn ToSql + Sync); 13] {
        [
            &self.orders.ids,
            &self.orders.placed_at,
            &self.finished_at,
            &self.orders.passages,
            &self.statuses,
            &self.orders.customer_ids,
            &self.orders.references,
            &self.orders.currencies,
            &self.orders.totals,
            &self.failure_stages,
            &self.failure_reasons,
            &self.steps,
            &self.orders.contents,
        ]
    }
}

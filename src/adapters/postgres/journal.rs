//! The journal in Postgres: one row per order that has not ended, one statement per batch.
//!
//! Orders are put in on connections that nothing else uses: a customer does not wait behind the archive, nor behind the
//! chores of the journal itself.
//!
//! # Failure handling
//! [`Journal::note`] has one limit for all it takes: the wait for a connection, its making, the statement. After that
//! the call fails, and so do the next ones, at once, until it is time to try again (`reach`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::PART;
use super::connections::Connections;
use super::rows::{OrderColumns, count, moment, read};
use crate::domain::{OrderId, OrderRecord};
use crate::ports::{Claim, Journal, PublishError, Purpose, Unavailable};
use crate::wire;

const NOTE: &str = include_str!("journal/note.sql");
const FIND: &str = include_str!("journal/find.sql");
const TO_PUBLISH: &str = include_str!("journal/to_publish.sql");
const WAITING: &str = include_str!("journal/waiting.sql");
const PUBLISHED: &str = include_str!("journal/published.sql");
const SCAN: &str = include_str!("journal/scan.sql");
const SWEEP: &str = include_str!("journal/sweep.sql");

/// How many rows a statement of [`Journal::sweep`] looks at: some tens of milliseconds.
const SWEEP_ROWS: i64 = 5_000;

/// The second place for accepted orders.
pub struct PostgresJournal {
    /// For [`Journal::note`] alone.
    notes: Connections,
    connections: Arc<Connections>,
    /// The last row a sweep has looked at. Orders that take long would otherwise be looked at by every sweep first.
    swept_to: Mutex<Uuid>,
}

impl PostgresJournal {
    pub(super) fn on(notes: Connections, connections: Arc<Connections>) -> PostgresJournal {
        PostgresJournal { notes, connections, swept_to: Mutex::new(Uuid::nil()) }
    }

    /// Looks at the rows after `after`; how many it removed, and the last one it looked at.
    async fn sweep_after(&self, after: Uuid) -> Result<(u64, Option<Uuid>), Unavailable> {
        let rows = self.connections.query(SWEEP, &[&after, &SWEEP_ROWS]).await?;
        let removed = count(&rows)?;
        let last = rows.first().map(|row| row.try_get(1)).transpose();
        Ok((removed, last.map_err(|error| Unavailable::new(PART, error))?.flatten()))
    }

    fn swept_to(&self) -> Uuid {
        *self.swept_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_swept_to(&self, id: Uuid) {
        *self.swept_to.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }
}

#[async_trait]
impl Journal for PostgresJournal {
    fn takes(&self) -> Result<(), Unavailable> {
        self.notes.takes()
    }

    async fn note(&self, orders: &[OrderRecord], purpose: Purpose) -> Result<Vec<Claim>, PublishError> {
        if orders.is_empty() {
            return Ok(Vec::new());
        }
        let is_to_publish = match purpose {
            Purpose::Know => false,
            Purpose::Publish => true,
        };
        let mut columns = Columns::default();
        for order in orders {
            columns.push(order);
        }
        let rows = self.notes.write(NOTE, &columns.parameters(&is_to_publish)).await?;
        if rows.len() != orders.len() {
            let unavailable = Unavailable::new(PART, format!("{} claims of {} orders", rows.len(), orders.len()));
            return Err(PublishError::Unknown(unavailable));
        }
        rows.iter().map(claim).collect::<Result<_, _>>().map_err(PublishError::Unknown)
    }

    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        Ok(self.find_all(&[id]).await?.pop().flatten())
    }

    async fn find_all(&self, ids: &[OrderId]) -> Result<Vec<Option<OrderRecord>>, Unavailable> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.connections.query(FIND, &[&uuids(ids)]).await?;
        let found = rows.iter().map(|row| read(row).map(|order| (order.id, order)));
        let found = found.collect::<Result<HashMap<_, _>, _>>()?;
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    async fn to_publish(&self, orders_max: u32) -> Result<Vec<OrderRecord>, Unavailable> {
        self.connections.query(TO_PUBLISH, &[&i64::from(orders_max)]).await?.iter().map(read).collect()
    }

    async fn waiting(&self) -> Result<u64, Unavailable> {
        count(&self.connections.query(WAITING, &[]).await?)
    }

    async fn published(&self, ids: &[OrderId]) -> Result<(), Unavailable> {
        if !ids.is_empty() {
            self.connections.query(PUBLISHED, &[&uuids(ids)]).await?;
        }
        Ok(())
    }

    async fn scan(&self, after: Option<OrderId>, orders_max: u32) -> Result<Vec<OrderRecord>, Unavailable> {
        // No order has the nil id.
        let after = after.map_or(Uuid::nil(), OrderId::as_uuid);
        self.connections.query(SCAN, &[&after, &i64::from(orders_max)]).await?.iter().map(read).collect()
    }

    async fn sweep(&self) -> Result<u64, Unavailable> {
        let mut after = self.swept_to();
        // From where the last sweep stopped to the end, then from the beginning to the end: nothing is left out.
        let mut is_from_the_beginning = after.is_nil();
        loop {
            let (removed, last) = self.sweep_after(after).await?;
            after = last.unwrap_or(Uuid::nil());
            self.set_swept_to(after);
            if removed > 0 {
                return Ok(removed);
            }
            if last.is_none() && is_from_the_beginning {
                return Ok(0);
            }
            is_from_the_beginning |= last.is_none();
        }
    }
}

/// The rows of a batch, column by column.
#[derive(Default)]
struct Columns<'a> {
    orders: OrderColumns<'a>,
    steps: Vec<Option<String>>,
    publish_at: Vec<Option<SystemTime>>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, order: &'a OrderRecord) {
        self.orders.push(order);
        let has_steps = order.history.all_steps().next().is_some();
        self.steps.push(has_steps.then(|| wire::encode_steps(&order.history)));
        self.publish_at.push(order.order.not_before().map(moment));
    }

    /// In the order of `note.sql`.
    fn parameters<'b>(&'b self, is_to_publish: &'b bool) -> [&'b (dyn ToSql + Sync); 11] {
        [
            is_to_publish,
            &self.orders.ids,
            &self.orders.passages,
            &self.orders.placed_at,
            &self.orders.customer_ids,
            &self.orders.references,
            &self.orders.currencies,
            &self.orders.totals,
            &self.steps,
            &self.orders.contents,
            &self.publish_at,
        ]
    }
}

/// What a row of `note.sql` says. The journal does not know whether a worker has begun an order.
fn claim(row: &Row) -> Result<Claim, Unavailable> {
    let columns = || Ok::<_, tokio_postgres::Error>((row.try_get::<_, bool>(0)?, row.try_get::<_, bool>(1)?));
    let (is_new, is_same) = columns().map_err(|error| Unavailable::new(PART, error))?;
    Ok(match (is_new, is_same) {
        (true, _) => Claim::New,
        (false, true) => Claim::Same { is_under_way: false },
        (false, false) => Claim::Other,
    })
}

fn uuids(ids: &[OrderId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.as_uuid()).collect()
}

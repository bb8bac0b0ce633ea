//! What was asked to go no further, until it has ended.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio_postgres::Row;
use uuid::Uuid;

use super::PART;
use super::connections::Connections;
use super::rows::{fit, id, moment, timestamp};
use crate::domain::{Cancellation, OrderId};
use crate::ports::{AskedCancellation, Cancellations, Unavailable};

const ASK: &str = include_str!("cancellations/ask.sql");
const OF: &str = include_str!("cancellations/of.sql");
const OPEN: &str = include_str!("cancellations/open.sql");
const SETTLE: &str = include_str!("cancellations/settle.sql");

/// [`Cancellations`] in Postgres.
pub struct PostgresCancellations {
    connections: Arc<Connections>,
}

impl PostgresCancellations {
    pub(super) fn on(connections: Arc<Connections>) -> PostgresCancellations {
        PostgresCancellations { connections }
    }
}

#[async_trait]
impl Cancellations for PostgresCancellations {
    async fn ask(&self, asked: &AskedCancellation) -> Result<AskedCancellation, Unavailable> {
        let reason = asked.cancellation.reason.as_deref().map(|reason| fit(Cow::Borrowed(reason)));
        let (id, passage, at) = (asked.id.as_uuid(), number(asked.passage), moment(asked.cancellation.at));
        let rows = self.connections.query(ASK, &[&id, &passage, &at, &reason]).await?;
        let row = rows.first().ok_or_else(|| Unavailable::new(PART, "a cancellation without a row"))?;
        read(row)
    }

    async fn of(&self, orders: &[(OrderId, u32)]) -> Result<Vec<Option<Cancellation>>, Unavailable> {
        if orders.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<Uuid> = orders.iter().map(|(id, _)| id.as_uuid()).collect();
        let rows = self.connections.query(OF, &[&ids]).await?;
        let found = rows.iter().map(|row| read(row).map(|asked| ((asked.id, asked.passage), asked.cancellation)));
        let found = found.collect::<Result<HashMap<_, _>, _>>()?;
        Ok(orders.iter().map(|order| found.get(order).cloned()).collect())
    }

    async fn open(&self, after: Option<OrderId>, count_max: u32) -> Result<Vec<AskedCancellation>, Unavailable> {
        // No order has the nil id.
        let after = after.map_or(Uuid::nil(), OrderId::as_uuid);
        self.connections.query(OPEN, &[&after, &i64::from(count_max)]).await?.iter().map(read).collect()
    }

    async fn settle(&self, orders: &[(OrderId, u32)]) -> Result<(), Unavailable> {
        if orders.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = orders.iter().map(|(id, _)| id.as_uuid()).collect();
        let passages: Vec<i32> = orders.iter().map(|(_, passage)| number(*passage)).collect();
        self.connections.query(SETTLE, &[&ids, &passages]).await?;
        Ok(())
    }
}

fn number(passage: u32) -> i32 {
    i32::try_from(passage).unwrap_or(i32::MAX)
}

/// The cancellation of a row with the columns `id, passage, at, reason`.
fn read(row: &Row) -> Result<AskedCancellation, Unavailable> {
    let unreadable = |error: tokio_postgres::Error| Unavailable::new(PART, error);
    let passage: i32 = row.try_get(1).map_err(unreadable)?;
    let at: SystemTime = row.try_get(2).map_err(unreadable)?;
    let reason = row.try_get(3).map_err(unreadable)?;
    let passage = u32::try_from(passage).map_err(|error| Unavailable::new(PART, error))?;
    Ok(AskedCancellation { id: id(row)?, passage, cancellation: Cancellation { at: timestamp(at), reason } })
}

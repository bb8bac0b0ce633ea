//! What the rows of orders have in common, wherever they are: how an order becomes one and is read from it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Deserialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::PART;
use crate::domain::{History, Order, OrderId, OrderRecord, Timestamp};
use crate::ports::Unavailable;
use crate::wire;

/// What every row of an order has, of a batch, column by column.
///
/// Nothing in here may be refused by Postgres: one row would keep the whole batch out, for ever. So texts are made
/// fit for it, and what is only there to be searched for is left empty if an order does not have it.
#[derive(Default)]
pub(super) struct OrderColumns<'a> {
    pub(super) ids: Vec<Uuid>,
    pub(super) passages: Vec<i32>,
    pub(super) placed_at: Vec<SystemTime>,
    pub(super) customer_ids: Vec<Cow<'a, str>>,
    pub(super) references: Vec<Option<Cow<'a, str>>>,
    pub(super) currencies: Vec<Cow<'a, str>>,
    pub(super) totals: Vec<Cow<'a, str>>,
    pub(super) contents: Vec<Cow<'a, str>>,
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

impl<'a> OrderColumns<'a> {
    pub(super) fn push(&mut self, order: &'a OrderRecord) {
        let heading: Heading = serde_json::from_slice(order.order.json()).unwrap_or_default();
        self.ids.push(order.id.as_uuid());
        self.passages.push(i32::try_from(order.passage).unwrap_or(i32::MAX));
        self.placed_at.push(moment(order.placed_at));
        self.customer_ids.push(fit(heading.customer_id));
        self.references.push(heading.reference.map(fit));
        self.currencies.push(fit(heading.currency));
        self.totals.push(fit(order.order.total().into()));
        self.contents.push(String::from_utf8_lossy(order.order.json()));
    }
}

/// The text without U+0000, which no text in Postgres can hold.
pub(super) fn fit(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.contains('\0') {
        return text.replace('\0', "\u{fffd}").into();
    }
    text
}

/// As a `timestamptz`, which counts whole microseconds: exact both ways.
pub(super) fn moment(timestamp: Timestamp) -> SystemTime {
    let ms = timestamp.as_millis();
    let since_epoch = Duration::from_millis(ms.unsigned_abs());
    if ms < 0 { UNIX_EPOCH - since_epoch } else { UNIX_EPOCH + since_epoch }
}

pub(super) fn timestamp(moment: SystemTime) -> Timestamp {
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(match moment.duration_since(UNIX_EPOCH) {
        Ok(since_epoch) => ms(since_epoch),
        Err(before_epoch) => -ms(before_epoch.duration()),
    })
}

/// The id in the first column.
pub(super) fn id(row: &Row) -> Result<OrderId, Unavailable> {
    row.try_get(0).map(OrderId::from_uuid).map_err(|error| Unavailable::new(PART, error))
}

/// The count in the first column of the only row.
pub(super) fn count(rows: &[Row]) -> Result<u64, Unavailable> {
    let row = rows.first().ok_or_else(|| Unavailable::new(PART, "a count without a row"))?;
    let count: i64 = row.try_get(0).map_err(|error| Unavailable::new(PART, error))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// The order of a row with the columns `id, passage, placed_at, total, steps, content`; no steps are none so far.
pub(super) fn read(row: &Row) -> Result<OrderRecord, Unavailable> {
    let id = id(row)?;
    let unreadable = |reason: String| Unavailable::new(PART, format!("the row of {id} cannot be read: {reason}"));
    let columns = || {
        Ok::<_, tokio_postgres::Error>((
            row.try_get::<_, i32>(1)?,
            row.try_get::<_, SystemTime>(2)?,
            row.try_get::<_, String>(3)?,
            row.try_get::<_, Option<&str>>(4)?,
            row.try_get::<_, String>(5)?,
        ))
    };
    let (passage, placed_at, total, steps, content) = columns().map_err(|error| unreadable(error.to_string()))?;
    let history = steps.map_or_else(|| Ok(History::default()), wire::decode_steps);
    Ok(OrderRecord {
        id,
        passage: u32::try_from(passage).map_err(|error| unreadable(error.to_string()))?,
        placed_at: timestamp(placed_at),
        order: Order::from_parts(Bytes::from(content), total.into()),
        history: history.map_err(unreadable)?,
        trace: None,
    })
}

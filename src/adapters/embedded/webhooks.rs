//! Webhooks, and a row for each event that is to be sent to one. What the queues publish of events is written here at once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::readers::Readers;
use super::writer::Writer;
use crate::domain::{Event, EventKind, OrderId, Timestamp};
use crate::ports::{Clock, Due, Sent, SystemClock, Tally, Unavailable, Webhook, WebhookId, Webhooks};

/// Rows deleted in one transaction.
const SWEPT_MAX: u32 = 2_000;

/// [`Webhooks`] over SQLite. Made by [`super::Embedded::open`].
pub struct EmbeddedWebhooks {
    writer: Writer,
    readers: Arc<Readers>,
}

impl EmbeddedWebhooks {
    pub(super) fn new(writer: Writer, readers: Arc<Readers>) -> Self {
        EmbeddedWebhooks { writer, readers }
    }
}

#[async_trait]
impl Webhooks for EmbeddedWebhooks {
    async fn add(&self, webhook: &Webhook) -> Result<(), Unavailable> {
        let webhook = webhook.clone();
        let write = move |connection: &Connection| {
            let events: Vec<&str> = webhook.events.iter().map(EventKind::as_str).collect();
            connection
                .prepare_cached(
                    "INSERT INTO webhooks (id, url, events, description, secret, created_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO NOTHING",
                )?
                .execute(params![
                    webhook.id.to_string(),
                    webhook.url,
                    events.join(","),
                    webhook.description,
                    webhook.secret,
                    webhook.created_at.as_millis()
                ])
                .map(drop)
        };
        Ok(self.writer.write(0, write).await?)
    }

    async fn list(&self) -> Result<Vec<Webhook>, Unavailable> {
        let read = |connection: &Connection| {
            connection
                .prepare_cached(
                    "SELECT id, url, events, description, secret, created_at FROM webhooks ORDER BY created_at, id",
                )?
                .query_map([], webhook)?
                .collect()
        };
        self.readers.read(read).await
    }

    async fn remove(&self, id: WebhookId) -> Result<bool, Unavailable> {
        let id = id.to_string();
        let write = move |connection: &Connection| {
            connection.prepare_cached("DELETE FROM webhooks WHERE id = ?1")?.execute([&id])
        };
        Ok(self.writer.write(0, write).await? > 0)
    }

    async fn keep(&self, events: &[Event]) -> Result<(), Unavailable> {
        let events = events.to_vec();
        Ok(self.writer.write(size_bytes(&events), move |connection| keep(connection, &events)).await?)
    }

    async fn due(&self, id: WebhookId, events_max: u32) -> Result<Vec<Due>, Unavailable> {
        self.readers.read(move |connection| due(connection, id, events_max)).await
    }

    async fn settle(&self, id: WebhookId, sent: &[(OrderId, u64, Sent)]) -> Result<(), Unavailable> {
        let sent = sent.to_vec();
        let write = move |connection: &Connection| {
            sent.iter().try_for_each(|(order, sequence, sent)| settle(connection, id, *order, *sequence, *sent))
        };
        Ok(self.writer.write(0, write).await?)
    }

    async fn tally(&self) -> Result<Vec<(WebhookId, Tally)>, Unavailable> {
        let read = |connection: &Connection| {
            connection
                .prepare_cached(
                    "SELECT webhooks.id, count(*) FILTER (WHERE d.settled_at IS NULL), count(*) FILTER (WHERE d.given_up)
                     FROM webhooks
                     JOIN webhook_deliveries AS d ON d.webhook = webhooks.id AND (d.settled_at IS NULL OR d.given_up)
                     GROUP BY webhooks.id",
                )?
                .query_map([], |row| {
                    let count = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
                    Ok((webhook_id(row)?, Tally { pending: count(1)?, given_up: count(2)? }))
                })?
                .collect()
        };
        self.readers.read(read).await
    }

    async fn sweep(&self, delivered: Duration, given_up: Duration) -> Result<u64, Unavailable> {
        let before = |age: Duration| {
            let ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            SystemClock.now().as_millis().saturating_sub(ms)
        };
        let write = move |connection: &Connection| {
            let old = connection
                .prepare_cached(
                    "DELETE FROM webhook_deliveries WHERE (webhook, order_id, sequence) IN (
                         SELECT webhook, order_id, sequence FROM webhook_deliveries
                         WHERE settled_at < ?1 AND (NOT given_up OR settled_at < ?2) LIMIT ?3)",
                )?
                .execute(params![before(delivered), before(given_up), SWEPT_MAX])?;
            let gone = connection
                .prepare_cached(
                    "DELETE FROM webhook_deliveries WHERE (webhook, order_id, sequence) IN (
                         SELECT webhook, order_id, sequence FROM webhook_deliveries
                         WHERE settled_at IS NULL AND webhook NOT IN (SELECT id FROM webhooks) LIMIT ?1)",
                )?
                .execute([SWEPT_MAX])?;
            Ok((old + gone) as u64)
        };
        Ok(self.writer.write(0, write).await?)
    }
}

/// About what they take, in bytes.
pub(super) fn size_bytes(events: &[Event]) -> usize {
    events.iter().map(|event| 256 + event.reason.as_deref().map_or(0, str::len)).sum()
}

/// Keeps events for every webhook that wants them.
pub(super) fn keep(connection: &Connection, events: &[Event]) -> rusqlite::Result<()> {
    // An event does not overtake one of its order that waits to be sent again, and is not looked at before that is.
    let mut insert = connection.prepare_cached(
        "INSERT INTO webhook_deliveries (webhook, order_id, sequence, kind, at, stage, attempt, reason, kept_at, due_at)
         SELECT id, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,
                coalesce((SELECT max(due_at) FROM webhook_deliveries
                          WHERE webhook = webhooks.id AND order_id = ?1 AND settled_at IS NULL), ?8)
         FROM webhooks WHERE instr(',' || events || ',', ',' || ?3 || ',') > 0
         ON CONFLICT (webhook, order_id, sequence) DO NOTHING",
    )?;
    let now = SystemClock.now().as_millis();
    for event in events {
        insert.execute(params![
            event.order.to_string(),
            number(event.sequence),
            event.kind.as_str(),
            event.at.as_millis(),
            event.stage.map(|stage| stage.as_kebab()),
            event.attempt,
            event.reason,
            now
        ])?;
    }
    Ok(())
}

fn due(connection: &Connection, id: WebhookId, events_max: u32) -> rusqlite::Result<Vec<Due>> {
    let now = SystemClock.now();
    connection
        .prepare_cached(
            "SELECT order_id, sequence, kind, at, stage, attempt, reason, sent, kept_at FROM webhook_deliveries AS d
             WHERE webhook = ?1 AND settled_at IS NULL AND due_at <= ?2 AND NOT EXISTS (
                 SELECT 1 FROM webhook_deliveries AS before
                 WHERE before.webhook = d.webhook AND before.order_id = d.order_id AND before.sequence < d.sequence
                     AND before.settled_at IS NULL)
             ORDER BY due_at LIMIT ?3",
        )?
        .query_map(params![id.to_string(), now.as_millis(), events_max], |row| read_due(row, now))?
        .collect()
}

fn settle(connection: &Connection, id: WebhookId, order: OrderId, sequence: u64, sent: Sent) -> rusqlite::Result<()> {
    let (id, order, sequence, now) = (id.to_string(), order.to_string(), number(sequence), SystemClock.now());
    match sent {
        Sent::Delivered | Sent::GivenUp => connection
            .prepare_cached(
                "UPDATE webhook_deliveries SET settled_at = ?4, given_up = ?5
                 WHERE webhook = ?1 AND order_id = ?2 AND sequence = ?3 AND settled_at IS NULL",
            )?
            .execute(params![id, order, sequence, now.as_millis(), sent == Sent::GivenUp])?,
        // Those of the same order that wait behind it wait as long, so that nobody looks at them in vain.
        Sent::Again(wait) => connection
            .prepare_cached(
                "UPDATE webhook_deliveries SET sent = sent + (sequence = ?3), due_at = ?4
                 WHERE webhook = ?1 AND order_id = ?2 AND sequence >= ?3 AND settled_at IS NULL",
            )?
            .execute(params![id, order, sequence, now.after(wait).as_millis()])?,
    };
    Ok(())
}

fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn invalid(column: usize) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, FromSqlError::InvalidType.into())
}

fn webhook_id(row: &Row) -> rusqlite::Result<WebhookId> {
    WebhookId::parse(&row.get::<_, String>(0)?).ok_or_else(|| invalid(0))
}

fn webhook(row: &Row) -> rusqlite::Result<Webhook> {
    let events: String = row.get("events")?;
    Ok(Webhook {
        id: webhook_id(row)?,
        url: row.get("url")?,
        // What a newer release may tell is not told by this one.
        events: events.split(',').filter_map(EventKind::parse).collect(),
        description: row.get("description")?,
        secret: row.get("secret")?,
        created_at: Timestamp::from_millis(row.get("created_at")?),
    })
}

fn read_due(row: &Row, now: Timestamp) -> rusqlite::Result<Due> {
    let order: String = row.get(0)?;
    let kind: String = row.get(2)?;
    let stage: Option<String> = row.get(4)?;
    let event = Event {
        order: OrderId::from_uuid(Uuid::try_parse(&order).map_err(|_| invalid(0))?),
        sequence: row.get::<_, i64>(1)?.unsigned_abs(),
        kind: EventKind::parse(&kind).ok_or_else(|| invalid(2))?,
        at: Timestamp::from_millis(row.get(3)?),
        stage: stage.map(|stage| stage.parse().map_err(|_| invalid(4))).transpose()?,
        attempt: row.get(5)?,
        reason: row.get(6)?,
    };
    Ok(Due { event, attempts: row.get(7)?, age: now.since(Timestamp::from_millis(row.get(8)?)) })
}

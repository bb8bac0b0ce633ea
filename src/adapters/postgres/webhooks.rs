//! Webhooks in Postgres, and a row for each event that is to be sent to one. Times are those of the database's clock.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio_postgres::Row;
use uuid::Uuid;

use super::PART;
use super::connections::Connections;
use super::rows::{count, fit, moment, timestamp};
use crate::domain::{Event, EventKind, OrderId};
use crate::ports::{Due, Sent, Tally, Unavailable, Webhook, WebhookId, Webhooks};

const ADD: &str = include_str!("webhooks/add.sql");
const LIST: &str = include_str!("webhooks/list.sql");
const REMOVE: &str = include_str!("webhooks/remove.sql");
const KEEP: &str = include_str!("webhooks/keep.sql");
const DUE: &str = include_str!("webhooks/due.sql");
const SETTLE: &str = include_str!("webhooks/settle.sql");
const AGAIN: &str = include_str!("webhooks/again.sql");
const TALLY: &str = include_str!("webhooks/tally.sql");
const SWEEP: &str = include_str!("webhooks/sweep.sql");

/// [`Webhooks`] in Postgres.
pub struct PostgresWebhooks {
    connections: Arc<Connections>,
}

impl PostgresWebhooks {
    pub(super) fn on(connections: Arc<Connections>) -> PostgresWebhooks {
        PostgresWebhooks { connections }
    }
}

#[async_trait]
impl Webhooks for PostgresWebhooks {
    async fn add(&self, webhook: &Webhook) -> Result<(), Unavailable> {
        let Webhook { id, url, events, description, secret, created_at } = webhook;
        let events: Vec<&str> = events.iter().map(EventKind::as_str).collect();
        let description = description.as_deref().map(|text| fit(Cow::Borrowed(text)));
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&id.as_uuid(), url, &events, &description, secret, &moment(*created_at)];
        self.connections.query(ADD, &parameters).await?;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Webhook>, Unavailable> {
        let rows = self.connections.query(LIST, &[]).await?;
        rows.iter().map(|row| webhook(row).map_err(|error| Unavailable::new(PART, error))).collect()
    }

    async fn remove(&self, id: WebhookId) -> Result<bool, Unavailable> {
        Ok(!self.connections.query(REMOVE, &[&id.as_uuid()]).await?.is_empty())
    }

    async fn keep(&self, events: &[Event]) -> Result<(), Unavailable> {
        if events.is_empty() {
            return Ok(());
        }
        let mut sorted: Vec<&Event> = events.iter().collect();
        sorted.sort_by_key(|event| (event.order, event.sequence));
        // One statement must not insert a row twice: nothing it inserts is there for its own ON CONFLICT, in some cases.
        sorted.dedup_by_key(|event| (event.order, event.sequence));
        let orders: Vec<Uuid> = sorted.iter().map(|event| event.order.as_uuid()).collect();
        let sequences: Vec<i64> = sorted.iter().map(|event| number(event.sequence)).collect();
        let kinds: Vec<&str> = sorted.iter().map(|event| event.kind.as_str()).collect();
        let moments: Vec<SystemTime> = sorted.iter().map(|event| moment(event.at)).collect();
        let stages: Vec<Option<&str>> = sorted.iter().map(|event| event.stage.map(|stage| stage.as_kebab())).collect();
        let attempts: Vec<Option<i64>> = sorted.iter().map(|event| event.attempt.map(i64::from)).collect();
        let reasons: Vec<Option<Cow<'_, str>>> =
            sorted.iter().map(|event| event.reason.as_deref().map(|reason| fit(Cow::Borrowed(reason)))).collect();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
            [&orders, &sequences, &kinds, &moments, &stages, &attempts, &reasons];
        self.connections.query(KEEP, &parameters).await?;
        Ok(())
    }

    async fn due(&self, id: WebhookId, events_max: u32) -> Result<Vec<Due>, Unavailable> {
        let rows = self.connections.query(DUE, &[&id.as_uuid(), &i64::from(events_max)]).await?;
        rows.iter().map(|row| due(row).map_err(|error| Unavailable::new(PART, error))).collect()
    }

    async fn settle(&self, id: WebhookId, sent: &[(OrderId, u64, Sent)]) -> Result<(), Unavailable> {
        let mut settled = (Vec::new(), Vec::new(), Vec::new());
        let mut again = (Vec::new(), Vec::new(), Vec::new());
        for (order, sequence, sent) in sent {
            let (order, sequence) = (order.as_uuid(), number(*sequence));
            match sent {
                Sent::Again(wait) => {
                    again.0.push(order);
                    again.1.push(sequence);
                    again.2.push(wait.as_secs_f64());
                }
                Sent::Delivered | Sent::GivenUp => {
                    settled.0.push(order);
                    settled.1.push(sequence);
                    settled.2.push(*sent == Sent::GivenUp);
                }
            }
        }
        let id = id.as_uuid();
        if !settled.0.is_empty() {
            self.connections.query(SETTLE, &[&id, &settled.0, &settled.1, &settled.2]).await?;
        }
        if !again.0.is_empty() {
            self.connections.query(AGAIN, &[&id, &again.0, &again.1, &again.2]).await?;
        }
        Ok(())
    }

    async fn tally(&self) -> Result<Vec<(WebhookId, Tally)>, Unavailable> {
        let rows = self.connections.query(TALLY, &[]).await?;
        let read = |row: &Row| {
            let count = |column| row.try_get::<_, i64>(column).map(i64::unsigned_abs);
            let tally = Tally { pending: count(1)?, given_up: count(2)? };
            Ok((WebhookId::from_uuid(row.try_get(0)?), tally))
        };
        rows.iter().map(|row| read(row).map_err(|error: tokio_postgres::Error| Unavailable::new(PART, error))).collect()
    }

    async fn sweep(&self, delivered: Duration, given_up: Duration) -> Result<u64, Unavailable> {
        let ages = (delivered.as_secs_f64(), given_up.as_secs_f64());
        count(&self.connections.query(SWEEP, &[&ages.0, &ages.1]).await?)
    }
}

fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn webhook(row: &Row) -> Result<Webhook, tokio_postgres::Error> {
    let events: Vec<String> = row.try_get(2)?;
    Ok(Webhook {
        id: WebhookId::from_uuid(row.try_get(0)?),
        url: row.try_get(1)?,
        // What a newer release may tell is not told by this one.
        events: events.iter().filter_map(|name| EventKind::parse(name)).collect(),
        description: row.try_get(3)?,
        secret: row.try_get(4)?,
        created_at: timestamp(row.try_get(5)?),
    })
}

fn due(row: &Row) -> Result<Due, String> {
    let columns = || {
        let event = (
            row.try_get::<_, Uuid>(0)?,
            row.try_get::<_, i64>(1)?,
            row.try_get::<_, String>(2)?,
            row.try_get::<_, SystemTime>(3)?,
            row.try_get::<_, Option<String>>(4)?,
            row.try_get::<_, Option<i64>>(5)?,
            row.try_get::<_, Option<String>>(6)?,
        );
        Ok::<_, tokio_postgres::Error>((event, row.try_get::<_, i32>(7)?, row.try_get::<_, f64>(8)?))
    };
    let ((order, sequence, kind, at, stage, attempt, reason), sent, age_secs) =
        columns().map_err(|error| error.to_string())?;
    let event = Event {
        order: OrderId::from_uuid(order),
        sequence: sequence.unsigned_abs(),
        kind: EventKind::parse(&kind).ok_or_else(|| format!("unknown kind of event `{kind}`"))?,
        at: timestamp(at),
        stage: stage
            .map(|stage| stage.parse())
            .transpose()
            .map_err(|error: crate::domain::stage::UnknownStage| error.to_string())?,
        attempt: attempt.map(|attempt| u32::try_from(attempt).unwrap_or(u32::MAX)),
        reason,
    };
    Ok(Due { event, attempts: sent.unsigned_abs(), age: Duration::try_from_secs_f64(age_secs).unwrap_or_default() })
}

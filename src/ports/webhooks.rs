//! Who wants to be told of what, and what has yet to be delivered to them.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::Unavailable;
use crate::domain::{Event, EventKinds, OrderId, Timestamp};

/// Names a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookId(Uuid);

impl WebhookId {
    pub const fn from_uuid(uuid: Uuid) -> Self {
        WebhookId(uuid)
    }

    pub fn as_uuid(self) -> Uuid {
        self.0
    }

    /// Reads the hyphenated form, upper or lower case; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten().map(WebhookId)
    }

    /// A new one; `random` makes it the only one of its millisecond.
    pub fn new(at: Timestamp, random: [u8; 10]) -> Self {
        let ms = u64::try_from(at.as_millis()).unwrap_or(0);
        WebhookId(uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid())
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

/// A receiver of events.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    pub id: WebhookId,
    /// Where events are sent.
    pub url: String,
    pub events: EventKinds,
    pub description: Option<String>,
    /// What they are signed with, as the receiver has it.
    pub secret: String,
    pub created_at: Timestamp,
}

/// Without what must not stand in a log.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("id", &self.id).field("events", &self.events).finish_non_exhaustive()
    }
}

/// An event that is to be sent to a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub event: Event,
    /// How often it was sent in vain.
    pub attempts: u32,
    /// How long it has waited since it was kept.
    pub age: Duration,
}

/// What became of an event that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Delivered,
    /// It is to be sent again after this.
    Again(Duration),
    /// It is not sent again.
    GivenUp,
}

/// What a webhook has been told, and what not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events that have yet to be delivered.
    pub pending: u64,
    /// Events that were given up, of the last days.
    pub given_up: u64,
}

/// Keeps webhooks, and events until they are delivered to them.
#[async_trait]
pub trait Webhooks: Send + Sync + 'static {
    /// Keeps a new one.
    ///
    /// # Errors
    /// [`Unavailable`]; nobody knows whether it is kept.
    async fn add(&self, webhook: &Webhook) -> Result<(), Unavailable>;

    /// All of them, oldest first.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn list(&self) -> Result<Vec<Webhook>, Unavailable>;

    /// Removes one, and with it what was to be delivered to it; whether it was there.
    ///
    /// # Errors
    /// [`Unavailable`]; it is gone, or not.
    async fn remove(&self, id: WebhookId) -> Result<bool, Unavailable>;

    /// Keeps these events for every webhook that wants them, all in one transaction. What is kept for one already, or was
    /// delivered to it a short while ago, changes nothing: an event is known by its order and its sequence.
    ///
    /// # Errors
    /// [`Unavailable`]; all of them were kept, or none.
    async fn keep(&self, events: &[Event]) -> Result<(), Unavailable>;

    /// Some of the events that are to be sent to a webhook now, at most `events_max`: of each order the one of the
    /// lowest sequence that is not settled, and no other.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn due(&self, id: WebhookId, events_max: u32) -> Result<Vec<Due>, Unavailable>;

    /// Notes what became of events that were sent to a webhook.
    ///
    /// # Errors
    /// [`Unavailable`]; none, some or all of them were noted.
    async fn settle(&self, id: WebhookId, sent: &[(OrderId, u64, Sent)]) -> Result<(), Unavailable>;

    /// What each webhook has been told.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn tally(&self) -> Result<Vec<(WebhookId, Tally)>, Unavailable>;

    /// Removes some of what is not needed any more: what was delivered longer ago than `delivered`, or given up longer ago
    /// than `given_up`, and what was to be delivered to webhooks that are gone. How many; 0: nothing is left.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn sweep(&self, delivered: Duration, given_up: Duration) -> Result<u64, Unavailable>;

    /// What any of them wants to be told.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn wanted(&self) -> Result<EventKinds, Unavailable> {
        let webhooks = self.list().await?;
        Ok(webhooks.iter().fold(EventKinds::NONE, |wanted, webhook| wanted.union(webhook.events)))
    }
}

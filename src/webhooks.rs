//! Receivers of events: who they are, and how events are sent to them. doc/webhooks.md is their side of it.
//!
//! [`sender`] sends one event once. What is sent when, and again, is decided by [`crate::upkeep`]; which events there are by
//! [`crate::worker`].

pub mod sender;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::domain::{Event, EventKinds, OrderRecord};
use crate::handlers::signature::SECRET_PREFIX;
use crate::ports::{Clock, Ports, Random, Tally, Unavailable, Webhook, WebhookId, Webhooks};
use sender::{Answered, Sender};

/// Webhooks there may be. Each costs a look into the store every second, and a row for every event it wants.
pub const WEBHOOKS_MAX: usize = 100;

/// What people do with webhooks: add, list, remove and test them.
#[derive(Clone)]
pub struct WebhookOffice {
    store: Arc<dyn Webhooks>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    sender: Sender,
}

/// Why a webhook was not added.
#[derive(Clone, Debug)]
pub enum NotAdded {
    /// There are [`WEBHOOKS_MAX`] already.
    TooMany,
    Unavailable(Unavailable),
}

/// Tells webhooks of the end of orders that the archive has, for whoever ends orders beside the workers: after the archive
/// has them, and before their records end.
///
/// # Errors
/// [`Unavailable`]: they are not told, or nobody knows. To be tried again.
pub async fn tell(ports: &Ports, ended: &[OrderRecord]) -> Result<(), Unavailable> {
    let wanted = ports.webhooks.wanted().await?;
    let mut events: Vec<Event> = ended.iter().flat_map(Event::of_last_outcome).collect();
    events.retain(|event| wanted.contains(event.kind));
    if events.is_empty() {
        return Ok(());
    }
    ports.queues.publish_events(&events).await.map_err(|error| error.unavailable().clone())
}

impl WebhookOffice {
    pub fn new(ports: &Ports, sender: Sender) -> WebhookOffice {
        WebhookOffice {
            store: ports.webhooks.clone(),
            clock: ports.clock.clone(),
            random: ports.random.clone(),
            sender,
        }
    }

    /// Adds a receiver, and gives it an id and a secret of its own.
    ///
    /// # Errors
    /// [`NotAdded`].
    pub async fn add(&self, url: String, events: EventKinds, description: Option<String>) -> Result<Webhook, NotAdded> {
        // Several who add at once may come to a few more; nothing depends on the exact number.
        if self.store.list().await.map_err(NotAdded::Unavailable)?.len() >= WEBHOOKS_MAX {
            return Err(NotAdded::TooMany);
        }
        let created_at = self.clock.now();
        let id = WebhookId::new(created_at, self.random.id_bytes());
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.random.bits().to_le_bytes());
        key[16..].copy_from_slice(&self.random.bits().to_le_bytes());
        let secret = format!("{SECRET_PREFIX}{}", STANDARD.encode(key));
        let webhook = Webhook { id, url, events, description, secret, created_at };
        self.store.add(&webhook).await.map_err(NotAdded::Unavailable)?;
        tracing::info!(webhook = %id, "a webhook was added");
        Ok(webhook)
    }

    /// All of them, oldest first, and what each has been told.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn list(&self) -> Result<Vec<(Webhook, Tally)>, Unavailable> {
        let (webhooks, tally) = (self.store.list().await?, self.store.tally().await?);
        let of = |id| tally.iter().find(|(other, _)| *other == id).map(|(_, tally)| *tally).unwrap_or_default();
        Ok(webhooks
            .into_iter()
            .map(|webhook| (of(webhook.id), webhook))
            .map(|(tally, webhook)| (webhook, tally))
            .collect())
    }

    /// Removes one; whether it was there.
    ///
    /// # Errors
    /// [`Unavailable`]; it is gone, or not.
    pub async fn remove(&self, id: WebhookId) -> Result<bool, Unavailable> {
        let was_there = self.store.remove(id).await?;
        if was_there {
            tracing::info!(webhook = %id, "a webhook was removed");
        }
        Ok(was_there)
    }

    /// Sends an event to one that says that it is a test, once, and says what was answered; `None` if there is no such
    /// webhook.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn test(&self, id: WebhookId) -> Result<Option<Answered>, Unavailable> {
        let webhooks = self.store.list().await?;
        let Some(webhook) = webhooks.into_iter().find(|webhook| webhook.id == id) else { return Ok(None) };
        Ok(Some(self.sender.test(&webhook, self.clock.now(), self.random.id_bytes()).await))
    }
}

//! A webhook that wants to be told everything: what was put into the queue of events, it was told.

use async_trait::async_trait;
use std::time::Duration;

use ordering::domain::{Event, EventKinds, OrderId};
use ordering::ports::{Due, Sent, Tally, Unavailable, Webhook, WebhookId, Webhooks};

use super::{Part, Process};

#[async_trait]
impl Webhooks for Process {
    async fn add(&self, _webhook: &Webhook) -> Result<(), Unavailable> {
        unreachable!("nobody adds one here")
    }

    /// None that anything would be sent to.
    async fn list(&self) -> Result<Vec<Webhook>, Unavailable> {
        Ok(Vec::new())
    }

    async fn remove(&self, _id: WebhookId) -> Result<bool, Unavailable> {
        unreachable!("nobody removes one here")
    }

    async fn keep(&self, _events: &[Event]) -> Result<(), Unavailable> {
        unreachable!("they stay in their queue")
    }

    async fn due(&self, _id: WebhookId, _events_max: u32) -> Result<Vec<Due>, Unavailable> {
        Ok(Vec::new())
    }

    async fn settle(&self, _id: WebhookId, _sent: &[(OrderId, u64, Sent)]) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn tally(&self) -> Result<Vec<(WebhookId, Tally)>, Unavailable> {
        Ok(Vec::new())
    }

    async fn sweep(&self, _delivered: Duration, _given_up: Duration) -> Result<u64, Unavailable> {
        Ok(0)
    }

    async fn wanted(&self) -> Result<EventKinds, Unavailable> {
        let wanted = self.world.effect(self, Part::Archive, |_| EventKinds::all());
        wanted.await.map_err(|(_, unavailable)| unavailable)
    }
}

//! The queues: rows of one table, handed out in the order of their ids.
//!
//! Which messages are with a worker is known only in memory: after a restart everything unsettled is ready again, as
//! with a broker after a lost connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::Connection;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::readers::Readers;
use super::sources::{Arrival, Sources};
use super::subscription;
use super::writer::{WriteError, Writer};
use super::{dead_letters, messages, webhooks};
use crate::domain::{Event, OrderRecord, Timestamp};
use crate::ports::{
    Clock, DeadLetter, DeadSubscription, EventSubscription, Place, PublishError, Queues, Source, Subscription,
    SystemClock, Unavailable,
};
use crate::wire;

/// How long closing waits for settled messages to be deleted. Those left are delivered again.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// [`Queues`] over SQLite: one connection to them, as it were. Made by [`super::Embedded::queues`].
pub struct EmbeddedQueues {
    shared: Arc<Shared>,
    closed: CancellationToken,
}

/// What all [`EmbeddedQueues`] of a database have in common.
pub(super) struct Shared {
    writer: Writer,
    readers: Arc<Readers>,
    sources: Arc<Sources>,
    acks: Arc<Acks>,
    subscriptions: AtomicU64,
    closed: CancellationToken,
}

impl Shared {
    pub(super) fn new(writer: Writer, readers: Arc<Readers>, sources: Arc<Sources>) -> Arc<Shared> {
        Arc::new(Shared {
            acks: Acks::new(writer.clone()),
            writer,
            readers,
            sources,
            subscriptions: AtomicU64::new(0),
            closed: CancellationToken::new(),
        })
    }

    /// Closes all [`EmbeddedQueues`] there are.
    pub(super) async fn close(&self) {
        self.closed.cancel();
        self.flush().await;
    }

    async fn flush(&self) {
        match tokio::time::timeout(CLOSE_DEADLINE, self.acks.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "settled messages were not deleted and will be delivered again");
            }
            Err(_) => {
                tracing::warn!("settled messages were not deleted in time and may be delivered again");
            }
        }
    }
}

impl EmbeddedQueues {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        EmbeddedQueues { closed: shared.closed.child_token(), shared }
    }

    /// Puts a message of `count` orders at the end of its queue.
    async fn put(&self, source: Source, count: usize, body: Vec<u8>) -> Result<(), WriteError> {
        let sources = self.shared.sources.clone();
        self.shared
            .writer
            .write_then(
                body.len(),
                move |connection| messages::insert(connection, source, count, &body),
                move |id| sources.arrived(Arrival { source, id: *id }),
            )
            .await?;
        Ok(())
    }

    fn refuse_if_closed(&self) -> Result<(), Unavailable> {
        if self.closed.is_cancelled() {
            return Err(Unavailable::new("SQLite", "the queues are closed"));
        }
        Ok(())
    }
}

#[async_trait]
impl Queues for EmbeddedQueues {
    async fn publish(&self, place: Place, orders: &[OrderRecord]) -> Result<(), PublishError> {
        self.refuse_if_closed().map_err(PublishError::NotTaken)?;
        if orders.is_empty() {
            return Ok(());
        }
        let body = wire::encode_batch(orders);
        let count = orders.len();
        let source = match place {
            Place::Stage(stage) => Source::Stage(stage),
            Place::Ending => Source::Ending,
            Place::Delayed(stage, delay) => {
                let ready_at = SystemClock.now().after(delay.as_duration());
                self.shared
                    .writer
                    .write(body.len(), move |connection| {
                        let source = Source::Stage(stage);
                        messages::insert_delayed(connection, source, ready_at, count, &body)
                    })
                    .await?;
                return Ok(());
            }
        };
        Ok(self.put(source, count, body).await?)
    }

    async fn publish_at(&self, at: Timestamp, order: &OrderRecord) -> Result<(), PublishError> {
        self.refuse_if_closed().map_err(PublishError::NotTaken)?;
        let body = wire::encode_batch(std::slice::from_ref(order));
        let insert = move |connection: &Connection| messages::insert_scheduled(connection, at, &body);
        Ok(self.shared.writer.write(order.size_bytes(), insert).await?)
    }

    /// A write has always a prospect: only trying it shows whether the disk has room.
    fn takes(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    /// Must be called within a Tokio runtime.
    fn subscribe(&self, source: Source, prefetch: u16) -> Subscription {
        let subscription = subscription::Subscription::new(
            self.shared.subscriptions.fetch_add(1, Ordering::Relaxed),
            self.shared.sources.of(source).clone(),
            self.shared.acks.clone(),
            prefetch,
            self.closed.clone(),
        );
        let (channel, deliveries) = mpsc::channel(subscription.prefetch());
        tokio::spawn(subscription.clone().run(self.shared.readers.clone(), channel));
        Subscription { deliveries, settle: subscription }
    }

    async fn bury(&self, letter: &DeadLetter) -> Result<(), PublishError> {
        self.refuse_if_closed().map_err(PublishError::NotTaken)?;
        let letter = letter.clone();
        let size_bytes = letter.bytes.len() + letter.reason.len();
        self.shared.writer.write(size_bytes, move |connection| dead_letters::keep(connection, &letter)).await?;
        Ok(())
    }

    fn dead_letters(&self, _prefetch: u16) -> Option<DeadSubscription> {
        None
    }

    async fn publish_events(&self, events: &[Event]) -> Result<(), PublishError> {
        self.refuse_if_closed().map_err(PublishError::NotTaken)?;
        let (events, size_bytes) = (events.to_vec(), webhooks::size_bytes(events));
        self.shared.writer.write(size_bytes, move |connection| webhooks::keep(connection, &events)).await?;
        Ok(())
    }

    fn events(&self, _prefetch: u16) -> Option<EventSubscription> {
        None
    }

    async fn replay(&self, source: Source, bytes: &Bytes) -> Result<(), PublishError> {
        self.refuse_if_closed().map_err(PublishError::NotTaken)?;
        // Most that is replayed could not be read before.
        let count = wire::decode_batch(bytes).map_or(0, |orders| orders.len());
        Ok(self.put(source, count, bytes.to_vec()).await?)
    }

    async fn waiting(&self, source: Source) -> Result<u64, Unavailable> {
        self.refuse_if_closed()?;
        self.shared.sources.of(source).waiting(&self.shared.readers).await
    }

    /// A queue is a part of the one table: none can be lost without the file.
    fn take_losses(&self) -> Vec<Source> {
        Vec::new()
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.refuse_if_closed()?;
        self.shared.writer.check().await
    }

    async fn close(&self) {
        self.closed.cancel();
        self.shared.flush().await;
    }
}

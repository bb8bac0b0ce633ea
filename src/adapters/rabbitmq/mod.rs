//! The queues on RabbitMQ, 3.10 to 4.x, through amqprs.
//!
//! - `url`: addresses
//! - `topology`: the names and arguments of the queues
//! - `connection`: opens connections, tries again, notices loss; `channel`: what the broker says to a channel
//! - `publisher`, with `publishing`, `confirms` and `refusals`: the connection that publishes
//! - `consumer`, with `unsettled`: a connection for each subscription; `dead_letters`: what the dead letters look like
//! - `watching`: the connection that asks how many messages wait
//! - `losses`: which queues were found missing, and the look for them before they are declared
//!
//! It knows the wire form of a message, and nothing of what becomes of an order.
//!
//! # Invariants
//! - `Ok` of a publish means that the broker confirmed it: a quorum queue holds it on a majority of its nodes.
//! - Publishing and taking use connections of their own, since a broker that is short of memory stops reading from those
//!   that publish, and acks must still get through.
//! - The program declares what it needs, on every connection that publishes or takes, so that an empty broker is as good
//!   as any. It looks first whether it is there: what is missing has lost what it held.
//!
//! # Failure handling
//! Connections come back by themselves, for as long as it takes. What fails meanwhile fails at once or by its deadline.
//! One line of log for each round of failed tries, whatever number of connections fail.

mod channel;
mod confirms;
mod connection;
mod consumer;
mod dead_letters;
mod losses;
mod publisher;
mod publishing;
mod refusals;
mod topology;
mod unsettled;
pub mod url;
mod watching;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::connection::{Connector, Health};
use self::consumer::{Consumer, Item, PREFETCH_MAX, Settler};
use self::losses::Losses;
use self::publisher::Publisher;
use self::topology::{Namespace, Queue};
pub use self::url::parse_url;
use self::watching::Watching;
use crate::domain::{Event, OrderRecord, Timestamp};
use crate::ports::{
    DeadLetter, DeadSubscription, EventSubscription, Place, PublishError, Queues, Source, Subscription, Unavailable,
};
use crate::wire;

/// The name of this part for the operator.
const PART: &str = "RabbitMQ";
/// How long [`Queues::close`] takes at most.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Where RabbitMQ is and how it is to be used.
#[derive(Clone)]
pub struct RabbitOptions {
    /// One address for each node, see [`parse_url`]. Connections are spread over them.
    pub urls: Vec<String>,
    /// Names the exchange and begins the names of the queues. At most 200 bytes.
    pub namespace: String,
    /// How long a publish may take.
    pub confirm_deadline: Duration,
    /// How long connecting to one node may take. RabbitMQ lets 3 seconds pass before it refuses a login: with less than
    /// that, a wrong password looks like a node that is out of reach.
    pub connect_timeout: Duration,
    /// A silent connection is given up after twice this. At least 2; an address may say otherwise.
    pub heartbeat_secs: u16,
    /// What the broker's own tools show.
    pub connection_name: String,
}

impl Default for RabbitOptions {
    fn default() -> Self {
        RabbitOptions {
            urls: vec!["amqp://127.0.0.1:5672".into()],
            namespace: "ordering".into(),
            confirm_deadline: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(5),
            heartbeat_secs: 10,
            connection_name: "ordering".into(),
        }
    }
}

/// [`Queues`] on RabbitMQ. Dropping it ends its connections without waiting.
pub struct RabbitQueues {
    connector: Arc<Connector>,
    namespace: Namespace,
    publisher: Publisher,
    watching: Watching,
    losses: Arc<Losses>,
    /// Of the subscriptions there have been.
    subscribed: Mutex<Vec<watch::Receiver<Health>>>,
    connections: Arc<AtomicU64>,
    tasks: TaskTracker,
    closing: CancellationToken,
    _close_when_dropped: DropGuard,
}

impl RabbitQueues {
    /// Returns at once and connects in the background. Addresses that cannot be read count as out of reach; ask
    /// [`parse_url`] before.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(options: RabbitOptions) -> RabbitQueues {
        let connector = Arc::new(Connector::new(&options));
        let namespace = Namespace(options.namespace.into());
        let closing = CancellationToken::new();
        let tasks = TaskTracker::new();
        let losses = Arc::new(Losses::default());
        let (publisher, publishing) = Publisher::start(
            Arc::clone(&connector),
            namespace.clone(),
            Arc::clone(&losses),
            options.confirm_deadline,
            closing.clone(),
        );
        tasks.spawn(publishing);
        let watching = Watching {
            connector: Arc::clone(&connector),
            namespace: namespace.clone(),
            losses: Arc::clone(&losses),
            tasks: tasks.clone(),
            closing: closing.clone(),
            open: Arc::default(),
        };
        RabbitQueues {
            connector,
            namespace,
            publisher,
            watching,
            losses,
            subscribed: Mutex::new(Vec::new()),
            connections: Arc::new(AtomicU64::new(0)),
            tasks,
            _close_when_dropped: closing.clone().drop_guard(),
            closing,
        }
    }
}

impl RabbitQueues {
    /// Starts a consumer of `queue`.
    fn consume<T: Item>(&self, queue: Queue, prefetch: u16) -> (mpsc::Receiver<T>, Arc<Settler>) {
        // 0 would mean: without bound.
        let prefetch = prefetch.clamp(1, PREFETCH_MAX);
        // As wide as the prefetch: a worker takes all that waits in one go.
        let (to_deliveries, deliveries) = mpsc::channel(usize::from(prefetch));
        let (to_settle, settled) = mpsc::unbounded_channel();
        let (health, health_of) = watch::channel(self.connector.not_connected_yet());
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner).push(health_of);
        let consumer = Consumer {
            connector: Arc::clone(&self.connector),
            namespace: self.namespace.clone(),
            losses: Arc::clone(&self.losses),
            queue,
            prefetch,
            deliveries: to_deliveries,
            settled,
            health,
            closing: self.closing.clone(),
            connections: Arc::clone(&self.connections),
        };
        self.tasks.spawn(consumer.run());
        (deliveries, Arc::new(Settler(to_settle)))
    }
}

#[async_trait]
impl Queues for RabbitQueues {
    async fn publish(&self, place: Place, orders: &[OrderRecord]) -> Result<(), PublishError> {
        // While nothing can be sent, nothing is encoded either.
        self.publisher.check().map_err(PublishError::NotTaken)?;
        let body = wire::encode_batch(orders);
        self.publisher.publish(Queue::Of(place), None, body).await
    }

    async fn publish_at(&self, _at: Timestamp, _order: &OrderRecord) -> Result<(), PublishError> {
        Err(PublishError::NotTaken(Unavailable::new(PART, "orders wait for their time in the journal")))
    }

    fn takes(&self) -> Result<(), Unavailable> {
        self.publisher.check()
    }

    fn subscribe(&self, source: Source, prefetch: u16) -> Subscription {
        let (deliveries, settle) = self.consume(source.into(), prefetch);
        Subscription { deliveries, settle }
    }

    async fn bury(&self, letter: &DeadLetter) -> Result<(), PublishError> {
        let headers = dead_letters::headers_of(letter);
        self.publisher.publish(Queue::Dead, Some(headers), letter.bytes.to_vec()).await
    }

    fn dead_letters(&self, prefetch: u16) -> Option<DeadSubscription> {
        let (deliveries, settle) = self.consume(Queue::Dead, prefetch);
        Some(DeadSubscription { deliveries, settle })
    }

    async fn publish_events(&self, events: &[Event]) -> Result<(), PublishError> {
        self.publisher.check().map_err(PublishError::NotTaken)?;
        self.publisher.publish(Queue::Events, None, wire::encode_events(events)).await
    }

    fn events(&self, prefetch: u16) -> Option<EventSubscription> {
        let (deliveries, settle) = self.consume(Queue::Events, prefetch);
        Some(EventSubscription { deliveries, settle })
    }

    async fn replay(&self, source: Source, bytes: &Bytes) -> Result<(), PublishError> {
        self.publisher.publish(source.into(), None, bytes.to_vec()).await
    }

    async fn waiting(&self, source: Source) -> Result<u64, Unavailable> {
        self.watching.count_ready(source.into()).await.map_err(|reason| Unavailable::new(PART, reason))
    }

    fn take_losses(&self) -> Vec<Source> {
        self.losses.take()
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.publisher.check()?;
        let mut subscribed = self.subscribed.lock().unwrap_or_else(PoisonError::into_inner);
        // A subscription that nobody wants any more is not missed.
        subscribed.retain(|health| health.has_changed().is_ok());
        for health in subscribed.iter() {
            if let Health::Down { reason } = &*health.borrow() {
                return Err(Unavailable::new(PART, reason));
            }
        }
        Ok(())
    }

    async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        if timeout(CLOSE_LIMIT, self.tasks.wait()).await.is_err() {
            tracing::warn!("RabbitMQ did not answer the farewell within {CLOSE_LIMIT:?}");
        }
    }
}

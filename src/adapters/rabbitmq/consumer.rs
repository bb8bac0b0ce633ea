//! Takes messages from one queue, hands them out, and settles them. One connection for each subscription: when the
//! broker closes a channel, only this subscription has to start anew.
//!
//! # Invariants
//! - Every delivery carries the number of its connection. What is settled after its connection is gone is ignored: the
//!   broker delivers it again.
//! - Settling never waits. The outgoing queue of the connection cannot fill up, since a delivery is settled once and no
//!   more than the prefetch are out at a time ([`PREFETCH_MAX`]).
//!
//! # Failure handling
//! A lost connection, a closed channel and a consumer that the broker ended (its queue was deleted) are one case: the
//! connection is given up, and the next one declares the queue and consumes again. That the queue was missing is a loss
//! ([`Losses`]).
//!
//! When nobody takes deliveries any more, the consumer is cancelled and what was not handed out goes back, but the
//! connection stays until what was handed out is settled.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use amqprs::BasicProperties;
use amqprs::channel::{
    BasicAckArguments, BasicCancelArguments, BasicConsumeArguments, BasicNackArguments, BasicQosArguments, Channel,
    ConsumerMessage,
};
use amqprs::connection::Connection;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::channel::{ChannelEvent, SetUpError, explain};
use super::connection::{Backoff, Connector, Health, Link, Trouble, within};
use super::losses::Losses;
use super::topology::{Namespace, Queue, REDECLARE_AFTER};
use super::unsettled::Unsettled;
use crate::ports::{Delivery, EventDelivery, Receipt, Settle};
use crate::wire;

/// Fewer than amqprs' outgoing queue holds (8,192), so that settling everything at once does not wait.
pub(super) const PREFETCH_MAX: u16 = 8_000;
/// How many settlements are taken together at most, to be acked with few frames.
const SETTLE_TOGETHER: usize = 1_024;
/// A connection that lived this long was of use, even if nothing was delivered.
const LONG_LIVED: Duration = Duration::from_secs(10);
/// For the farewell when this side closes the connection.
const CLOSE_LIMIT: Duration = Duration::from_millis(1_000);

/// Says what became of deliveries, to the task that owns the channel.
pub(super) struct Settler(pub mpsc::UnboundedSender<Settled>);

/// What became of one delivery.
pub(super) struct Settled {
    receipt: Receipt,
    done: bool,
}

impl Settle for Settler {
    fn ack(&self, receipt: Receipt) {
        // If the task has ended, so has the connection.
        let _ = self.0.send(Settled { receipt, done: true });
    }

    fn give_back(&self, receipt: Receipt) {
        let _ = self.0.send(Settled { receipt, done: false });
    }
}

/// What a message becomes for those who take it.
pub(super) trait Item: Send + 'static {
    fn read(namespace: &Namespace, receipt: Receipt, properties: &BasicProperties, bytes: Bytes) -> Self;
}

impl Item for Delivery {
    fn read(_: &Namespace, receipt: Receipt, _: &BasicProperties, bytes: Bytes) -> Self {
        Delivery { receipt, contents: wire::decode_batch(&bytes) }
    }
}

impl Item for EventDelivery {
    fn read(_: &Namespace, receipt: Receipt, _: &BasicProperties, bytes: Bytes) -> Self {
        EventDelivery { receipt, events: wire::decode_events(&bytes) }
    }
}

/// The task behind a subscription.
pub(super) struct Consumer<T> {
    pub connector: Arc<Connector>,
    pub namespace: Namespace,
    pub losses: Arc<Losses>,
    pub queue: Queue,
    pub prefetch: u16,
    /// As wide as the prefetch. What is in it is handed out, as far as anybody here can tell.
    pub deliveries: mpsc::Sender<T>,
    pub settled: mpsc::UnboundedReceiver<Settled>,
    pub health: watch::Sender<Health>,
    pub closing: CancellationToken,
    /// Counts the connections of all subscriptions.
    pub connections: Arc<AtomicU64>,
}

struct Consuming {
    channel: Channel,
    events: mpsc::UnboundedReceiver<ChannelEvent>,
    consumer_tag: String,
    messages: mpsc::UnboundedReceiver<ConsumerMessage>,
}

enum Ended {
    /// This side wanted it.
    Closed,
    Lost(String),
    /// By the broker, while the connection is well.
    Cancelled(String),
}

impl<T: Item> Consumer<T> {
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        while let Some((link, consuming)) = self.connect(&mut backoff).await {
            let connected_at = Instant::now();
            let number = self.connections.fetch_add(1, Ordering::Relaxed);
            let mut session =
                Session { consumer: &mut self, number, link: &link, consuming, unsettled: Unsettled::default() };
            let ended = session.serve().await;
            // However much was delivered: a message that breaks the connection comes again with the next one.
            if connected_at.elapsed() >= LONG_LIVED {
                backoff.reset();
            }
            match ended {
                Ended::Closed => {
                    link.close(CLOSE_LIMIT).await;
                    return;
                }
                Ended::Lost(reason) => {
                    self.give_up(link, reason);
                }
                Ended::Cancelled(reason) => {
                    self.give_up(link, reason);
                    self.losses.found_missing(self.queue);
                    // Connecting declares the queue.
                    tokio::select! {
                        () = self.closing.cancelled() => return,
                        () = self.deliveries.closed() => return,
                        () = sleep(REDECLARE_AFTER) => {}
                    }
                }
            }
        }
    }

    fn give_up(&self, link: Link, reason: String) {
        self.connector.complain(Trouble::Lost, &reason);
        self.health.send_replace(Health::Down { reason });
        link.abandon();
    }

    /// `None` if nobody needs a connection any more.
    async fn connect(&mut self, backoff: &mut Backoff) -> Option<(Link, Consuming)> {
        let (namespace, losses) = (self.namespace.clone(), Arc::clone(&self.losses));
        let (queue, prefetch) = (self.queue, self.prefetch);
        let purpose = format!("taking from {}", queue.key());
        let connecting = pin!(self.connector.connect(&purpose, backoff, &self.health, |connection| set_up(
            connection,
            namespace.clone(),
            Arc::clone(&losses),
            queue,
            prefetch
        )));
        tokio::select! {
            biased;
            () = self.closing.cancelled() => None,
            () = self.deliveries.closed() => None,
            connected = connecting => Some(connected),
        }
    }
}

async fn set_up(
    connection: Connection,
    namespace: Namespace,
    losses: Arc<Losses>,
    queue: Queue,
    prefetch: u16,
) -> Result<Consuming, SetUpError> {
    // The dead letters of this queue need their queue as well, whoever publishes.
    let queues: &[Queue] = if queue == Queue::Dead { &[Queue::Dead] } else { &[Queue::Dead, queue] };
    let (channel, mut events) = losses.look_and_declare(&connection, &namespace, queues).await?;
    channel
        .basic_qos(BasicQosArguments::new(0, prefetch, false))
        .await
        .map_err(|error| explain("prefetch", &error, &mut events))?;
    let name = namespace.queue_name(queue);
    let arguments = BasicConsumeArguments::new(&name, "ordering").manual_ack(true).finish();
    let (consumer_tag, messages) = channel
        .basic_consume_rx(arguments)
        .await
        .map_err(|error| explain(&format!("queue `{name}`"), &error, &mut events))?;
    Ok(Consuming { channel, events, consumer_tag, messages })
}

/// One connection, from when it consumes until it is lost.
struct Session<'a, T> {
    consumer: &'a mut Consumer<T>,
    number: u64,
    link: &'a Link,
    consuming: Consuming,
    unsettled: Unsettled,
}

impl<T: Item> Session<'_, T> {
    async fn serve(&mut self) -> Ended {
        let deliveries = self.consumer.deliveries.clone();
        let closing = self.consumer.closing.clone();
        let mut settled = Vec::with_capacity(SETTLE_TOGETHER);
        // Decoded while the one before waits to be taken. With its tag.
        let mut next: Option<(u64, T)> = None;
        let mut wanted = true;
        let mut settling = true;
        let mut all_in = false;
        loop {
            if !wanted && (self.unsettled.is_empty() || !settling) {
                return Ended::Closed;
            }
            tokio::select! {
                biased;
                event = self.consuming.events.recv() => match event {
                    Some(ChannelEvent::Closed { reason, .. }) => {
                        return Ended::Lost(format!("{}: {reason}", self.link.endpoint));
                    }
                    Some(ChannelEvent::Confirmed { .. } | ChannelEvent::Returned { .. }) => {}
                    None => return Ended::Lost(self.link.why_lost()),
                },
                () = self.link.lost.cancelled() => return Ended::Lost(self.link.why_lost()),
                () = closing.cancelled() => {
                    while let Ok(more) = self.consumer.settled.try_recv() {
                        settled.push(more);
                    }
                    if let Err(reason) = self.settle(&mut settled).await {
                        return Ended::Lost(reason);
                    }
                    // A delivery that comes in during the farewell would cut it short, and the acks with it.
                    if wanted {
                        let _ = within(CLOSE_LIMIT / 2, "cancelling", self.cancel()).await;
                    }
                    // What is left unsettled goes back with the connection.
                    return Ended::Closed;
                }
                count = self.consumer.settled.recv_many(&mut settled, SETTLE_TOGETHER), if settling => {
                    settling = count > 0;
                    if let Err(reason) = self.settle(&mut settled).await {
                        return Ended::Lost(reason);
                    }
                }
                () = deliveries.closed(), if wanted => {
                    wanted = false;
                    tokio::spawn(self.cancel());
                    if let Some((unseen, _)) = next.take()
                        && let Err(reason) = self.give_back(unseen).await
                    {
                        return Ended::Lost(reason);
                    }
                }
                Ok(slot) = deliveries.reserve(), if wanted && next.is_some() => {
                    if let Some((_, delivery)) = next.take() {
                        slot.send(delivery);
                    }
                }
                message = self.consuming.messages.recv(), if next.is_none() && !all_in => match message {
                    Some(message) => {
                        let Some((tag, delivery)) = self.note(message) else { continue };
                        if wanted {
                            next = Some((tag, delivery));
                        } else if let Err(reason) = self.give_back(tag).await {
                            return Ended::Lost(reason);
                        }
                    }
                    None if wanted => {
                        let name = self.consumer.namespace.queue_name(self.consumer.queue);
                        let endpoint = &self.link.endpoint;
                        return Ended::Cancelled(format!(
                            "{endpoint}: the broker ended the consumer of queue `{name}`: was it deleted?"
                        ));
                    }
                    // The end that cancelling it has brought about.
                    None => all_in = true,
                },
            }
        }
    }

    /// `None` only if amqprs hands out half a message, which it does not.
    fn note(&mut self, message: ConsumerMessage) -> Option<(u64, T)> {
        let tag = message.deliver?.delivery_tag();
        self.unsettled.delivered(tag);
        let receipt = Receipt { connection: self.number, tag };
        let properties = message.basic_properties.unwrap_or_default();
        let bytes = Bytes::from(message.content.unwrap_or_default());
        Some((tag, T::read(&self.consumer.namespace, receipt, &properties, bytes)))
    }

    /// # Errors
    /// If the connection is lost.
    async fn settle(&mut self, settled: &mut Vec<Settled>) -> Result<(), String> {
        let mut acked = Vec::with_capacity(settled.len());
        for Settled { receipt, done } in settled.drain(..) {
            if receipt.connection != self.number {
                continue;
            }
            if done {
                acked.push(receipt.tag);
            } else {
                self.give_back(receipt.tag).await?;
            }
        }
        for frame in self.unsettled.acked(&mut acked) {
            let arguments = BasicAckArguments::new(frame.tag, frame.multiple);
            self.consuming.channel.basic_ack(arguments).await.map_err(|_| self.link.why_lost())?;
        }
        Ok(())
    }

    /// # Errors
    /// If the connection is lost.
    async fn give_back(&mut self, tag: u64) -> Result<(), String> {
        if !self.unsettled.given_back(tag) {
            return Ok(());
        }
        let arguments = BasicNackArguments::new(tag, false, true);
        let sent = self.consuming.channel.basic_nack(arguments).await;
        sent.map_err(|_| self.link.why_lost())
    }

    /// Ends the deliveries; what was sent before that still comes in. To be run in a task of its own.
    fn cancel(&self) -> impl Future<Output = ()> + Send + 'static {
        let channel = self.consuming.channel.clone();
        let arguments = BasicCancelArguments::new(&self.consuming.consumer_tag);
        async move {
            // If it fails, so does the connection.
            let _ = channel.basic_cancel(arguments).await;
        }
    }
}

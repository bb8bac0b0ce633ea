//! Brings events from their queue to where they are kept for each webhook, and sends them.
//!
//! Events are taken from the queue by one process at a time, in their order: the broker sees to it. They are sent by one
//! process at a time, by a lease; for each webhook a task of its own, so that one that does not answer holds up nobody.
//!
//! # Failure handling
//! Events leave their queue after they are kept: delivered twice, they are kept once. While the store is out of reach they
//! wait in the queue. An event is noted as delivered after the receiver has answered; a process that dies in between has
//! it sent again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::lease::Lease;
use crate::batch::{BatchLimits, Batches, Load};
use crate::domain::{Event, OrderId};
use crate::metrics::{Delivered, Metrics};
use crate::ports::{
    Due, EventDelivery, EventSubscription, Ports, Random, Receipt, Sent, Settle, Unavailable, Webhook, WebhookId,
    Webhooks,
};
use crate::webhooks::sender::{RetryOptions, Sender};

/// Messages held at once; each has the events of a batch of orders.
pub(super) const PREFETCH: u16 = 32;
/// Messages kept in one transaction.
const LIMITS: BatchLimits = BatchLimits { orders_max: 8, bytes_max: 1 << 20 };
const WAIT_MIN: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a message of a newer release is held before it is given back.
const PARKED_FOR: Duration = Duration::from_secs(2);

const LEASE: &str = "webhooks";
/// How often is looked which webhooks there are, and whether there is something to send. A new one waits as long.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often is counted, and swept.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// How long is swept in one go: meanwhile nobody looks for new webhooks, nor renews the lease.
const SWEEP_FOR: Duration = Duration::from_secs(1);
/// Events read at a time for one webhook.
const READ_MAX: u32 = 256;
/// How long what was delivered is remembered, so that an event that is told again in this time is not sent again.
const REMEMBER_DELIVERED: Duration = Duration::from_secs(600);
/// How long what was given up is counted.
const REMEMBER_GIVEN_UP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How webhooks are treated.
#[derive(Clone)]
pub struct WebhookOptions {
    pub sender: Sender,
    /// Events under way to one receiver at once.
    pub at_once: usize,
    pub retry: RetryOptions,
}

impl Load for EventDelivery {
    fn size_bytes(&self) -> usize {
        match &self.events {
            Ok(events) => events.len() * 128,
            Err(unreadable) => unreadable.bytes.len(),
        }
    }
}

/// Brings events from their queue to where they are kept. Runs until `stop`.
pub(super) async fn keep(subscription: EventSubscription, store: Arc<dyn Webhooks>, stop: CancellationToken) {
    let EventSubscription { deliveries, settle } = subscription;
    let mut batches = Batches::new(deliveries, LIMITS);
    while let Some(batch) = batches.next_until(&stop).await {
        let (mut receipts, mut events) = (Vec::with_capacity(batch.len()), Vec::new());
        for EventDelivery { receipt, events: read } in batch {
            match read {
                Ok(read) => events.extend(read),
                Err(unreadable) if unreadable.is_newer => {
                    tracing::warn!(reason = unreadable.reason, "events wait for a newer process");
                    park(receipt, settle.clone());
                    continue;
                }
                // Nobody can be told what nobody can read.
                Err(unreadable) => tracing::warn!(reason = unreadable.reason, "events are dropped"),
            }
            receipts.push(receipt);
        }
        let is_kept = keep_all(&*store, &events, &stop).await;
        for receipt in receipts {
            match is_kept {
                true => settle.ack(receipt),
                false => settle.give_back(receipt),
            }
        }
    }
    for delivery in batches.close().await {
        settle.give_back(delivery.receipt);
    }
}

fn park(receipt: Receipt, settle: Arc<dyn Settle>) {
    tokio::spawn(async move {
        tokio::time::sleep(PARKED_FOR).await;
        settle.give_back(receipt);
    });
}

/// Keeps them, however long it takes; `false` if it is to stop first.
async fn keep_all(store: &dyn Webhooks, events: &[Event], stop: &CancellationToken) -> bool {
    let mut wait = WAIT_MIN;
    while let Err(unavailable) = store.keep(events).await {
        tracing::debug!(%unavailable, events = events.len(), "events wait in their queue");
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(WAIT_MAX),
            () = stop.cancelled() => return false,
        }
    }
    true
}

/// Sends what is to be sent.
pub(super) struct Deliverer {
    store: Arc<dyn Webhooks>,
    random: Arc<dyn Random>,
    lease: Lease,
    metrics: Arc<Metrics>,
    options: WebhookOptions,
}

impl Deliverer {
    pub(super) fn new(ports: &Ports, lease: Lease, metrics: Arc<Metrics>, options: WebhookOptions) -> Deliverer {
        Deliverer { store: ports.webhooks.clone(), random: ports.random.clone(), lease, metrics, options }
    }

    /// Runs until `stop`; what is under way then is sent again by somebody else.
    pub(super) async fn run(self, stop: CancellationToken) {
        let deliverer = Arc::new(self);
        // A task ends when its handle is dropped.
        let mut tasks: HashMap<WebhookId, AbortOnDropHandle<()>> = HashMap::new();
        let mut count_at = Instant::now();
        while !stop.is_cancelled() {
            let is_ours = deliverer.lease.is_ours(LEASE).await;
            match is_ours {
                true => match deliverer.store.list().await {
                    Ok(webhooks) => {
                        tasks.retain(|id, _| webhooks.iter().any(|webhook| webhook.id == *id));
                        for webhook in webhooks {
                            let (id, deliverer) = (webhook.id, deliverer.clone());
                            tasks.entry(id).or_insert_with(|| {
                                AbortOnDropHandle::new(tokio::spawn(async move { deliverer.serve(webhook).await }))
                            });
                        }
                    }
                    Err(unavailable) => tracing::debug!(%unavailable, "webhooks are not looked at"),
                },
                false => {
                    tasks.clear();
                    deliverer.metrics.webhook_events_pending(0);
                }
            }
            // Also where there is no webhook any more: what the last one was to be told has to go.
            if is_ours && Instant::now() >= count_at {
                let is_swept = deliverer.count_and_sweep().await;
                count_at = Instant::now() + if is_swept { COUNT_EVERY } else { LOOK_EVERY };
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => {}
            }
        }
        drop(tasks);
        deliverer.lease.give_up(LEASE).await;
    }

    /// `false` if there is more to sweep.
    async fn count_and_sweep(&self) -> bool {
        let done = async {
            let tally = self.store.tally().await?;
            self.metrics.webhook_events_pending(tally.iter().map(|(_, tally)| tally.pending).sum());
            let end = Instant::now() + SWEEP_FOR;
            while self.store.sweep(REMEMBER_DELIVERED, REMEMBER_GIVEN_UP).await? > 0 {
                if Instant::now() >= end {
                    return Ok(false);
                }
            }
            Ok::<_, Unavailable>(true)
        };
        done.await.unwrap_or_else(|unavailable| {
            tracing::debug!(%unavailable, "deliveries are not swept");
            true
        })
    }

    /// Sends a webhook what it is to be told, without end.
    async fn serve(&self, webhook: Webhook) {
        let mut is_failing = false;
        loop {
            let due = match self.store.due(webhook.id, READ_MAX).await {
                Ok(due) => due,
                Err(unavailable) => {
                    tracing::debug!(webhook = %webhook.id, %unavailable, "deliveries cannot be read");
                    Vec::new()
                }
            };
            if due.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            // Each as soon as it is known: a receiver that is slow with one has had the others.
            let mut sent = stream::iter(due)
                .map(|due| self.send(&webhook, due))
                .buffer_unordered(self.options.at_once)
                .ready_chunks(64);
            while let Some(some) = sent.next().await {
                let (settled, reasons): (Vec<_>, Vec<_>) = some.into_iter().unzip();
                let reason = reasons.into_iter().flatten().next();
                match (&reason, is_failing) {
                    (Some(reason), false) => {
                        tracing::warn!(webhook = %webhook.id, reason, "a webhook does not take events")
                    }
                    (None, true) => tracing::info!(webhook = %webhook.id, "a webhook takes events again"),
                    (Some(_), true) | (None, false) => {}
                }
                is_failing = reason.is_some();
                self.settle(webhook.id, &settled).await;
            }
        }
    }

    /// Sends one event once; what becomes of it, and what was wrong.
    async fn send(&self, webhook: &Webhook, due: Due) -> ((OrderId, u64, Sent), Option<String>) {
        let Due { event, attempts, age } = due;
        let answered = self.options.sender.send(webhook, &event).await;
        let retry = &self.options.retry;
        let sent = match answered.is_delivered {
            true => Sent::Delivered,
            false if age >= retry.give_up_after => Sent::GivenUp,
            false => Sent::Again(retry.wait(attempts + 1, self.random.fraction(), answered.retry_after)),
        };
        self.metrics.webhook_event(match sent {
            Sent::Delivered => Delivered::Yes,
            Sent::Again(_) => Delivered::NotYet,
            Sent::GivenUp => Delivered::Never,
        });
        if sent == Sent::GivenUp {
            tracing::warn!(webhook = %webhook.id, event = event.id(), "an event is given up: it was not taken in time");
        }
        ((event.order, event.sequence, sent), answered.reason)
    }

    /// Notes what became of events, for as long as it takes: forgotten, they would be sent again.
    async fn settle(&self, id: WebhookId, sent: &[(OrderId, u64, Sent)]) {
        let mut wait = WAIT_MIN;
        while let Err(unavailable) = self.store.settle(id, sent).await {
            tracing::debug!(webhook = %id, %unavailable, events = sent.len(), "deliveries cannot be noted");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }
}

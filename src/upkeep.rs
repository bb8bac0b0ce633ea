//! What keeps the whole in order beside the way of an order.
//!
//! - [`outbox`] publishes what could not be published when it was accepted, and clears the journal of what has ended;
//! - [`reconciler`] publishes again what a queue has lost;
//! - [`cancellations`] sees to it that what is to be cancelled ends;
//! - [`dead_letters`] brings dead letters from their queue to where people can look at them;
//! - [`crate::pauses`] says which stages are paused;
//! - [`webhooks`] brings events to where they are kept for webhooks, and sends them;
//! - [`backlog`] says when more orders wait than the system should take on.
//!
//! Each runs in every process, so that none is missed when a process dies; where one at a time is enough they agree by
//! leases. All of them may do a thing twice: the fence of each step and the first row in the archive make that harmless.
//!
//! # Failure handling
//! Whatever is out of reach is tried again at the next turn. Nothing here holds up an order.

pub mod backlog;
pub mod cancellations;
pub mod dead_letters;
mod lease;
pub mod outbox;
pub mod reconciler;
pub mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use lease::Lease;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batch::BatchLimits;
use crate::cancel::Canceller;
use crate::domain::{OrderRecord, Stage};
use crate::intake::Backlog;
use crate::metrics::Metrics;
use crate::pauses::{PausedStages, Watch};
use crate::ports::{Place, Ports};
pub use webhooks::WebhookOptions;

pub struct UpkeepOptions {
    /// The process, among those that share the leases.
    pub holder: Arc<str>,
    pub batch: BatchLimits,
    /// How long an order may stand still, with nothing left in its queue, before it is published again.
    pub reconcile_after: Duration,
    /// Messages in the first queue past which the backlog is full.
    pub backlog_max_messages: u64,
    /// Kept as the store has them.
    pub paused: PausedStages,
    /// Stages that this process pauses because it starts.
    pub start_paused: Vec<Stage>,
    pub metrics: Arc<Metrics>,
    pub webhooks: WebhookOptions,
}

/// The tasks at work.
pub struct Upkeep {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Upkeep {
    /// Starts all of it on the current runtime; `backlog` is watched for a process that takes orders.
    pub fn start(options: &UpkeepOptions, ports: &Ports, backlog: Option<Backlog>) -> Upkeep {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let watch =
            Watch::new(options.paused.clone(), ports, options.metrics.clone(), &options.start_paused, &options.holder);
        tasks.spawn(watch.run(stop.clone()));
        let lease = Lease::new(ports.leases.clone(), options.holder.clone());
        if let Some(journal) = ports.journal.clone() {
            let outbox = outbox::Outbox {
                ports: ports.clone(),
                journal,
                lease: lease.clone(),
                batch: options.batch,
                metrics: options.metrics.clone(),
            };
            tasks.spawn(outbox.run(stop.clone()));
            let reconciler = reconciler::Reconciler::new(ports, lease.clone(), options);
            tasks.spawn(reconciler.run(stop.clone()));
        }
        let settling = cancellations::Settling {
            cancellations: ports.cancellations.clone(),
            canceller: Canceller::new(ports, options.metrics.clone()),
            lease: lease.clone(),
        };
        tasks.spawn(settling.run(stop.clone()));
        if let Some(subscription) = ports.queues.dead_letters(dead_letters::PREFETCH) {
            tasks.spawn(dead_letters::run(
                subscription,
                ports.dead_letters.clone(),
                options.metrics.clone(),
                stop.clone(),
            ));
        }
        if let Some(subscription) = ports.queues.events(webhooks::PREFETCH) {
            tasks.spawn(webhooks::keep(subscription, ports.webhooks.clone(), stop.clone()));
        }
        let deliverer = webhooks::Deliverer::new(ports, lease, options.metrics.clone(), options.webhooks.clone());
        tasks.spawn(deliverer.run(stop.clone()));
        if let Some(backlog) = backlog {
            tasks.spawn(backlog::watch(ports.queues.clone(), backlog, options.backlog_max_messages, stop.clone()));
        }
        tasks.close();
        Upkeep { tasks, stop }
    }

    /// Stops at the next await of each task; what was half done is done by somebody else.
    pub async fn stop(self, deadline: Duration) {
        self.stop.cancel();
        let _ = tokio::time::timeout(deadline, self.tasks.wait()).await;
    }
}

/// Makes messages of orders, each for the place its orders go next, in the order of `orders`.
pub(crate) fn messages(orders: Vec<OrderRecord>, limits: BatchLimits) -> Vec<(Place, Vec<OrderRecord>)> {
    let mut messages: Vec<(Place, Vec<OrderRecord>)> = Vec::new();
    let mut size_bytes = 0;
    for order in orders {
        let place = Place::next_of(&order);
        size_bytes += order.size_bytes();
        match messages.last_mut() {
            Some((to, message))
                if *to == place && message.len() < limits.orders_max && size_bytes <= limits.bytes_max =>
            {
                message.push(order);
            }
            Some(_) | None => {
                size_bytes = order.size_bytes();
                messages.push((place, vec![order]));
            }
        }
    }
    messages
}

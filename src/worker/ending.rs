//! Drains the queue `ending`: ended orders that found the archive out of reach.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::archiver::Archive;
use super::hold::Ticket;
use super::unpack::unpack;
use crate::batch::{BatchLimits, Batches};
use crate::domain::OrderRecord;
use crate::ports::{Source, Subscription};

/// Messages held at once: few, as they are held for as long as the archive is out of reach.
const PREFETCH: u16 = 4;
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Runs until `stop`.
pub(super) async fn run(archive: Archive, limits: BatchLimits, stop: CancellationToken) {
    let ports = &archive.ports;
    let Subscription { deliveries, settle } = ports.queues.subscribe(Source::Ending, PREFETCH);
    let mut batches = Batches::new(deliveries, limits);
    while let Some(batch) = batches.next_until(&stop).await {
        let fits = |order: &OrderRecord| order.history.status().has_ended();
        let in_hand = unpack(ports, Source::Ending, &settle, batch, fits).await;
        let (orders, tickets): (Vec<_>, Vec<_>) = in_hand.into_iter().map(|i| (i.order, i.ticket)).unzip();
        if keep(&archive, &orders, &stop).await {
            tickets.into_iter().for_each(Ticket::settle);
        }
    }
    for delivery in batches.close().await {
        settle.give_back(delivery.receipt);
    }
}

/// Archives, however long it takes; `false` if the worker is to stop first.
async fn keep(archive: &Archive, orders: &[OrderRecord], stop: &CancellationToken) -> bool {
    let mut wait = WAIT_MIN;
    while !orders.is_empty() {
        let Err(unavailable) = archive.keep(orders).await else {
            break;
        };
        tracing::debug!(%unavailable, orders = orders.len(), "ended orders go on waiting for the archive");
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(WAIT_MAX),
            () = stop.cancelled() => return false,
        }
    }
    true
}

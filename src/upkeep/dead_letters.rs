//! Brings dead letters from their queue to where they are kept, listed and replayed.
//!
//! # Failure handling
//! A letter leaves its queue after it is kept: delivered twice, it is kept once, by its id. While the store is out of
//! reach the letters wait in their queue, a few of them in hand.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::batch::{BatchLimits, Batches, Load};
use crate::metrics::Metrics;
use crate::ports::{DeadDelivery, DeadLetter, DeadLetters, DeadSubscription, Settle};

/// Letters held at once; a letter may be as large as a message can be.
pub(super) const PREFETCH: u16 = 16;
const LIMITS: BatchLimits = BatchLimits { orders_max: PREFETCH as usize, bytes_max: 1 << 20 };
const WAIT_MIN: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(5);

impl Load for DeadDelivery {
    fn size_bytes(&self) -> usize {
        self.letter.bytes.len()
    }
}

/// Runs until `stop`.
pub(super) async fn run(
    subscription: DeadSubscription,
    store: Arc<dyn DeadLetters>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let DeadSubscription { deliveries, settle } = subscription;
    let mut batches = Batches::new(deliveries, LIMITS);
    while let Some(batch) = batches.next_until(&stop).await {
        let (receipts, letters): (Vec<_>, Vec<_>) = batch.into_iter().map(|d| (d.receipt, d.letter)).unzip();
        let is_kept = keep(&*store, &letters, &stop).await;
        metrics.dead_letters(if is_kept { receipts.len() } else { 0 });
        for receipt in receipts {
            match is_kept {
                true => settle.ack(receipt),
                false => settle.give_back(receipt),
            }
        }
    }
    give_back(batches.close().await, &*settle);
}

/// Keeps them, however long it takes; `false` if it is to stop first.
async fn keep(store: &dyn DeadLetters, letters: &[DeadLetter], stop: &CancellationToken) -> bool {
    let mut wait = WAIT_MIN;
    loop {
        let Err(unavailable) = store.keep(letters).await else {
            for letter in letters {
                tracing::warn!(letter = %letter.id, source = %letter.source, reason = letter.reason, "a dead letter is kept");
            }
            return true;
        };
        tracing::debug!(%unavailable, letters = letters.len(), "dead letters wait in their queue");
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(WAIT_MAX),
            () = stop.cancelled() => return false,
        }
    }
}

fn give_back(deliveries: Vec<DeadDelivery>, settle: &dyn Settle) {
    for delivery in deliveries {
        settle.give_back(delivery.receipt);
    }
}

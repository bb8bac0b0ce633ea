//! Settles what was asked to be cancelled and has not ended: whoever asked may have died in between, and marks may have been
//! lost with the in-flight store.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Lease;
use crate::cancel::Canceller;
use crate::ports::{Cancellations, Unavailable};

const LEASE: &str = "cancellations";
const PAUSE: Duration = Duration::from_secs(1);
/// Read at a time.
const PAGE: u32 = 100;

pub(super) struct Settling {
    pub(super) cancellations: Arc<dyn Cancellations>,
    pub(super) canceller: Canceller,
    pub(super) lease: Lease,
}

impl Settling {
    pub(super) async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(unavailable) = self.turn(&stop).await {
                tracing::debug!(%unavailable, "cancellations wait");
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => {}
            }
        }
        self.lease.give_up(LEASE).await;
    }

    async fn turn(&self, stop: &CancellationToken) -> Result<(), Unavailable> {
        if !self.lease.is_ours(LEASE).await {
            return Ok(());
        }
        let mut after = None;
        loop {
            let page = self.cancellations.open(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            for asked in &page {
                if stop.is_cancelled() {
                    return Ok(());
                }
                // One that cannot be settled must not hold up those behind it.
                if let Err(unavailable) = self.canceller.settle(asked).await {
                    tracing::debug!(order = %asked.id, %unavailable, "a cancellation waits");
                }
            }
        }
    }
}

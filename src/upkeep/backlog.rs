//! Says when the first queue holds more than the system should take on.
//!
//! # Failure handling
//! While the queue cannot be asked, the backlog is as it was found last: if it was full, orders stay refused for
//! ten seconds at most, for a broker that is away takes none anyway and the outbox has room.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::Stage;
use crate::intake::Backlog;
use crate::ports::{Queues, Source};

/// How often the queue is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long an answer counts.
const BELIEVED_FOR: Duration = Duration::from_secs(10);

/// Runs until `stop`.
pub(super) async fn watch(queues: Arc<dyn Queues>, backlog: Backlog, messages_max: u64, stop: CancellationToken) {
    let mut answered_at = Instant::now();
    loop {
        match queues.waiting(Source::Stage(Stage::FIRST)).await {
            Ok(waiting) => {
                answered_at = Instant::now();
                say(&backlog, waiting > messages_max, waiting);
            }
            Err(_) if answered_at.elapsed() > BELIEVED_FOR => backlog.set_full(false),
            Err(_) => {}
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn say(backlog: &Backlog, is_full: bool, waiting: u64) {
    match (backlog.is_full(), is_full) {
        (false, true) => tracing::warn!(waiting, "too many messages wait to be scheduled: new orders are refused"),
        (true, false) => tracing::info!(waiting, "new orders are taken again"),
        (true, true) | (false, false) => {}
    }
    backlog.set_full(is_full);
}

//! Sends one order until it is taken or refused, or the time for it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::http::{Accepted, Posted, ProblemDocument, Server, Trouble};
use super::report::Report;

const WAIT_MIN: Duration = Duration::from_millis(100);
/// For a request and its answer, even where there is no time left to try again.
const PATIENCE_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What became of an order.
pub enum Sent {
    Accepted(Accepted),
    Refused(ProblemDocument),
    /// It was given up: the server kept answering like this.
    GivenUp(Trouble),
    /// The user stopped it before it was answered.
    Stopped,
}

/// Sends orders to one server.
pub struct Sender {
    pub server: Server,
    /// How long to try each order.
    pub give_up_after: Duration,
    pub stop: CancellationToken,
    pub report: Arc<Report>,
    /// Whether the last answer of the server was trouble: it is told once, not for each order.
    in_trouble: AtomicBool,
}

impl Sender {
    pub fn new(server: Server, give_up_after: Duration, stop: CancellationToken, report: Arc<Report>) -> Sender {
        Sender { server, give_up_after, stop, report, in_trouble: AtomicBool::new(false) }
    }

    /// Sends one order, always with the same key: however often it arrives, it is taken once.
    pub async fn send(&self, order: Bytes) -> Sent {
        // Version 4: nothing but random bits.
        let key = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        let key = key.to_string();
        let deadline = Instant::now() + self.give_up_after;
        let mut wait = WAIT_MIN;
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            let patience = patience.max(PATIENCE_MIN);
            let trouble = match self.server.post(order.clone(), &key, patience).await {
                Posted::Accepted(accepted) => {
                    self.in_trouble.store(false, Ordering::Relaxed);
                    return Sent::Accepted(accepted);
                }
                Posted::Refused(problem) => return Sent::Refused(problem),
                Posted::Trouble(trouble) if !trouble.is_passing => return Sent::GivenUp(trouble),
                Posted::Trouble(trouble) => trouble,
            };
            if self.stop.is_cancelled() {
                return Sent::Stopped;
            }
            let pause = trouble.retry_after.unwrap_or(Duration::ZERO).max(jittered(wait));
            if Instant::now() + pause >= deadline {
                return Sent::GivenUp(trouble);
            }
            if !self.in_trouble.swap(true, Ordering::Relaxed) {
                self.report.error(&format!("{trouble}; trying again"));
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return Sent::Stopped,
            }
            wait = (wait * 2).min(WAIT_MAX);
        }
    }
}

/// Between half of it and all of it: what failed together must not come back together.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..=1.0))
}

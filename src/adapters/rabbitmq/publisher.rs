//! Puts messages into queues and waits for the broker's confirm, on a connection of its own.
//!
//! One task owns the publishing channel and is never cancelled: the broker counts publishes in the order they arrive,
//! so they must be counted in the order they are sent, and each must be noted before it is sent.
//!
//! # Failure handling
//! - No connection: refused at once, [`PublishError::NotTaken`].
//! - At most [`WINDOW`] messages are unconfirmed at a time, a message whose caller has given up included. So the
//!   connection's outgoing queue (8,192 in amqprs) is never full, and sending never blocks, not even when the broker
//!   does not read because its memory or disk is short.
//! - No confirm in time: [`PublishError::Unknown`]. From then on everything is refused at once, until a confirm comes.
//!   If none comes for five deadlines, the connection is rebuilt, with growing waits as long as a new one confirms
//!   nothing either. After that one message has to be confirmed before others are taken.
//! - Refused by a queue: [`PublishError::NotTaken`]. If a queue refuses everything from the beginning, the connection is
//!   rebuilt ([`Refusals`]).
//! - The connection is lost: what was sent is of unknown fate, what was not is not taken.
//! - A queue that was deleted is a loss ([`Losses`]). It is declared again before a publish that comes a while later
//!   (`REDECLARE_AFTER`).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use amqprs::FieldTable;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::PART;
use super::connection::{Backoff, Connector, Health, Link, Trouble};
use super::losses::Losses;
use super::publishing::{Ended, Publishing, PublishingChannel, Request, Session, set_up};
use super::refusals::Refusals;
use super::topology::{Namespace, Queue};
use crate::ports::{PublishError, Unavailable};

/// How many messages may be unconfirmed at a time. A message is a batch of up to 256 KiB: this bounds memory to 16 MiB,
/// and brings most of the throughput that a larger one would.
const WINDOW: usize = 64;
/// A connection that lived this long was of use, even if nothing was published.
const LONG_LIVED: Duration = Duration::from_secs(10);
/// For the farewell when this side closes the connection.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

pub(super) fn not_taken(reason: impl std::fmt::Display) -> PublishError {
    PublishError::NotTaken(Unavailable::new(PART, reason))
}

pub(super) fn unknown(reason: impl std::fmt::Display) -> PublishError {
    PublishError::Unknown(Unavailable::new(PART, reason))
}

/// What callers hold: hands messages to the task.
pub(super) struct Publisher {
    requests: mpsc::Sender<Request>,
    window: Arc<Semaphore>,
    health: watch::Receiver<Health>,
    confirm_deadline: Duration,
}

impl Publisher {
    /// Starts the task; it ends when `closing` is cancelled and what is unconfirmed had its time.
    pub fn start(
        connector: Arc<Connector>,
        namespace: Namespace,
        losses: Arc<Losses>,
        confirm_deadline: Duration,
        closing: CancellationToken,
    ) -> (Publisher, impl Future<Output = ()> + Send + 'static) {
        // Whoever sends holds a slot of the window, so there is always room.
        let (requests, queue) = mpsc::channel(WINDOW);
        let (health, health_of) = watch::channel(connector.not_connected_yet());
        let publisher =
            Publisher { requests, window: Arc::new(Semaphore::new(WINDOW)), health: health_of, confirm_deadline };
        let task = Task {
            publishing: Arc::new(Publishing { connector, namespace, losses, confirm_deadline, closing, health }),
            requests: queue,
        };
        (publisher, task.run())
    }

    /// Whether the connection is up and confirms come in time.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), Unavailable> {
        match &*self.health.borrow() {
            Health::Up { .. } => Ok(()),
            Health::Down { reason } => Err(Unavailable::new(PART, reason)),
        }
    }

    /// Says `what` happened, or what is known to be wrong.
    fn explain(&self, what: impl std::fmt::Display) -> String {
        match &*self.health.borrow() {
            Health::Up { endpoint } => format!("{endpoint}: {what}"),
            Health::Down { reason } => reason.clone(),
        }
    }

    /// Publishes one message and waits for its confirm, for at most the confirm deadline.
    ///
    /// # Errors
    /// [`PublishError`]; passing.
    pub async fn publish(&self, queue: Queue, headers: Option<FieldTable>, body: Vec<u8>) -> Result<(), PublishError> {
        self.check().map_err(PublishError::NotTaken)?;
        let deadline = tokio::time::Instant::now() + self.confirm_deadline;
        // Half of the time is left for the confirm: a full window is certain not to have taken it, a late confirm is not.
        let slot = timeout(self.confirm_deadline / 2, Arc::clone(&self.window).acquire_owned());
        let Ok(Ok(slot)) = slot.await else {
            let full = format_args!("{WINDOW} messages await their confirms");
            return Err(not_taken(self.explain(full)));
        };
        let (reply, answer) = oneshot::channel();
        let decided = Arc::new(AtomicBool::new(false));
        let request = Request { queue, headers, body, reply, decided: Arc::clone(&decided), slot };
        if self.requests.try_send(request).is_err() {
            return Err(not_taken("closed"));
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unknown("the publishing task has ended")),
            Err(_) => {
                let limit = self.confirm_deadline;
                if decided.swap(true, Ordering::AcqRel) {
                    Err(unknown(self.explain(format_args!("no confirm within {limit:?}"))))
                } else {
                    Err(not_taken(self.explain(format_args!("not sent within {limit:?}"))))
                }
            }
        }
    }
}

struct Task {
    publishing: Arc<Publishing>,
    requests: mpsc::Receiver<Request>,
}

impl Task {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut overdue = false;
        let mut refusals = Refusals::default();
        while let Some((link, channel)) = self.connect(&mut backoff).await {
            let connected_at = Instant::now();
            refusals.connected();
            let mut session = Session::new(link, channel, Arc::clone(&self.publishing), overdue, refusals);
            let ended = session.serve(&mut self.requests).await;
            refusals = std::mem::take(&mut session.refusals);
            if session.confirmed_any || connected_at.elapsed() >= LONG_LIVED {
                backoff.reset();
            }
            let reason = match &ended {
                Ended::Closed => "closed".to_owned(),
                Ended::Lost(reason) | Ended::Overdue(reason) => reason.clone(),
            };
            overdue = matches!(ended, Ended::Overdue(_));
            // First this, so that nobody who learns of a failure finds the connection up.
            self.publishing.health.send_replace(Health::Down { reason: reason.clone() });
            session.fail_all(&reason);
            match ended {
                Ended::Closed => {
                    session.link.close(CLOSE_LIMIT).await;
                    break;
                }
                Ended::Lost(_) | Ended::Overdue(_) => {
                    self.publishing.connector.complain(Trouble::Lost, &reason);
                    session.link.abandon();
                }
            }
        }
        let reason = "closed".to_owned();
        self.publishing.health.send_replace(Health::Down { reason });
        self.requests.close();
        while let Some(request) = self.requests.recv().await {
            request.refuse("closed");
        }
    }

    /// Connects, refusing what comes meanwhile. `None` if it is to end.
    async fn connect(&mut self, backoff: &mut Backoff) -> Option<(Link, PublishingChannel)> {
        let (namespace, losses) = (self.publishing.namespace.clone(), Arc::clone(&self.publishing.losses));
        let mut connecting =
            pin!(self.publishing.connector.connect("publishing", backoff, &self.publishing.health, |connection| {
                set_up(connection, namespace.clone(), Arc::clone(&losses))
            },));
        loop {
            tokio::select! {
                biased;
                () = self.publishing.closing.cancelled() => return None,
                connected = &mut connecting => return Some(connected),
                request = self.requests.recv() => request?.refuse("not connected"),
            }
        }
    }
}

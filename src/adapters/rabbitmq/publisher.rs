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
//!   If none comes for [`REBUILD_AFTER`] deadlines, the connection is rebuilt, with growing waits as long as a new one
//!   confirms nothing either.
//! - The connection is lost: what was sent is of unknown fate, what was not is not taken.
//! - A queue that was deleted is declared again, before a publish that comes a while later ([`REDECLARE_AFTER`]).

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use amqprs::channel::{BasicPublishArguments, Channel, ConfirmSelectArguments};
use amqprs::connection::Connection;
use amqprs::{BasicProperties, FieldTable};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::PART;
use super::confirms::{Confirms, Verdict};
use super::connection::{
    Backoff, ChannelEvent, Connector, Health, Link, SetUpError, Trouble, declare, explain, open_channel,
};
use super::topology::{Namespace, Queue, REDECLARE_AFTER};
use crate::ports::{PublishError, Unavailable};

/// How many messages may be unconfirmed at a time. A message is a batch of up to 256 KiB: this bounds memory to 16 MiB,
/// and brings most of the throughput that a larger one would.
const WINDOW: usize = 64;
/// After this many confirm deadlines without a confirm the connection is taken for dead.
const REBUILD_AFTER: u32 = 5;
/// A queue that differs from what this release declares is not tried again before this.
const DIFFERS_FOR: Duration = Duration::from_secs(30);
/// A connection that lived this long was of use, even if nothing was published.
const LONG_LIVED: Duration = Duration::from_secs(10);
/// For the farewell when this side closes the connection.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

fn not_taken(reason: impl std::fmt::Display) -> PublishError {
    PublishError::NotTaken(Unavailable::new(PART, reason))
}

fn unknown(reason: impl std::fmt::Display) -> PublishError {
    PublishError::Unknown(Unavailable::new(PART, reason))
}

/// What callers hold: hands messages to the task.
pub(super) struct Publisher {
    requests: mpsc::Sender<Request>,
    window: Arc<Semaphore>,
    health: watch::Receiver<Health>,
    confirm_deadline: Duration,
}

struct Request {
    queue: Queue,
    headers: Option<FieldTable>,
    body: Vec<u8>,
    reply: oneshot::Sender<Result<(), PublishError>>,
    /// Set by whoever is first: the task, which then sends it, or the caller, who then has given up.
    decided: Arc<AtomicBool>,
    /// Its place among the unconfirmed. Kept until the broker confirms, even if the caller has gone.
    slot: OwnedSemaphorePermit,
}

impl Request {
    fn refuse(self, reason: &str) {
        let _ = self.reply.send(Err(not_taken(reason)));
    }
}

impl Publisher {
    /// Starts the task; it ends when `closing` is cancelled and what is unconfirmed had its time.
    pub fn start(
        connector: Arc<Connector>,
        namespace: Namespace,
        confirm_deadline: Duration,
        closing: CancellationToken,
    ) -> (Publisher, impl Future<Output = ()> + Send + 'static) {
        // Whoever sends holds a slot of the window, so there is always room.
        let (requests, queue) = mpsc::channel(WINDOW);
        let (health, health_of) = watch::channel(connector.not_connected_yet());
        let publisher =
            Publisher { requests, window: Arc::new(Semaphore::new(WINDOW)), health: health_of, confirm_deadline };
        let task = Task { connector, namespace, confirm_deadline, closing, requests: queue, health };
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

    /// Where it is connected to, for the operator.
    fn endpoint(&self) -> String {
        match &*self.health.borrow() {
            Health::Up { endpoint } => endpoint.clone(),
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
            let endpoint = self.endpoint();
            return Err(not_taken(format!("{endpoint}: {WINDOW} messages await their confirms")));
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
                let endpoint = self.endpoint();
                let limit = self.confirm_deadline;
                if decided.swap(true, Ordering::AcqRel) {
                    Err(unknown(format!("{endpoint}: no confirm within {limit:?}")))
                } else {
                    Err(not_taken(format!("{endpoint}: not sent within {limit:?}")))
                }
            }
        }
    }
}

struct Task {
    connector: Arc<Connector>,
    namespace: Namespace,
    confirm_deadline: Duration,
    closing: CancellationToken,
    requests: mpsc::Receiver<Request>,
    health: watch::Sender<Health>,
}

impl Task {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        while let Some((link, channel)) = self.connect(&mut backoff).await {
            let connected_at = Instant::now();
            let mut session = Session::new(link, channel, &self);
            let ended = session.serve(&mut self.requests).await;
            if session.confirmed_any || connected_at.elapsed() >= LONG_LIVED {
                backoff.reset();
            }
            let reason = match &ended {
                Ended::Closed => "closed".to_owned(),
                Ended::Lost(reason) => reason.clone(),
            };
            // First this, so that nobody who learns of a failure finds the connection up.
            self.health.send_replace(Health::Down { reason: reason.clone() });
            session.fail_all(&reason);
            match ended {
                Ended::Closed => {
                    session.link.close(CLOSE_LIMIT).await;
                    break;
                }
                Ended::Lost(_) => {
                    self.connector.complain(Trouble::Lost, &reason);
                    session.link.abandon();
                }
            }
        }
        let reason = "closed".to_owned();
        self.health.send_replace(Health::Down { reason });
        self.requests.close();
        while let Some(request) = self.requests.recv().await {
            request.refuse("closed");
        }
    }

    /// Connects, refusing what comes meanwhile. `None` if it is to end.
    async fn connect(&mut self, backoff: &mut Backoff) -> Option<(Link, PublishingChannel)> {
        let namespace = self.namespace.clone();
        let mut connecting = pin!(
            self.connector
                .connect("publishing", backoff, &self.health, |connection| set_up(connection, namespace.clone()),)
        );
        loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return None,
                connected = &mut connecting => return Some(connected),
                request = self.requests.recv() => request?.refuse("not connected"),
            }
        }
    }
}

struct PublishingChannel {
    channel: Channel,
    events: mpsc::UnboundedReceiver<ChannelEvent>,
}

async fn set_up(connection: Connection, namespace: Namespace) -> Result<PublishingChannel, SetUpError> {
    let passing = |error: amqprs::error::Error| SetUpError::Passing(error.to_string());
    let (channel, mut events) = open_channel(&connection).await.map_err(passing)?;
    declare(&channel, &mut events, &namespace, Queue::standing()).await?;
    channel
        .confirm_select(ConfirmSelectArguments::new(false))
        .await
        .map_err(|error| explain("confirms", &error, &mut events))?;
    Ok(PublishingChannel { channel, events })
}

/// Whether a queue can be published to.
enum Declaration {
    Done,
    /// It is being declared; these wait for it.
    Pending(Vec<Request>),
    /// It is missing, or exists with other arguments, and is not declared before `until`.
    Impossible {
        reason: String,
        until: Instant,
    },
}

struct Waiter {
    reply: oneshot::Sender<Result<(), PublishError>>,
    queue: Queue,
    /// Given free when this is dropped.
    _slot: OwnedSemaphorePermit,
}

enum Ended {
    /// This side wanted it.
    Closed,
    Lost(String),
}

/// One connection, from when it is up until it is lost.
struct Session {
    link: Link,
    channel: PublishingChannel,
    connector: Arc<Connector>,
    namespace: Namespace,
    health: watch::Sender<Health>,
    closing: CancellationToken,
    confirm_deadline: Duration,
    /// Begins the message ids of this session; the tag ends them.
    id: uuid::Uuid,
    confirms: Confirms<Waiter>,
    last_confirm: Instant,
    confirmed_any: bool,
    stalled: bool,
    declarations: HashMap<Queue, Declaration>,
    declaring: JoinSet<(Queue, Result<(), SetUpError>)>,
}

impl Session {
    fn new(link: Link, channel: PublishingChannel, task: &Task) -> Session {
        Session {
            link,
            channel,
            connector: Arc::clone(&task.connector),
            namespace: task.namespace.clone(),
            health: task.health.clone(),
            closing: task.closing.clone(),
            confirm_deadline: task.confirm_deadline,
            id: uuid::Uuid::now_v7(),
            confirms: Confirms::new(),
            last_confirm: Instant::now(),
            confirmed_any: false,
            stalled: false,
            declarations: Queue::standing().map(|queue| (queue, Declaration::Done)).collect(),
            declaring: JoinSet::new(),
        }
    }

    async fn serve(&mut self, requests: &mut mpsc::Receiver<Request>) -> Ended {
        let mut draining = false;
        loop {
            if draining && self.confirms.is_empty() && self.declaring.is_empty() {
                return Ended::Closed;
            }
            let overdue_at = self.overdue_at();
            tokio::select! {
                biased;
                event = self.channel.events.recv() => match event {
                    Some(event) => {
                        if let Some(reason) = self.heard(event) {
                            return Ended::Lost(reason);
                        }
                    }
                    None => return Ended::Lost(self.link.why_lost()),
                },
                () = self.link.lost.cancelled() => return Ended::Lost(self.link.why_lost()),
                Some(declared) = self.declaring.join_next() => {
                    if let Ok((queue, outcome)) = declared
                        && let Err(reason) = self.declared(queue, outcome).await
                    {
                        return Ended::Lost(reason);
                    }
                }
                () = sleep_until(overdue_at.unwrap_or_else(Instant::now).into()), if overdue_at.is_some() => {
                    if let Some(reason) = self.overdue() {
                        return Ended::Lost(reason);
                    }
                }
                () = self.closing.cancelled(), if !draining => {
                    draining = true;
                    requests.close();
                }
                Some(request) = requests.recv() => {
                    if let Err(reason) = self.take(request).await {
                        return Ended::Lost(reason);
                    }
                }
            }
        }
    }

    /// When confirms will be overdue, or have been for so long that the connection counts as dead.
    fn overdue_at(&self) -> Option<Instant> {
        let oldest = self.confirms.oldest()?;
        let dead_at = oldest + self.confirm_deadline * REBUILD_AFTER;
        let stalled_at = oldest.max(self.last_confirm) + self.confirm_deadline;
        Some(if self.stalled { dead_at } else { stalled_at.min(dead_at) })
    }

    /// The moment of [`Session::overdue_at`] has come. `Some` if the connection counts as dead.
    fn overdue(&mut self) -> Option<String> {
        let age = self.confirms.oldest()?.elapsed();
        let endpoint = &self.link.endpoint;
        let reason =
            format!("{endpoint}: no confirm for {} ms: cut off, overloaded, or out of memory or disk", age.as_millis());
        if age >= self.confirm_deadline * REBUILD_AFTER {
            return Some(reason);
        }
        self.stalled = true;
        self.health.send_replace(Health::Down { reason });
        None
    }

    /// `Some` with the reason if the channel is closed.
    fn heard(&mut self, event: ChannelEvent) -> Option<String> {
        match event {
            ChannelEvent::Confirmed { tag, multiple, held } => {
                self.last_confirm = Instant::now();
                self.confirmed_any = true;
                if std::mem::take(&mut self.stalled) {
                    let endpoint = self.link.endpoint.clone();
                    self.health.send_replace(Health::Up { endpoint });
                }
                let endpoint = &self.link.endpoint;
                let declarations = &mut self.declarations;
                self.confirms.confirmed(tag, multiple, held, |waiter, verdict| {
                    let key = waiter.queue.key();
                    let answer = match verdict {
                        Verdict::Held => Ok(()),
                        Verdict::Refused => Err(not_taken(format!("{endpoint}: queue `{key}` refused it"))),
                        Verdict::Returned(reason) => {
                            let reason = format!("{endpoint}: queue `{key}`: {reason}");
                            // Somebody deleted the queue. What was sent before it was declared anew says nothing.
                            if let Some(Declaration::Done) = declarations.get(&waiter.queue) {
                                let missing = Declaration::Impossible {
                                    reason: reason.clone(),
                                    until: Instant::now() + REDECLARE_AFTER,
                                };
                                declarations.insert(waiter.queue, missing);
                            }
                            Err(not_taken(reason))
                        }
                    };
                    // Whoever does not wait any more was told that its fate is unknown.
                    let _ = waiter.reply.send(answer);
                });
                None
            }
            ChannelEvent::Returned { message_id, reason } => {
                let tag =
                    message_id.as_deref().and_then(|id| id.rsplit_once(':')).and_then(|(_, tag)| tag.parse().ok());
                if let Some(tag) = tag {
                    self.confirms.returned(tag, reason);
                }
                None
            }
            ChannelEvent::Closed { reason, .. } => Some(format!("{}: {reason}", self.link.endpoint)),
        }
    }

    /// # Errors
    /// If the connection is lost.
    async fn take(&mut self, request: Request) -> Result<(), String> {
        match self.declarations.get_mut(&request.queue) {
            Some(Declaration::Done) => return self.send(request).await,
            Some(Declaration::Pending(waiting)) => waiting.push(request),
            Some(Declaration::Impossible { reason, until }) if Instant::now() < *until => {
                request.refuse(reason);
            }
            None | Some(Declaration::Impossible { .. }) => {
                let queue = request.queue;
                self.declarations.insert(queue, Declaration::Pending(vec![request]));
                let connection = self.link.connection.clone();
                let namespace = self.namespace.clone();
                self.declaring.spawn(async move { (queue, declare_one(connection, namespace, queue).await) });
            }
        }
        Ok(())
    }

    /// # Errors
    /// If the connection is lost.
    async fn declared(&mut self, queue: Queue, outcome: Result<(), SetUpError>) -> Result<(), String> {
        let waiting = match self.declarations.remove(&queue) {
            Some(Declaration::Pending(waiting)) => waiting,
            Some(Declaration::Done | Declaration::Impossible { .. }) | None => Vec::new(),
        };
        let reason = match outcome {
            Ok(()) => {
                self.declarations.insert(queue, Declaration::Done);
                for request in waiting {
                    self.send(request).await?;
                }
                return Ok(());
            }
            Err(SetUpError::Passing(reason)) => format!("{}: {reason}", self.link.endpoint),
            Err(SetUpError::Differs(reason)) => {
                let reason = format!("{}: {reason}", self.link.endpoint);
                self.connector.complain(Trouble::Differs, &reason);
                let differs = Declaration::Impossible { reason: reason.clone(), until: Instant::now() + DIFFERS_FOR };
                self.declarations.insert(queue, differs);
                reason
            }
        };
        for request in waiting {
            request.refuse(&reason);
        }
        Ok(())
    }

    /// # Errors
    /// If the connection is lost.
    async fn send(&mut self, request: Request) -> Result<(), String> {
        if request.decided.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let waiter = Waiter { reply: request.reply, queue: request.queue, _slot: request.slot };
        let tag = self.confirms.sending(waiter, Instant::now());
        let mut properties = BasicProperties::default();
        properties
            .with_content_type("application/json")
            .with_persistence(true)
            .with_message_id(&format!("{}:{tag}", self.id));
        if let Some(headers) = request.headers {
            properties.with_headers(headers);
        }
        let arguments =
            BasicPublishArguments::new(self.namespace.exchange(), &request.queue.key()).mandatory(true).finish();
        let sent = self.channel.channel.basic_publish(properties, request.body, arguments).await;
        if sent.is_err() {
            let reason = self.link.why_lost();
            if let Some(waiter) = self.confirms.not_sent(tag) {
                let _ = waiter.reply.send(Err(not_taken(&reason)));
            }
            return Err(reason);
        }
        Ok(())
    }

    /// Answers everybody who waits.
    fn fail_all(&mut self, reason: &str) {
        for waiter in std::mem::replace(&mut self.confirms, Confirms::new()).into_waiters() {
            let _ = waiter.reply.send(Err(unknown(reason)));
        }
        for (_, declaration) in self.declarations.drain() {
            match declaration {
                Declaration::Pending(waiting) => {
                    for request in waiting {
                        request.refuse(reason);
                    }
                }
                Declaration::Done | Declaration::Impossible { .. } => {}
            }
        }
        // Not to be aborted: they await answers of amqprs. They end with the connection.
        self.declaring.detach_all();
    }
}

/// Declares a queue on a channel of its own: a refusal closes the channel, and must not take confirms with it.
async fn declare_one(connection: Connection, namespace: Namespace, queue: Queue) -> Result<(), SetUpError> {
    let passing = |error: amqprs::error::Error| SetUpError::Passing(error.to_string());
    let (channel, mut events) = open_channel(&connection).await.map_err(passing)?;
    declare(&channel, &mut events, &namespace, [queue].into_iter()).await?;
    channel.close().await.map_err(passing)
}

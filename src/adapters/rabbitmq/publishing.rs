//! One publishing connection, from when it is up until it is lost. What it promises stands in
//! [`publisher`](super::publisher).
//!
//! # Invariants
//! - Every request is answered once, by whoever takes it out of where it waits.
//! - What is sent is noted in `confirms` first, in the order of sending.
//! - Until the first confirm only one message is under way. A broker that is short of memory takes connections and reads
//!   nothing; whatever was sent to it would stay in memory with each connection that is tried.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use amqprs::channel::{BasicPublishArguments, Channel, ConfirmSelectArguments};
use amqprs::connection::Connection;
use amqprs::{BasicProperties, FieldTable};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::channel::{ChannelEvent, SetUpError, declare, explain, open_channel};
use super::confirms::{Confirms, Verdict};
use super::connection::{Connector, Health, Link, Trouble};
use super::losses::Losses;
use super::publisher::{not_taken, unknown};
use super::refusals::Refusals;
use super::topology::{Namespace, Queue, REDECLARE_AFTER};
use crate::ports::PublishError;

/// After this many confirm deadlines without a confirm the connection is taken for dead.
const REBUILD_AFTER: u32 = 5;
/// A queue that differs from what this release declares is not tried again before this.
const DIFFERS_FOR: Duration = Duration::from_secs(30);

/// What all publishing connections have in common.
pub(super) struct Publishing {
    pub connector: Arc<Connector>,
    pub namespace: Namespace,
    pub losses: Arc<Losses>,
    pub confirm_deadline: Duration,
    pub closing: CancellationToken,
    pub health: watch::Sender<Health>,
}

/// A message that somebody wants to have published.
pub(super) struct Request {
    pub queue: Queue,
    pub headers: Option<FieldTable>,
    pub body: Vec<u8>,
    pub reply: oneshot::Sender<Result<(), PublishError>>,
    /// Set by whoever is first: the session, which then sends it, or the caller, who then has given up.
    pub decided: Arc<AtomicBool>,
    /// Its place among the unconfirmed. Kept until the broker confirms, even if the caller has gone.
    pub slot: OwnedSemaphorePermit,
}

impl Request {
    pub fn refuse(self, reason: &str) {
        let _ = self.reply.send(Err(not_taken(reason)));
    }
}

/// A channel in confirm mode.
pub(super) struct PublishingChannel {
    channel: Channel,
    events: mpsc::UnboundedReceiver<ChannelEvent>,
}

/// Declares what always exists, and opens a channel to publish through.
///
/// # Errors
/// [`SetUpError`].
pub(super) async fn set_up(
    connection: Connection,
    namespace: Namespace,
    losses: Arc<Losses>,
) -> Result<PublishingChannel, SetUpError> {
    let queues: Vec<Queue> = Queue::standing().collect();
    let (channel, mut events) = losses.look_and_declare(&connection, &namespace, &queues).await?;
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

/// Why a session is over.
pub(super) enum Ended {
    /// This side wanted it.
    Closed,
    Lost(String),
    /// Confirms stopped coming.
    Overdue(String),
}

/// See the module.
pub(super) struct Session {
    pub link: Link,
    channel: PublishingChannel,
    publishing: Arc<Publishing>,
    /// Begins the message ids of this session; the tag ends them.
    id: uuid::Uuid,
    confirms: Confirms<Waiter>,
    last_confirm: Instant,
    /// Whether there was a confirm.
    pub confirmed_any: bool,
    /// Whether confirms are overdue.
    stalled: bool,
    /// Whether confirms stopped coming on the connection before.
    cautious: bool,
    /// What waits for the first confirm.
    backlog: Vec<Request>,
    declarations: HashMap<Queue, Declaration>,
    pub refusals: Refusals,
    declaring: JoinSet<(Queue, Result<(), SetUpError>)>,
}

impl Session {
    /// `cautious`: others than the first message do not wait for the first confirm, but are refused.
    pub fn new(
        link: Link,
        channel: PublishingChannel,
        publishing: Arc<Publishing>,
        cautious: bool,
        refusals: Refusals,
    ) -> Session {
        Session {
            link,
            channel,
            publishing,
            id: uuid::Uuid::now_v7(),
            confirms: Confirms::new(),
            last_confirm: Instant::now(),
            confirmed_any: false,
            stalled: false,
            cautious,
            backlog: Vec::new(),
            declarations: Queue::standing().map(|queue| (queue, Declaration::Done)).collect(),
            refusals,
            declaring: JoinSet::new(),
        }
    }

    /// Publishes until the connection is lost, or is to be closed and nothing is left to confirm.
    pub async fn serve(&mut self, requests: &mut mpsc::Receiver<Request>) -> Ended {
        let mut draining = false;
        loop {
            let idle = self.confirms.is_empty() && self.declaring.is_empty();
            if draining && idle {
                return Ended::Closed;
            }
            let overdue_at = self.overdue_at();
            tokio::select! {
                biased;
                event = self.channel.events.recv() => match event {
                    Some(event) => {
                        if let Err(reason) = self.heard(event).await {
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
                        return Ended::Overdue(reason);
                    }
                }
                () = self.publishing.closing.cancelled(), if !draining => {
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
        let dead_at = oldest + self.publishing.confirm_deadline * REBUILD_AFTER;
        let stalled_at = oldest.max(self.last_confirm) + self.publishing.confirm_deadline;
        Some(if self.stalled { dead_at } else { stalled_at.min(dead_at) })
    }

    /// The moment of [`Session::overdue_at`] has come. `Some` if the connection counts as dead.
    fn overdue(&mut self) -> Option<String> {
        let age = self.confirms.oldest()?.elapsed();
        let deadline = self.publishing.confirm_deadline;
        let silent_for = if age >= deadline * REBUILD_AFTER { deadline * REBUILD_AFTER } else { deadline };
        let reason = format!(
            "{}: no confirm for {silent_for:?}: cut off, overloaded, or out of memory or disk",
            self.link.endpoint
        );
        if silent_for > deadline {
            return Some(reason);
        }
        self.stalled = true;
        self.publishing.health.send_replace(Health::Down { reason });
        None
    }

    /// # Errors
    /// If the connection is lost.
    async fn heard(&mut self, event: ChannelEvent) -> Result<(), String> {
        match event {
            ChannelEvent::Confirmed { tag, multiple, held } => {
                if let Some(queue) = self.confirmed(tag, multiple, held) {
                    let (endpoint, key) = (&self.link.endpoint, queue.key());
                    return Err(format!("{endpoint}: queue `{key}` refuses everything: is its leader gone?"));
                }
                for request in std::mem::take(&mut self.backlog) {
                    self.take(request).await?;
                }
                Ok(())
            }
            ChannelEvent::Returned { message_id, reason } => {
                let tag =
                    message_id.as_deref().and_then(|id| id.rsplit_once(':')).and_then(|(_, tag)| tag.parse().ok());
                if let Some(tag) = tag {
                    self.confirms.returned(tag, reason);
                }
                Ok(())
            }
            ChannelEvent::Closed { reason, .. } => Err(format!("{}: {reason}", self.link.endpoint)),
        }
    }

    /// Answers those whose messages are confirmed. `Some` if a queue's refusals cost the connection.
    fn confirmed(&mut self, tag: u64, multiple: bool, held: bool) -> Option<Queue> {
        self.last_confirm = Instant::now();
        self.confirmed_any = true;
        let endpoint = &self.link.endpoint;
        if std::mem::take(&mut self.stalled) {
            self.publishing.health.send_replace(Health::Up { endpoint: endpoint.clone() });
        }
        let declarations = &mut self.declarations;
        let losses = &self.publishing.losses;
        let refusals = &mut self.refusals;
        let mut refusing = None;
        let tell = |waiter: Waiter, verdict| {
            let key = waiter.queue.key();
            let answer = match verdict {
                Verdict::Held => {
                    refusals.held(waiter.queue);
                    Ok(())
                }
                Verdict::Refused => {
                    if refusals.refused(waiter.queue, Instant::now()) {
                        refusing = Some(waiter.queue);
                    }
                    Err(not_taken(format!("{endpoint}: queue `{key}` refused it")))
                }
                Verdict::Returned(reason) => {
                    let reason = format!("{endpoint}: queue `{key}`: {reason}");
                    // Somebody deleted the queue. What was sent before it was declared anew says nothing.
                    if let Some(Declaration::Done) = declarations.get(&waiter.queue) {
                        let missing =
                            Declaration::Impossible { reason: reason.clone(), until: Instant::now() + REDECLARE_AFTER };
                        declarations.insert(waiter.queue, missing);
                        losses.found_missing(waiter.queue);
                    }
                    Err(not_taken(reason))
                }
            };
            // Whoever does not wait any more was told that its fate is unknown.
            let _ = waiter.reply.send(answer);
        };
        self.confirms.confirmed(tag, multiple, held, tell);
        refusing
    }

    /// # Errors
    /// If the connection is lost.
    async fn take(&mut self, request: Request) -> Result<(), String> {
        if !self.confirmed_any && !self.confirms.is_empty() {
            if self.cautious {
                request.refuse(&format!("{}: confirms stopped coming, one message is trying", self.link.endpoint));
            } else {
                self.backlog.push(request);
            }
            return Ok(());
        }
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
                let namespace = self.publishing.namespace.clone();
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
                self.publishing.losses.found(queue);
                self.declarations.insert(queue, Declaration::Done);
                for request in waiting {
                    self.take(request).await?;
                }
                return Ok(());
            }
            Err(SetUpError::Passing(reason) | SetUpError::Missing(reason)) => {
                format!("{}: {reason}", self.link.endpoint)
            }
            Err(SetUpError::Differs(reason)) => {
                let reason = format!("{}: {reason}", self.link.endpoint);
                self.publishing.connector.complain(Trouble::Differs, &reason);
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
        let arguments = BasicPublishArguments::new(self.publishing.namespace.exchange(), &request.queue.key())
            .mandatory(true)
            .finish();
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
    pub fn fail_all(&mut self, reason: &str) {
        for waiter in std::mem::replace(&mut self.confirms, Confirms::new()).into_waiters() {
            let _ = waiter.reply.send(Err(unknown(reason)));
        }
        for request in self.backlog.drain(..) {
            request.refuse(reason);
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
    let (channel, mut events) = open_channel(&connection).await.map_err(SetUpError::passing)?;
    declare(&channel, &mut events, &namespace, [queue].into_iter()).await?;
    channel.close().await.map_err(SetUpError::passing)
}

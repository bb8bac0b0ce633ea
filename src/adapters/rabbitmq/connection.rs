//! Opens connections, tries again while it cannot, and notices when one is lost. Knows nothing of orders.
//!
//! # Failure handling
//! amqprs brings nothing back by itself, has no deadline of its own, and does not bear that a call which awaits an
//! answer is dropped: the answer then finds nobody and takes the channel's dispatcher with it. So every such call runs
//! in a task of its own, which is left behind when its time is over ([`within`]); it ends with its connection.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use amqprs::Close;
use amqprs::callbacks::ConnectionCallback;
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::error::Error;
use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::RabbitOptions;
use super::channel::SetUpError;
use super::url::{Address, parse_url};

/// The wait after the first failure; doubled up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// For everything that follows the handshake. Declaring six quorum queues for the first time took a busy cluster of two
/// cores about three seconds.
const SET_UP_LIMIT: Duration = Duration::from_secs(15);
/// How often a connection is asked whether it is open: its own signal can be missed, and then never comes.
const POLL_OPEN: Duration = Duration::from_millis(500);
/// With less than two seconds amqprs' writer spins.
const HEARTBEAT_MIN_SECS: u16 = 2;
/// Runs an amqprs call that awaits an answer, for at most `limit`. After that it goes on alone.
///
/// # Errors
/// If it took too long or panicked.
pub(super) async fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = T> + Send + 'static,
) -> Result<T, String> {
    match timeout(limit, tokio::spawn(call)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(broken)) => Err(format!("{what} broke off: {broken}")),
        Err(_) => Err(format!("{what} took longer than {limit:?}")),
    }
}

/// Whether a connection can be used, and if not, why.
#[derive(Clone, Debug)]
pub(super) enum Health {
    Up { endpoint: String },
    Down { reason: String },
}

/// What is complained about.
#[derive(Clone, Copy)]
pub(super) enum Trouble {
    OutOfReach,
    /// A connection that was up.
    Lost,
    /// Somebody has to delete what is there.
    Differs,
}

/// No node gave a usable connection.
pub(super) struct Refused {
    pub trouble: Trouble,
    /// What each of them said.
    pub reason: String,
}

/// How long to wait before the next try.
#[derive(Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The connection was of use: the next one may be tried at once.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait before the next try, which is counted as failed until [`Backoff::reset`]. `jitter` lies in 0..1.
    fn next(&mut self, jitter: f64) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else {
            self.failures = 1;
            return Duration::ZERO;
        };
        self.failures = self.failures.saturating_add(1);
        let longest = BACKOFF_MIN.saturating_mul(1 << doublings.min(16)).min(BACKOFF_MAX);
        longest.mul_f64(0.5 + 0.5 * jitter)
    }
}

/// Knows the nodes, and opens connections to one after the other.
pub(super) struct Connector {
    urls: Vec<String>,
    connect_timeout: Duration,
    heartbeat_secs: u16,
    connection_name: String,
    /// Counts up; names the node to try first. Shared, so that connections spread over the nodes.
    turn: AtomicUsize,
    /// What was last complained about, and when: several connections that fail for one reason make one line of log.
    complaint: Mutex<Option<(String, Instant)>>,
}

impl Connector {
    pub fn new(options: &RabbitOptions) -> Self {
        Connector {
            urls: options.urls.clone(),
            connect_timeout: options.connect_timeout,
            heartbeat_secs: options.heartbeat_secs,
            connection_name: options.connection_name.clone(),
            // Processes that start together are not to choose the same node.
            turn: AtomicUsize::new(usize::from(rand::random::<u16>())),
            complaint: Mutex::new(None),
        }
    }

    /// What a connection is before its first try has succeeded or failed.
    pub fn not_connected_yet(&self) -> Health {
        let endpoints: Vec<String> =
            self.urls.iter().filter_map(|url| parse_url(url).ok()).map(|address| address.to_string()).collect();
        Health::Down { reason: format!("{}: not connected yet", endpoints.join(", ")) }
    }

    /// Opens a connection for `purpose` and sets it up, and does not return before that has succeeded. May be dropped.
    pub async fn connect<S, F>(
        &self,
        purpose: &str,
        backoff: &mut Backoff,
        health: &watch::Sender<Health>,
        set_up: impl Fn(Connection) -> F,
    ) -> (Link, S)
    where
        S: Send + 'static,
        F: Future<Output = Result<S, SetUpError>> + Send + 'static,
    {
        loop {
            sleep(backoff.next(rand::random())).await;
            match self.connect_once(purpose, &set_up).await {
                Ok((link, state)) => {
                    let endpoint = link.endpoint.clone();
                    health.send_replace(Health::Up { endpoint });
                    return (link, state);
                }
                Err(Refused { trouble, reason }) => {
                    self.complain(trouble, &reason);
                    health.send_replace(Health::Down { reason });
                }
            }
        }
    }

    /// Tries each node once, until a connection for `purpose` is open and set up.
    ///
    /// # Errors
    /// [`Refused`], if no node gives one. It is not logged.
    pub async fn connect_once<S, F>(
        &self,
        purpose: &str,
        set_up: &impl Fn(Connection) -> F,
    ) -> Result<(Link, S), Refused>
    where
        S: Send + 'static,
        F: Future<Output = Result<S, SetUpError>> + Send + 'static,
    {
        // One turn for the whole round: with a turn for each try, two connections that try at once could each get the same
        // node twice and never the other.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut reasons = Vec::with_capacity(self.urls.len());
        let mut differs = false;
        for n in 0..self.urls.len() {
            match self.open_node(turn.wrapping_add(n) % self.urls.len(), purpose, set_up).await {
                Ok((link, state)) => {
                    tracing::info!("RabbitMQ {} connected, for {purpose}", link.endpoint);
                    return Ok((link, state));
                }
                Err((endpoint, error)) => {
                    differs |= matches!(error, SetUpError::Differs(_));
                    reasons.push(format!("{endpoint}: {}", error.into_reason()));
                }
            }
        }
        if reasons.is_empty() {
            reasons.push("no address is set".into());
        }
        // The order in which the nodes had their turn makes no other complaint.
        reasons.sort();
        let trouble = if differs { Trouble::Differs } else { Trouble::OutOfReach };
        Err(Refused { trouble, reason: reasons.join("; ") })
    }

    async fn open_node<S, F>(
        &self,
        node: usize,
        purpose: &str,
        set_up: &impl Fn(Connection) -> F,
    ) -> Result<(Link, S), (String, SetUpError)>
    where
        S: Send + 'static,
        F: Future<Output = Result<S, SetUpError>> + Send + 'static,
    {
        let address = parse_url(&self.urls[node])
            .map_err(|error| (format!("address {}", node + 1), SetUpError::Passing(error)))?;
        let failed = |error| (address.to_string(), error);
        let link = self.open(&address, purpose).await.map_err(|reason| failed(SetUpError::Passing(reason)))?;
        match within(SET_UP_LIMIT, "declaring", set_up(link.connection.clone())).await {
            Ok(Ok(state)) => Ok((link, state)),
            Ok(Err(error)) => {
                link.abandon();
                Err(failed(error))
            }
            Err(reason) => {
                let reason = link.reason_to_close().cloned().unwrap_or(reason);
                link.abandon();
                Err(failed(SetUpError::Passing(reason)))
            }
        }
    }

    async fn open(&self, address: &Address, purpose: &str) -> Result<Link, String> {
        let heartbeat_secs = address.heartbeat_secs.unwrap_or(self.heartbeat_secs);
        let arguments = OpenConnectionArguments::new(&address.host, address.port, &address.user, &address.password)
            .virtual_host(&address.virtual_host)
            .heartbeat(heartbeat_secs.max(HEARTBEAT_MIN_SECS))
            .connection_name(&format!("{} {purpose}", self.connection_name))
            .finish();
        // This one call is ended when its time is over: a node that accepts and says nothing would keep it for ever, and
        // until the handshake is through there is no dispatcher to harm.
        let mut opening = tokio::spawn(async move { Connection::open(&arguments).await });
        let connection = match timeout(self.connect_timeout, &mut opening).await {
            Ok(Ok(Ok(connection))) => connection,
            Ok(Ok(Err(error))) => return Err(explain_refusal(&error)),
            Ok(Err(broken)) => return Err(format!("connecting broke off: {broken}")),
            Err(_) => {
                opening.abort();
                let limit = self.connect_timeout;
                return Err(format!("connecting took longer than {limit:?}"));
            }
        };
        Link::watch(connection, address.to_string()).await
    }

    /// Logs that RabbitMQ cannot be used, unless the same was said a moment ago.
    pub fn complain(&self, trouble: Trouble, reason: &str) {
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, at)) = &*complaint
            && last == reason
            && at.elapsed() < BACKOFF_MAX
        {
            return;
        }
        *complaint = Some((reason.to_owned(), Instant::now()));
        match trouble {
            Trouble::OutOfReach => tracing::warn!("RabbitMQ is out of reach: {reason}"),
            Trouble::Lost => tracing::warn!("RabbitMQ, connecting anew: {reason}"),
            Trouble::Differs => tracing::error!("RabbitMQ has something else: {reason}"),
        }
    }
}

/// What the operator can do something with.
fn explain_refusal(error: &Error) -> String {
    let text = error.to_string();
    // A virtual host that is not there: the broker's words are inside amqprs' picture of a frame.
    if let Some((_, words)) = text.split_once("reply_text: ShortStr(")
        && let Some(words) = words.split('"').nth(1)
    {
        return words.to_owned();
    }
    match error {
        Error::NetworkError(reason) => {
            let reason = reason.replace("network io error: ", "");
            // amqprs does not announce that it would understand a refusal of the login, so the broker just hangs up.
            if reason.contains("reset") || reason.contains("shutdown") {
                format!("{reason} during the handshake: wrong user or password?")
            } else {
                reason
            }
        }
        _ => text,
    }
}

/// An open connection.
pub(super) struct Link {
    pub connection: Connection,
    pub endpoint: String,
    /// Cancelled when the connection is no longer open, for whatever reason.
    pub lost: CancellationToken,
    reason: Arc<OnceLock<String>>,
}

impl Link {
    async fn watch(connection: Connection, endpoint: String) -> Result<Link, String> {
        let reason = Arc::new(OnceLock::new());
        let lost = CancellationToken::new();
        let watched = connection.clone();
        tokio::spawn({
            let lost = lost.clone();
            async move {
                let signal = watched.listen_network_io_failure();
                tokio::pin!(signal);
                while watched.is_open() {
                    if timeout(POLL_OPEN, &mut signal).await.is_ok() {
                        break;
                    }
                }
                lost.cancel();
            }
        });
        let callback = ReasonToClose(Arc::clone(&reason));
        let link = Link { connection, endpoint, lost, reason };
        let registered = link.connection.register_callback(callback).await;
        registered.map_err(|_| "the connection was lost as soon as it was open")?;
        Ok(link)
    }

    /// What the broker said when it closed the connection.
    fn reason_to_close(&self) -> Option<&String> {
        self.reason.get()
    }

    /// Why the connection is no longer open, with its endpoint.
    pub fn why_lost(&self) -> String {
        let reason = self.reason.get().map_or("the connection was lost", |text| text);
        format!("{}: {reason}", self.endpoint)
    }

    /// Closes the connection and waits until the broker has taken note, for at most `limit`. What was sent before
    /// arrives before.
    pub async fn close(self, limit: Duration) {
        let connection = self.connection.clone();
        // Whether the broker answers or not, nothing more can be done.
        let _ = within(limit, "closing", connection.close()).await;
    }

    /// Closes the connection without waiting. If its peer is silent, it stays until the heartbeats are missed.
    pub fn abandon(self) {
        drop(self);
    }
}

/// Whoever was to use it may be gone in the middle of its making. Left open it would go on taking messages, and nobody would
/// settle them: amqprs closes a connection with its last handle, and the task that watches it has one.
impl Drop for Link {
    fn drop(&mut self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Nothing, if it is closed already.
            runtime.spawn(self.connection.clone().close());
        }
    }
}

struct ReasonToClose(Arc<OnceLock<String>>);

#[async_trait]
impl ConnectionCallback for ReasonToClose {
    async fn close(&mut self, _: &Connection, close: Close) -> Result<(), Error> {
        // The first reason is the true one.
        let _ = self.0.set(close.reply_text().clone());
        Ok(())
    }

    /// Never comes: amqprs does not announce that it could understand it. An overdue confirm has to do.
    async fn blocked(&mut self, _: &Connection, _: String) {}

    async fn unblocked(&mut self, _: &Connection) {}

    async fn secret_updated(&mut self, _: &Connection) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let mut waits = || backoff.next(1.0).as_millis();
        let first: Vec<u128> = (0..9).map(|_| waits()).collect();
        assert_eq!(first, [0, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        backoff.failures = u32::MAX;
        assert_eq!(backoff.next(0.0), BACKOFF_MAX / 2);
        backoff.reset();
        assert_eq!(backoff.next(1.0), Duration::ZERO);
    }

    #[test]
    fn a_refused_virtual_host_is_told_in_the_brokers_words() {
        let frame = r#"failed to open connection, reason: Close(MethodHeader { class_id: 10, method_id: 50 }, Close { reply_code: 530, reply_text: ShortStr(37, "NOT_ALLOWED - vhost nowhere not found"), class_id: 10 })"#;
        assert_eq!(explain_refusal(&Error::ConnectionOpenError(frame.into())), "NOT_ALLOWED - vhost nowhere not found");
    }
}

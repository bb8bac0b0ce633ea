//! Asks how many messages wait in a queue, on a connection of its own: whether it publishes and takes does not depend on
//! the answers, and a queue that is missing costs this connection only (the broker then closes the channel).
//!
//! The connection is opened when something is first asked, and kept.
//!
//! # Failure handling
//! A question takes at most [`LIMIT`]. If it fails, the connection is given up, and the next one opens another; it is
//! tried once at each node, without a wait for RabbitMQ to come back.

use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::Channel;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::channel::{ChannelEvent, SetUpError, explain, open_channel};
use super::connection::{Connector, Link, within};
use super::losses::Losses;
use super::topology::{Namespace, Queue};

/// How long a question may take, opening the connection and waiting for one's turn included.
const LIMIT: Duration = Duration::from_secs(5);
/// How long the broker may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// For the farewell when this side closes the connection.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub(super) struct Watching {
    pub connector: Arc<Connector>,
    pub namespace: Namespace,
    pub losses: Arc<Losses>,
    pub tasks: TaskTracker,
    pub closing: CancellationToken,
    /// One question at a time.
    pub open: Arc<Mutex<Option<Open>>>,
}

/// The connection that is kept.
pub(super) struct Open {
    link: Link,
    channel: Channel,
    events: mpsc::UnboundedReceiver<ChannelEvent>,
}

impl Watching {
    /// How many messages are ready in `queue`. A queue that is missing holds none; that it is missing is noted.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn count_ready(&self, queue: Queue) -> Result<u64, String> {
        if self.closing.is_cancelled() {
            return Err("closed".into());
        }
        let asking = async {
            let open = Arc::clone(&self.open).lock_owned().await;
            // A task of its own, which is left behind when the time is over or the caller goes away.
            let task = tokio::spawn(self.clone().ask(open, queue));
            task.await.unwrap_or_else(|broken| Err(format!("asking broke off: {broken}")))
        };
        timeout(LIMIT, asking).await.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
    }

    async fn ask(self, mut kept: OwnedMutexGuard<Option<Open>>, queue: Queue) -> Result<u64, String> {
        let usable = kept.take().filter(|open| !open.link.lost.is_cancelled());
        let mut open = match usable {
            Some(open) => open,
            None => self.open().await?,
        };
        let (channel, namespace) = (open.channel.clone(), self.namespace.clone());
        let counting = async move { namespace.count_ready(&channel, queue).await };
        let error = match within(ANSWER_LIMIT, "counting", counting).await {
            Ok(Ok(count)) => {
                self.losses.found(queue);
                *kept = Some(open);
                return Ok(count);
            }
            Ok(Err(error)) => {
                let what = format!("queue `{}`", self.namespace.queue_name(queue));
                explain(&what, &error, &mut open.events)
            }
            Err(reason) => SetUpError::Passing(reason),
        };
        let endpoint = open.link.endpoint.clone();
        open.link.abandon();
        match error {
            SetUpError::Missing(_) => {
                self.losses.found_missing(queue);
                Ok(0)
            }
            SetUpError::Passing(reason) | SetUpError::Differs(reason) => Err(format!("{endpoint}: {reason}")),
        }
    }

    async fn open(&self) -> Result<Open, String> {
        let set_up = |connection: amqprs::connection::Connection| async move {
            open_channel(&connection).await.map_err(SetUpError::passing)
        };
        let connected = self.connector.connect_once("watching", &set_up).await;
        let (link, (channel, events)) = connected.map_err(|refused| refused.reason)?;
        // Nobody asks any more when this side closes.
        let (connection, lost, closing) = (link.connection.clone(), link.lost.clone(), self.closing.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = lost.cancelled() => {}
                () = closing.cancelled() => {
                    // Whether the broker answers or not, nothing more can be done.
                    let _ = within(CLOSE_LIMIT, "closing", connection.close()).await;
                }
            }
        });
        Ok(Open { link, channel, events })
    }
}

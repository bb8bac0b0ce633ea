//! Channels: what the broker tells them by itself, and what is declared through them.
//!
//! # Failure handling
//! The broker refuses by closing the channel, and says why only then; amqprs tells the caller no more than that the
//! channel is gone. So the reason is taken from the channel's events ([`explain`]).
//!
//! A channel that the broker closed leaves its number occupied, so whoever loses a channel drops the whole connection.

use amqprs::callbacks::ChannelCallback;
use amqprs::channel::Channel;
use amqprs::connection::Connection;
use amqprs::error::Error;
use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, Nack, Return};
use async_trait::async_trait;
use tokio::sync::mpsc;

use super::topology::{Namespace, Queue};

/// 406, for instance to a declaration with other arguments than what is there.
const PRECONDITION_FAILED: u16 = 406;
/// 404, for instance to a question for a queue that is not there.
const NOT_FOUND: u16 = 404;

/// Why a connection that opened cannot be used.
pub(super) enum SetUpError {
    Passing(String),
    /// It is not there.
    Missing(String),
    /// Something is declared there already, and differs: somebody must delete it.
    Differs(String),
}

impl SetUpError {
    pub fn passing(error: Error) -> Self {
        SetUpError::Passing(error.to_string())
    }

    pub fn into_reason(self) -> String {
        match self {
            SetUpError::Passing(reason) | SetUpError::Missing(reason) | SetUpError::Differs(reason) => reason,
        }
    }
}

/// What the broker tells a channel by itself.
#[derive(Debug)]
pub(super) enum ChannelEvent {
    /// Publishes were confirmed (`held`) or refused.
    Confirmed {
        tag: u64,
        multiple: bool,
        held: bool,
    },
    /// A message that no queue takes came back.
    Returned {
        message_id: Option<String>,
        reason: String,
    },
    Closed {
        code: u16,
        reason: String,
    },
}

/// Opens a channel whose events come out of the receiver, which ends with the channel.
///
/// # Errors
/// amqprs' error.
pub(super) async fn open_channel(
    connection: &Connection,
) -> Result<(Channel, mpsc::UnboundedReceiver<ChannelEvent>), Error> {
    let channel = connection.open_channel(None).await?;
    // Unbounded, since a callback must not wait: it would hold up all that comes in. Bounded by what may be unconfirmed.
    let (sender, events) = mpsc::unbounded_channel();
    channel.register_callback(Events(sender)).await?;
    Ok((channel, events))
}

/// Declares the exchange and then `queues`, in their order, and says which one could not be.
///
/// # Errors
/// [`SetUpError::Differs`] if the broker has it with other arguments.
pub(super) async fn declare(
    channel: &Channel,
    events: &mut mpsc::UnboundedReceiver<ChannelEvent>,
    namespace: &Namespace,
    queues: impl Iterator<Item = Queue>,
) -> Result<(), SetUpError> {
    if let Err(error) = namespace.declare_exchange(channel).await {
        let what = format!("exchange `{}`", namespace.exchange());
        return Err(explain(&what, &error, events));
    }
    for queue in queues {
        if let Err(error) = namespace.declare_queue(channel, queue).await {
            let what = format!("queue `{}`", namespace.queue_name(queue));
            return Err(explain(&what, &error, events));
        }
    }
    Ok(())
}

/// Why the broker refused something: it closes the channel with its reason, amqprs only says that the channel is gone.
pub(super) fn explain(what: &str, error: &Error, events: &mut mpsc::UnboundedReceiver<ChannelEvent>) -> SetUpError {
    while let Ok(event) = events.try_recv() {
        if let ChannelEvent::Closed { code, reason } = event {
            let is_missing = code == NOT_FOUND && says_missing(&reason);
            let reason = format!("{what}: {reason}");
            return match code {
                PRECONDITION_FAILED => SetUpError::Differs(reason),
                _ if is_missing => SetUpError::Missing(reason),
                _ => SetUpError::Passing(reason),
            };
        }
    }
    SetUpError::Passing(format!("{what}: {error}"))
}

/// Whether the broker's 404 means that a queue or an exchange is not there. It says the same of a queue that is there and
/// cannot be reached ("home node … of durable queue … is down or inaccessible", "failed to perform operation on queue …
/// due to timeout"), and that one has lost nothing.
fn says_missing(reason: &str) -> bool {
    ["no queue '", "no exchange '"].iter().any(|words| reason.contains(words))
}

struct Events(mpsc::UnboundedSender<ChannelEvent>);

impl Events {
    fn tell(&self, event: ChannelEvent) {
        // Nobody listens any more when the connection is being given up.
        let _ = self.0.send(event);
    }
}

#[async_trait]
impl ChannelCallback for Events {
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> Result<(), Error> {
        self.tell(ChannelEvent::Closed { code: close.reply_code(), reason: close.reply_text().clone() });
        Ok(())
    }

    /// `Ok` ends the consumer's receiver, which is how the consumer learns of it.
    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), Error> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, Error> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.tell(ChannelEvent::Confirmed { tag: ack.delivery_tag(), multiple: ack.mutiple(), held: true });
    }

    async fn publish_nack(&mut self, _: &Channel, nack: Nack) {
        self.tell(ChannelEvent::Confirmed { tag: nack.delivery_tag(), multiple: nack.multiple(), held: false });
    }

    async fn publish_return(&mut self, _: &Channel, returned: Return, properties: BasicProperties, _: Vec<u8>) {
        self.tell(ChannelEvent::Returned {
            message_id: properties.message_id().cloned(),
            reason: returned.reply_text().clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_is_missing() {
        for (code, reason, is_missing) in [
            (404, "NOT_FOUND - no queue 'ns.ending' in vhost '/'", true),
            (404, "NOT_FOUND - no exchange 'ns' in vhost '/'", true),
            (
                404,
                "NOT_FOUND - home node 'rabbit@b' of durable queue 'ns.ending' in vhost '/' is down or inaccessible",
                false,
            ),
            (404, "NOT_FOUND - failed to perform operation on queue 'ns.ending' in vhost '/' due to timeout", false),
            (403, "ACCESS_REFUSED - no queue 'ns.ending' in vhost '/'", false),
        ] {
            let (sender, mut events) = mpsc::unbounded_channel();
            sender.send(ChannelEvent::Closed { code, reason: reason.into() }).unwrap();
            let error = explain("queue `ns.ending`", &Error::ChannelUseError("closed".into()), &mut events);
            assert_eq!(matches!(error, SetUpError::Missing(_)), is_missing, "{reason}");
            assert!(error.into_reason().contains(reason));
        }
    }
}

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

/// Why a connection that opened cannot be used.
pub(super) enum SetUpError {
    Passing(String),
    /// Something is declared there already, and differs: somebody must delete it.
    Differs(String),
}

impl SetUpError {
    pub fn into_reason(self) -> String {
        match self {
            SetUpError::Passing(reason) | SetUpError::Differs(reason) => reason,
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
            let reason = format!("{what}: {reason}");
            return if code == PRECONDITION_FAILED { SetUpError::Differs(reason) } else { SetUpError::Passing(reason) };
        }
    }
    SetUpError::Passing(format!("{what}: {error}"))
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

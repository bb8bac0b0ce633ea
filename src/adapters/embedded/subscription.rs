//! One subscription: hands messages of a queue to a worker and settles them.
//!
//! # Invariants
//! - At most `prefetch` of its messages are unsettled, those still in the channel included.
//! - A message stays unsettled until it is acked or given back; then its receipt counts for nothing.
//!
//! # When the worker drops the receiver
//! Messages it never saw go back to the queue; those it holds can still be settled. A channel does not tell which is
//! which, but the messages' bytes do ([`super::contents`]): the channel drops those it still has *after* it was closed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::contents::read;
use super::readers::Readers;
use super::sources::SourceQueue;
use crate::ports::{Delivery, Receipt, Settle, Unavailable};

/// Messages read at a time.
const READ_MAX: usize = 16;
/// Before a failed read is tried again.
const RETRY_WAIT: Duration = Duration::from_millis(250);
/// By then a dropped channel has dropped what was in it.
const DROP_WAIT: Duration = Duration::from_millis(50);
/// How often to look for messages whose worker dropped them without a word.
const ABANDONED_WAIT: Duration = Duration::from_secs(2);

pub(super) struct Subscription {
    number: u64,
    queue: Arc<SourceQueue>,
    acks: Arc<Acks>,
    prefetch: usize,
    unsettled: Mutex<Unsettled>,
    /// A message was settled.
    settled: Notify,
    closed: CancellationToken,
}

#[derive(Default)]
struct Unsettled {
    last_tag: u64,
    by_tag: HashMap<u64, Held>,
}

struct Held {
    id: i64,
    /// See [`super::contents::Message::dropped`].
    dropped: Arc<AtomicBool>,
}

impl Subscription {
    pub(super) fn new(
        number: u64,
        queue: Arc<SourceQueue>,
        acks: Arc<Acks>,
        prefetch: u16,
        closed: CancellationToken,
    ) -> Arc<Subscription> {
        Arc::new(Subscription {
            number,
            queue,
            acks,
            prefetch: usize::from(prefetch.max(1)),
            unsettled: Mutex::default(),
            settled: Notify::new(),
            closed,
        })
    }

    pub(super) fn prefetch(&self) -> usize {
        self.prefetch
    }

    fn unsettled(&self) -> MutexGuard<'_, Unsettled> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers into `channel`, which holds `prefetch` messages, until its receiver is dropped or the queues close.
    pub(super) async fn run(self: Arc<Self>, readers: Arc<Readers>, channel: mpsc::Sender<Delivery>) {
        let closed = self.closed.clone();
        loop {
            let next = async {
                let room = self.room().await;
                self.queue.take(&readers, room.min(READ_MAX)).await
            };
            let ids = tokio::select! {
                biased;
                () = closed.cancelled() => {
                    self.give_back_all();
                    return;
                }
                () = channel.closed() => break,
                ids = next => ids,
            };
            let delivered = match ids {
                Ok(ids) => self.deliver(&readers, &channel, ids).await,
                Err(error) => Err(error),
            };
            if let Err(error) = delivered {
                tracing::warn!(%error, "messages could not be read");
                tokio::time::sleep(RETRY_WAIT).await;
            }
        }
        drop(channel);
        self.give_back_unseen().await;
    }

    /// How many more messages may be delivered, when there may be any.
    async fn room(&self) -> usize {
        loop {
            let settled = self.settled.notified();
            let mut settled = std::pin::pin!(settled);
            settled.as_mut().enable();
            let room = self.prefetch.saturating_sub(self.unsettled().by_tag.len());
            if room > 0 {
                return room;
            }
            settled.await;
        }
    }

    async fn deliver(
        &self,
        readers: &Arc<Readers>,
        channel: &mpsc::Sender<Delivery>,
        ids: Vec<i64>,
    ) -> Result<(), Unavailable> {
        let wanted = ids.clone();
        let weak = channel.downgrade();
        let read = match readers.read(move |connection| read(connection, &wanted, &weak)).await {
            Ok(read) => read,
            Err(error) => {
                self.queue.give_back(&ids);
                return Err(error);
            }
        };
        self.queue.give_back(&ids[read.examined..]);
        for message in read.messages {
            let receipt = self.hold(message.id, message.dropped);
            let delivery = Delivery { receipt, contents: message.contents };
            // There is room: the channel holds as many as may be unsettled. An error means that the receiver is gone.
            if channel.try_send(delivery).is_err() {
                self.give_back(receipt);
            }
        }
        Ok(())
    }

    fn hold(&self, id: i64, dropped: Arc<AtomicBool>) -> Receipt {
        let mut unsettled = self.unsettled();
        unsettled.last_tag += 1;
        let tag = unsettled.last_tag;
        unsettled.by_tag.insert(tag, Held { id, dropped });
        Receipt { connection: self.number, tag }
    }

    fn release(&self, receipt: Receipt) -> Option<i64> {
        if receipt.connection != self.number {
            return None;
        }
        let held = self.unsettled().by_tag.remove(&receipt.tag)?;
        self.settled.notify_waiters();
        Some(held.id)
    }

    /// Whatever is not settled is for somebody else; receipts count for nothing from now on.
    fn give_back_all(&self) {
        self.give_back_where(|_| true);
    }

    fn give_back_where(&self, condition: impl Fn(&Held) -> bool) {
        let mut ids: Vec<i64> = Vec::new();
        self.unsettled().by_tag.retain(|_, held| {
            let keep = !condition(held);
            if !keep {
                ids.push(held.id);
            }
            keep
        });
        ids.sort_unstable();
        self.queue.give_back(&ids);
    }

    /// After the receiver was dropped.
    async fn give_back_unseen(self: Arc<Self>) {
        let mut wait = DROP_WAIT;
        loop {
            tokio::select! {
                () = self.closed.cancelled() => return self.give_back_all(),
                () = tokio::time::sleep(wait) => {}
            }
            // Nobody else has this any more: nobody can settle what is left.
            if Arc::strong_count(&self) == 1 {
                return self.give_back_all();
            }
            self.give_back_where(|held| held.dropped.load(Ordering::Acquire));
            if self.unsettled().by_tag.is_empty() {
                return;
            }
            // What is left is held; should the worker drop it and forget it, somebody else is to have it.
            wait = ABANDONED_WAIT;
        }
    }
}

impl Settle for Subscription {
    fn ack(&self, receipt: Receipt) {
        if let Some(id) = self.release(receipt) {
            self.acks.add(id);
        }
    }

    fn give_back(&self, receipt: Receipt) {
        if let Some(id) = self.release(receipt) {
            self.queue.give_back(&[id]);
        }
    }
}

//! The queues.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use ordering::domain::{Event, OrderRecord, Timestamp};
use ordering::ports::{
    DeadLetter, DeadSubscription, Delivery, EventSubscription, Place, PublishError, Queues, Receipt, Settle, Source,
    Subscription, Unavailable,
};
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Message, Part, Process, queue};

struct Settler(Process);

impl Settle for Settler {
    fn ack(&self, receipt: Receipt) {
        // A frozen process acks nothing; a woken one acks on a connection that is gone.
        let (process, current) = (&self.0, self.0.connection.load(Ordering::Relaxed));
        if !process.is_frozen() && receipt.connection == current {
            process.world.state.lock().unwrap().held.remove(&(receipt.connection, receipt.tag));
        }
    }

    fn give_back(&self, receipt: Receipt) {
        let (process, current) = (&self.0, self.0.connection.load(Ordering::Relaxed));
        if process.is_frozen() || receipt.connection != current {
            return;
        }
        let mut state = process.world.state.lock().unwrap();
        if let Some((queue, message)) = state.held.remove(&(receipt.connection, receipt.tag)) {
            state.queues.entry(queue).or_default().push_front(message);
        }
        drop(state);
        process.world.moved.notify_waiters();
    }
}

#[async_trait]
impl Queues for Process {
    async fn publish(&self, place: Place, orders: &[OrderRecord]) -> Result<(), PublishError> {
        let (queue, wait) = match place {
            Place::Stage(stage) => (queue(Source::Stage(stage)), Duration::ZERO),
            Place::Delayed(stage, delay) => (queue(Source::Stage(stage)), delay.as_duration()),
            Place::Ending => (queue(Source::Ending), Duration::ZERO),
        };
        let ready_at = Instant::now() + wait;
        self.world
            .effect(self, Part::Queues, |state| {
                let message = Message { orders: orders.to_vec(), ready_at };
                state.0.queues.entry(queue).or_default().push_back(message);
            })
            .await
            .map_err(|(done, unavailable)| match done {
                true => PublishError::Unknown(unavailable),
                false => PublishError::NotTaken(unavailable),
            })
    }

    async fn publish_at(&self, _at: Timestamp, _order: &OrderRecord) -> Result<(), PublishError> {
        unreachable!("there is a journal")
    }

    fn takes(&self) -> Result<(), Unavailable> {
        let state = self.world.state.lock().unwrap();
        match state.down.get(&Part::Queues).is_some_and(|until| Instant::now() < *until) {
            true => Err(Unavailable::new("simulation", "no broker")),
            false => Ok(()),
        }
    }

    fn subscribe(&self, source: Source, prefetch: u16) -> Subscription {
        let (sender, deliveries) = mpsc::channel(usize::from(prefetch));
        let process = self.clone();
        tokio::spawn(async move {
            loop {
                process.alive().await;
                let Ok(place) = sender.reserve().await else {
                    return;
                };
                let moved = process.world.moved.notified();
                let now = Instant::now();
                let next_ready = {
                    let mut state = process.world.state.lock().unwrap();
                    let messages = state.queues.entry(queue(source)).or_default();
                    let ready: Vec<usize> = (0..messages.len()).filter(|n| messages[*n].ready_at <= now).collect();
                    let next_ready = messages.iter().map(|message| message.ready_at).min();
                    if ready.is_empty() || process.is_frozen() {
                        next_ready.filter(|at| *at > now)
                    } else {
                        // Not always the first: queues of several consumers promise no order.
                        let pick = state.rng.random_range(0..ready.len().min(3));
                        let mut message = state.queues.get_mut(&queue(source)).unwrap().remove(ready[pick]).unwrap();
                        // Since when it is held; given back it is ready at once.
                        message.ready_at = now;
                        let connection = process.connection.load(Ordering::Relaxed);
                        let tag = process.world.tags.fetch_add(1, Ordering::Relaxed);
                        let contents = Ok(message.orders.clone());
                        state.held.insert((connection, tag), (queue(source), message));
                        place.send(Delivery { receipt: Receipt { connection, tag }, contents });
                        continue;
                    }
                };
                let next_ready = next_ready.unwrap_or(now + Duration::from_secs(3600));
                tokio::select! {
                    biased;
                    () = moved => {}
                    () = tokio::time::sleep_until(next_ready) => {}
                    () = sender.closed() => return,
                }
            }
        });
        Subscription { deliveries, settle: Arc::new(Settler(self.clone())) }
    }

    async fn bury(&self, _letter: &DeadLetter) -> Result<(), PublishError> {
        let buried = self.world.effect(self, Part::Queues, |state| state.0.buried += 1).await;
        buried.map_err(|(_, unavailable)| PublishError::Unknown(unavailable))
    }

    fn dead_letters(&self, _prefetch: u16) -> Option<DeadSubscription> {
        None
    }

    async fn publish_events(&self, events: &[Event]) -> Result<(), PublishError> {
        let told = self.world.effect(self, Part::Queues, |state| {
            for event in events {
                state.0.told.entry((event.order, event.sequence)).or_insert(event.kind);
            }
        });
        told.await.map_err(|(_, unavailable)| PublishError::Unknown(unavailable))
    }

    fn events(&self, _prefetch: u16) -> Option<EventSubscription> {
        None
    }

    async fn replay(&self, _source: Source, _bytes: &bytes::Bytes) -> Result<(), PublishError> {
        unreachable!("nobody replays here")
    }

    async fn waiting(&self, source: Source) -> Result<u64, Unavailable> {
        let waiting = self.world.effect(self, Part::Queues, |state| {
            let now = Instant::now();
            let messages = state
                .0
                .queues
                .get(&queue(source))
                .map_or(0, |messages| messages.iter().filter(|message| message.ready_at <= now).count());
            messages as u64
        });
        waiting.await.map_err(|(_, unavailable)| unavailable)
    }

    fn take_losses(&self) -> Vec<Source> {
        match self.is_frozen() {
            true => Vec::new(),
            false => std::mem::take(&mut self.world.state.lock().unwrap().losses),
        }
    }

    async fn check(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn close(&self) {}
}

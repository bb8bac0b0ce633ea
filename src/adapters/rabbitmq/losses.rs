//! Which queues were found missing, and the look for them before anything is declared.
//!
//! A queue that is declared anew says nothing of the one that was there before, and what that one held is lost. So
//! whoever declares queues looks first whether they are there. Of several connections and processes that come back to an
//! empty broker at once, one is the first to find something missing, and it tells; those after it find what that one
//! has declared, or find it missing as well.
//!
//! The queue of a delay is declared when it is first used, and nobody can tell one that was deleted from one that was
//! never there. That it is gone shows in a publish that comes back, or in the exchange that is gone with it.
//!
//! # Invariants
//! - Nothing is declared sooner than [`REDECLARE_AFTER`] after it was found missing, but for an exchange that was not
//!   there when the process came: an installation's first start does not wait.
//! - One loss is told once, even if several connections find it, unless it lasts longer than [`SAME_LOSS_FOR`].

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use amqprs::channel::Channel;
use amqprs::connection::Connection;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::channel::{ChannelEvent, SetUpError, declare, explain, open_channel};
use super::topology::{Namespace, Queue, REDECLARE_AFTER};
use crate::ports::Source;

/// A queue that is found missing once more within this time has not been lost once more: it takes about as long until
/// every connection of a process has noticed and the queue is declared.
const SAME_LOSS_FOR: Duration = Duration::from_secs(5);

/// What one process has found missing.
#[derive(Default)]
pub(super) struct Losses(Mutex<State>);

#[derive(Default)]
struct State {
    /// Found missing and not asked for yet.
    untold: Vec<Source>,
    /// Found missing and not seen since, and when that was noticed.
    missing: HashMap<Queue, Instant>,
    has_declared: bool,
}

impl State {
    fn note(&mut self, queue: Queue, now: Instant) {
        if self.is_known(queue, now) {
            return;
        }
        self.missing.insert(queue, now);
        if let Some(source) = queue.source()
            && !self.untold.contains(&source)
        {
            self.untold.push(source);
        }
    }

    fn is_known(&self, queue: Queue, now: Instant) -> bool {
        self.missing.get(&queue).is_some_and(|noticed_at| now.duration_since(*noticed_at) < SAME_LOSS_FOR)
    }
}

impl Losses {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sources whose queues were found missing since the last call.
    pub fn take(&self) -> Vec<Source> {
        std::mem::take(&mut self.state().untold)
    }

    /// A queue is not there, and was or should have been.
    pub fn found_missing(&self, queue: Queue) {
        self.state().note(queue, Instant::now());
    }

    /// The exchange is not there: whoever or whatever took it took the queues as well.
    fn found_nothing(&self) {
        let mut state = self.state();
        let now = Instant::now();
        // Nobody of this process can have consumed from what was there.
        let noticed_at = if state.has_declared { now } else { now.checked_sub(REDECLARE_AFTER).unwrap_or(now) };
        for queue in Queue::standing() {
            state.note(queue, noticed_at);
        }
    }

    /// A queue is there: if it is found missing from now on, it has been lost once more.
    pub fn found(&self, queue: Queue) {
        self.state().missing.remove(&queue);
    }

    /// Looks for the exchange and `queues`, and then declares them; gives the channel through which that was done.
    ///
    /// # Errors
    /// [`SetUpError`].
    pub async fn look_and_declare(
        &self,
        connection: &Connection,
        namespace: &Namespace,
        queues: &[Queue],
    ) -> Result<(Channel, mpsc::UnboundedReceiver<ChannelEvent>), SetUpError> {
        self.look(connection, namespace, queues).await?;
        if let Some(at) = self.declarable_at(queues) {
            sleep_until(at.into()).await;
        }
        let (channel, mut events) = open_channel(connection).await.map_err(SetUpError::passing)?;
        declare(&channel, &mut events, namespace, queues.iter().copied()).await?;
        let mut state = self.state();
        state.has_declared = true;
        for queue in queues {
            state.missing.remove(queue);
        }
        drop(state);
        Ok((channel, events))
    }

    /// # Errors
    /// [`SetUpError`]: nobody knows what is there.
    async fn look(&self, connection: &Connection, namespace: &Namespace, queues: &[Queue]) -> Result<(), SetUpError> {
        let (mut channel, mut events) = open_channel(connection).await.map_err(SetUpError::passing)?;
        if let Err(error) = namespace.find_exchange(&channel).await {
            let what = format!("exchange `{}`", namespace.exchange());
            return match explain(&what, &error, &mut events) {
                SetUpError::Missing(_) => {
                    tracing::info!("RabbitMQ has no exchange `{}`: all is declared", namespace.exchange());
                    self.found_nothing();
                    Ok(())
                }
                error @ (SetUpError::Passing(_) | SetUpError::Differs(_)) => Err(error),
            };
        }
        for queue in queues.iter().copied() {
            if self.state().is_known(queue, Instant::now()) {
                continue;
            }
            let Err(error) = namespace.count_ready(&channel, queue).await else { continue };
            let what = format!("queue `{}`", namespace.queue_name(queue));
            match explain(&what, &error, &mut events) {
                SetUpError::Missing(_) => {
                    tracing::info!("RabbitMQ has no {what}: it is declared anew");
                    self.found_missing(queue);
                    // The number of the old one stays taken: no more of them than there are queues, on a connection that
                    // may have 2,047.
                    (channel, events) = open_channel(connection).await.map_err(SetUpError::passing)?;
                }
                error @ (SetUpError::Passing(_) | SetUpError::Differs(_)) => return Err(error),
            }
        }
        channel.close().await.map_err(SetUpError::passing)
    }

    /// When those of `queues` that are missing may be declared.
    fn declarable_at(&self, queues: &[Queue]) -> Option<Instant> {
        let state = self.state();
        let noticed_at = queues.iter().filter_map(|queue| state.missing.get(queue)).max()?;
        Some(*noticed_at + REDECLARE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Delay, Stage};
    use crate::ports::Place;

    const PROCESSING: Source = Source::Stage(Stage::Processing);

    #[test]
    fn a_loss_is_told_once_until_the_queue_was_there_again() {
        let losses = Losses::default();
        let queue = Queue::from(PROCESSING);
        losses.found_missing(queue);
        losses.found_missing(queue);
        assert_eq!(losses.take(), [PROCESSING]);
        losses.found_missing(queue);
        assert_eq!(losses.take(), []);
        losses.found(queue);
        losses.found_missing(queue);
        assert_eq!(losses.take(), [PROCESSING]);
        // It has been missing for long: what was put there meanwhile by others is lost as well.
        let mut state = losses.state();
        state.note(queue, Instant::now() + SAME_LOSS_FOR);
        assert_eq!(state.untold, [PROCESSING]);
    }

    #[test]
    fn the_queue_of_a_delay_counts_for_its_stage_and_the_dead_letters_for_none() {
        let losses = Losses::default();
        losses.found_missing(Queue::Of(Place::Delayed(Stage::Processing, Delay::at_least(Duration::ZERO))));
        losses.found_missing(Queue::from(PROCESSING));
        losses.found_missing(Queue::Dead);
        assert_eq!(losses.take(), [PROCESSING]);
    }

    #[test]
    fn what_was_found_missing_is_not_declared_at_once_but_at_the_first_start() {
        let losses = Losses::default();
        let queues: Vec<Queue> = Queue::standing().collect();
        assert_eq!(losses.declarable_at(&queues), None);
        losses.found_nothing();
        assert!(losses.declarable_at(&queues).is_some_and(|at| at <= Instant::now()));
        for queue in &queues {
            losses.found(*queue);
        }
        losses.state().has_declared = true;
        let before = Instant::now();
        losses.found_nothing();
        assert!(losses.declarable_at(&queues).is_some_and(|at| at >= before + REDECLARE_AFTER));
        let mut told = losses.take();
        let mut all: Vec<Source> = Source::all().collect();
        told.sort_by_key(|source| Queue::from(*source).key());
        all.sort_by_key(|source| Queue::from(*source).key());
        assert_eq!(told, all);
    }
}

//! What each queue still has to hand out, as far as it needs to be known in memory.
//!
//! # Invariants
//! - A message that is not settled is in exactly one place: behind `read_up_to` in the database, in `loaded`, on its way
//!   from there into a subscription, or unsettled in one.
//! - Ids only grow, and commits come in their order (one writer), so reading on from `read_up_to` misses nothing.
//! - `loaded` holds ids, not messages, and no more of them than a page, whatever waits (those given back come on top,
//!   and are bounded by what the subscriptions may hold).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::messages;
use super::readers::Readers;
use crate::ports::{Source, Unavailable};

/// Ids read at a time.
const PAGE: usize = 256;

/// A message that was put into a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) source: Source,
    pub(super) id: i64,
}

/// All queues.
pub(super) struct Sources {
    stages: Vec<Arc<SourceQueue>>,
}

impl Sources {
    pub(super) fn new() -> Sources {
        Sources { stages: Source::all().map(|source| Arc::new(SourceQueue::new(source))).collect() }
    }

    pub(super) fn of(&self, source: Source) -> &Arc<SourceQueue> {
        self.stages.iter().find(|queue| queue.source == source).expect("there is a queue for each source")
    }

    /// Takes note of a message that was committed.
    pub(super) fn arrived(&self, arrival: Arrival) {
        self.of(arrival.source).arrived(arrival.id);
    }
}

/// One queue.
pub(super) struct SourceQueue {
    source: Source,
    state: Mutex<State>,
    /// There may be something to take.
    changed: Notify,
    /// Held while a page is read.
    loading: tokio::sync::Mutex<()>,
}

struct State {
    loaded: VecDeque<i64>,
    read_up_to: i64,
    /// Whether the database may hold more after `read_up_to`.
    more: bool,
    /// Counts arrivals that were left in the database.
    left: u64,
}

impl SourceQueue {
    fn new(source: Source) -> SourceQueue {
        SourceQueue {
            source,
            state: Mutex::new(State { loaded: VecDeque::new(), read_up_to: 0, more: true, left: 0 }),
            changed: Notify::new(),
            loading: tokio::sync::Mutex::new(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self, id: i64) {
        let mut state = self.state();
        // A page that was read between the commit and this has it already.
        if id <= state.read_up_to {
            return;
        }
        if !state.more && state.loaded.len() < PAGE {
            state.loaded.push_back(id);
            state.read_up_to = id;
        } else {
            state.more = true;
            state.left += 1;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Puts messages back at the head, the first of `ids` first.
    pub(super) fn give_back(&self, ids: &[i64]) {
        if ids.is_empty() {
            return;
        }
        let mut state = self.state();
        for id in ids.iter().rev() {
            state.loaded.push_front(*id);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes up to `limit` messages, waiting for the first. May be dropped at any moment without losing one.
    ///
    /// # Errors
    /// [`Unavailable`], if the queue could not be read.
    pub(super) async fn take(&self, readers: &Arc<Readers>, limit: usize) -> Result<Vec<i64>, Unavailable> {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // From here on a change is not missed, even one before the first poll.
            changed.as_mut().enable();
            let more = {
                let mut state = self.state();
                let count = limit.min(state.loaded.len());
                if count > 0 {
                    return Ok(state.loaded.drain(..count).collect());
                }
                state.more
            };
            if more {
                self.load(readers).await?;
            } else {
                changed.await;
            }
        }
    }

    /// How many messages wait here: those at hand, and those the database has beyond. What is on its way into a
    /// subscription, or unsettled in one, is neither.
    ///
    /// # Errors
    /// [`Unavailable`], if the queue could not be read.
    pub(super) async fn waiting(&self, readers: &Arc<Readers>) -> Result<u64, Unavailable> {
        let (loaded, after) = {
            let state = self.state();
            (state.loaded.len() as u64, state.read_up_to)
        };
        let source = self.source;
        let beyond = readers.read(move |connection| messages::count_after(connection, source, after)).await?;
        Ok(loaded + beyond)
    }

    async fn load(&self, readers: &Arc<Readers>) -> Result<(), Unavailable> {
        let _loading = self.loading.lock().await;
        let (after, left_before) = {
            let state = self.state();
            if !state.more || !state.loaded.is_empty() {
                return Ok(()); // somebody else did
            }
            (state.read_up_to, state.left)
        };
        let source = self.source;
        let ids = readers.read(move |connection| messages::ids_after(connection, source, after, PAGE)).await?;
        let mut state = self.state();
        if let Some(last) = ids.last() {
            state.read_up_to = *last;
        }
        // What arrived while the page was read may have come too late for it.
        state.more = ids.len() == PAGE || state.left != left_before;
        state.loaded.extend(ids);
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::database::{FILE_NAME, open_writer};
    use super::*;

    #[tokio::test]
    async fn a_message_that_arrives_while_a_page_is_read_is_not_missed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        drop(open_writer(&path).unwrap());
        let readers = Arc::new(Readers::open(&path).unwrap());
        let queue = SourceQueue::new(Source::Ending);
        // No reader is free: the load has begun, and reads later.
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let busy: Vec<_> = (0..8)
            .map(|_| {
                let (readers, released) = (readers.clone(), released.clone());
                tokio::spawn(async move {
                    let block = move |_: &rusqlite::Connection| {
                        let _ = released.lock().unwrap().recv();
                        Ok(())
                    };
                    readers.read(block).await.unwrap();
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let mut load = std::pin::pin!(queue.load(&readers));
        assert!(futures_util::poll!(load.as_mut()).is_pending());
        queue.arrived(1);
        drop(release);
        load.await.unwrap();
        assert!(queue.state().more);
        queue.load(&readers).await.unwrap();
        assert!(!queue.state().more);
        for task in busy {
            task.await.unwrap();
        }
    }
}

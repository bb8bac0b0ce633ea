//! What the writer does by itself when its time comes: it moves messages that waited to their queues, and deletes the
//! in-flight records of orders that ended a while ago. In small steps, so that nobody waits long behind one.
//!
//! # Failure handling
//! A chore that fails is tried again after [`RETRY_WAIT`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::database::unavailable;
use super::sources::{Arrival, Sources};
use super::writer::{Operation, WriteError};
use super::{messages, rows};
use crate::domain::{Delay, Timestamp};
use crate::ports::{Clock, SystemClock, Unavailable};

const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Messages moved in one transaction: up to 256 KiB each.
const MOVED_MAX: u32 = 16;
/// Records deleted in one transaction: some milliseconds of work. With [`DELETE_PAUSE`], 40,000 a second.
const DELETED_MAX: u32 = 2_000;
const DELETE_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Chores {
    sources: Arc<Sources>,
    moving: Rest,
    deleting: Rest,
}

/// When a chore may run again.
#[derive(Default)]
struct Rest {
    until: Option<Instant>,
    failed: Arc<AtomicBool>,
}

impl Rest {
    /// How long until something due in `due_in` may be done.
    fn wait(&mut self, due_in: Duration) -> Duration {
        let now = Instant::now();
        if self.failed.swap(false, Ordering::Relaxed) {
            self.until = Some(now + RETRY_WAIT);
        }
        let rest = self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        due_in.max(rest)
    }
}

impl Chores {
    pub(super) fn new(sources: Arc<Sources>) -> Chores {
        Chores { sources, moving: Rest::default(), deleting: Rest::default() }
    }

    /// How long until [`Chores::due`] has something to do.
    pub(super) fn next_in(&mut self, connection: &Connection) -> Duration {
        let moving = self.moving_in(connection);
        moving.min(self.deleting_in(connection))
    }

    fn moving_in(&mut self, connection: &Connection) -> Duration {
        let now = SystemClock.now();
        let scheduled = due_in(messages::next_scheduled_at(connection), now).unwrap_or(Duration::MAX);
        let delayed = match due_in(messages::next_ready_at(connection), now) {
            // No wait is that long: the machine's clock was put back. It is over now.
            Some(due_in) if due_in > impossible_wait() => Duration::ZERO,
            Some(due_in) => due_in,
            None => Duration::MAX,
        };
        self.moving.wait(delayed.min(scheduled))
    }

    fn deleting_in(&mut self, connection: &Connection) -> Duration {
        let due_in = due_in(rows::next_expiry(connection), SystemClock.now());
        self.deleting.wait(due_in.unwrap_or(Duration::MAX))
    }

    /// The operations whose time has come.
    pub(super) fn due(&mut self, connection: &Connection) -> Vec<Box<dyn Operation>> {
        let mut operations: Vec<Box<dyn Operation>> = Vec::new();
        if self.moving_in(connection).is_zero() {
            operations.push(Box::new(Move {
                sources: self.sources.clone(),
                moved: Vec::new(),
                failed: self.moving.failed.clone(),
            }));
        }
        if self.deleting_in(connection).is_zero() {
            self.deleting.until = Some(Instant::now() + DELETE_PAUSE);
            operations.push(Box::new(Delete { failed: self.deleting.failed.clone() }));
        }
        operations
    }
}

/// Twice the longest wait there is: a clock that is only being adjusted lets nobody go early.
fn impossible_wait() -> Duration {
    let longest = Delay::all().map(Delay::as_duration).max();
    2 * longest.unwrap_or_default()
}

fn due_in(at: rusqlite::Result<Option<Timestamp>>, now: Timestamp) -> Option<Duration> {
    match at {
        Ok(at) => at.map(|at| at.since(now)),
        Err(error) => {
            tracing::warn!(error = %unavailable(&error), "cannot see what is due");
            None
        }
    }
}

struct Move {
    sources: Arc<Sources>,
    moved: Vec<Arrival>,
    failed: Arc<AtomicBool>,
}

impl Operation for Move {
    fn execute(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let now = SystemClock.now();
        self.moved = messages::move_ready(connection, now, now.after(impossible_wait()), MOVED_MAX)?;
        Ok(())
    }

    fn committed(self: Box<Self>) {
        for arrival in self.moved {
            self.sources.arrived(arrival);
        }
    }

    fn failed(self: Box<Self>, error: &WriteError) {
        note_failure(&self.failed, error, "delayed messages could not be moved");
    }
}

struct Delete {
    failed: Arc<AtomicBool>,
}

impl Operation for Delete {
    fn execute(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        rows::delete_expired(connection, SystemClock.now(), DELETED_MAX)
    }

    fn committed(self: Box<Self>) {}

    fn failed(self: Box<Self>, error: &WriteError) {
        note_failure(&self.failed, error, "expired records could not be deleted");
    }
}

fn note_failure(failed: &AtomicBool, error: &WriteError, what: &str) {
    failed.store(true, Ordering::Relaxed);
    let error = Unavailable::from(error.clone());
    tracing::debug!(%error, "{what}");
}

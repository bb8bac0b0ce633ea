//! The way to the one thread that writes (`group_commit`): hands operations to it and waits for the commit.
//!
//! It knows nothing of queues or orders: an operation is a closure over the connection.
//!
//! # Invariants
//! - Nobody is told that something was written before the commit that holds it has returned.
//! - Operations are carried out in the order they were handed in.
//! - What waits is bounded in bytes ([`WAITING_UNITS`]); past that, callers wait, until their deadline.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::chores::Chores;
use super::folder::FolderLock;
use super::group_commit::Thread;
use crate::ports::{PublishError, Unavailable};

/// How long a caller waits in all: for room, and for the commit.
const DEADLINE: Duration = Duration::from_secs(10);
/// What an operation counts for at least, in bytes; also the unit of the bound.
const UNIT_BYTES: usize = 4096;
/// What may wait to be written: 32 MiB.
const WAITING_UNITS: u32 = 8192;
/// A commit this young is proof enough that writing works.
const PROOF_AGE_MAX: Duration = Duration::from_secs(1);

/// Why something was not written.
#[derive(Clone, Debug)]
pub(super) enum WriteError {
    /// It is certainly not there.
    Undone(Unavailable),
    /// Perhaps it is.
    Unknown(Unavailable),
}

impl From<WriteError> for Unavailable {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Undone(unavailable) | WriteError::Unknown(unavailable) => unavailable,
        }
    }
}

impl From<WriteError> for PublishError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Undone(unavailable) => PublishError::NotTaken(unavailable),
            WriteError::Unknown(unavailable) => PublishError::Unknown(unavailable),
        }
    }
}

/// Something to be written.
pub(super) trait Operation: Send {
    /// Carries it out. Called again, from the start, if the transaction was undone.
    fn execute(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// It is on the disk.
    fn committed(self: Box<Self>);
    /// It is not, as far as is known.
    fn failed(self: Box<Self>, error: &WriteError);
}

pub(super) enum Job {
    Write {
        operation: Box<dyn Operation>,
        size_bytes: usize,
        /// Whether somebody waits for it.
        awaited: bool,
    },
    Stop,
}

/// Hands operations to the thread. It ends when the last handle is gone, or at [`Writer::stop`].
#[derive(Clone)]
pub(super) struct Writer {
    jobs: Sender<Job>,
    room: Arc<Semaphore>,
    health: Arc<Mutex<Health>>,
}

pub(super) struct Health {
    pub(super) committed_at: Instant,
    pub(super) failure: Option<Unavailable>,
    pub(super) warned_at: Option<Instant>,
    stopped: bool,
}

impl Writer {
    /// Starts the thread. It keeps `lock` until it has closed the file.
    pub(super) fn start(
        connection: Connection,
        lock: FolderLock,
        chores: Chores,
    ) -> std::io::Result<(Writer, std::thread::JoinHandle<()>)> {
        let (jobs, received) = channel();
        let health = Arc::new(Mutex::new(Health {
            committed_at: Instant::now(),
            failure: None,
            warned_at: None,
            stopped: false,
        }));
        let mut thread = Thread { connection, chores, health: health.clone() };
        let handle = std::thread::Builder::new().name("sqlite-writer".into()).spawn(move || {
            thread.run(received);
            thread.close();
            drop(lock);
        })?;
        let writer = Writer { jobs, room: Arc::new(Semaphore::new(WAITING_UNITS as usize)), health };
        Ok((writer, handle))
    }

    /// Carries `work` out and commits it. `size_bytes`: about what it holds in memory.
    ///
    /// # Errors
    /// [`WriteError`]; passing.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        size_bytes: usize,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, WriteError> {
        self.write_then(size_bytes, work, |_| ()).await
    }

    /// As [`Writer::write`]; `then` runs after the commit even if the caller has gone away by then.
    pub(super) async fn write_then<T: Send + 'static>(
        &self,
        size_bytes: usize,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, WriteError> {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let room = tokio::time::timeout_at(deadline, self.room_for(size_bytes))
            .await
            .map_err(|_| WriteError::Undone(Unavailable::new("SQLite", "too much waits to be written")))?;
        let (reply, answer) = oneshot::channel();
        self.hand_over(Job::Write {
            operation: Box::new(Awaited { work, then, result: None, reply: Reply(Some(reply)), _room: room }),
            size_bytes,
            awaited: true,
        });
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            // `Reply` always says something; should that ever change, this is the truth.
            Ok(Err(_)) => Err(WriteError::Unknown(Unavailable::new("SQLite", "the writer has failed"))),
            Err(_) => Err(WriteError::Unknown(Unavailable::new(
                "SQLite",
                format!("no commit within {} s", DEADLINE.as_secs()),
            ))),
        }
    }

    async fn room_for(&self, size_bytes: usize) -> OwnedSemaphorePermit {
        let units = u32::try_from(size_bytes / UNIT_BYTES + 1).unwrap_or(u32::MAX).min(WAITING_UNITS);
        self.room.clone().acquire_many_owned(units).await.expect("the semaphore is never closed")
    }

    /// Hands in something nobody waits for. The caller bounds how much of that there can be.
    pub(super) fn submit(&self, operation: Box<dyn Operation>) {
        self.hand_over(Job::Write { operation, size_bytes: 0, awaited: false });
    }

    fn hand_over(&self, job: Job) {
        // After the end the job comes back and is dropped, which tells whoever waits for it.
        let _ = self.jobs.send(job);
    }

    /// Writes out everything handed in before, closes the file and ends the thread.
    pub(super) fn stop(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.stopped = true;
        drop(health);
        self.hand_over(Job::Stop);
    }

    /// Whether writing works: a recent commit is taken as proof, otherwise a little is written.
    ///
    /// # Errors
    /// [`Unavailable`] with what is wrong.
    pub(super) async fn check(&self) -> Result<(), Unavailable> {
        {
            let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            if health.stopped {
                return Err(closed());
            }
            if health.failure.is_none() && health.committed_at.elapsed() < PROOF_AGE_MAX {
                return Ok(());
            }
        }
        // Large enough to need pages of its own: a full disk shows.
        const PROBE_BYTES: usize = 32 * 1024;
        Ok(self
            .write(PROBE_BYTES, |connection| {
                connection
                    .prepare_cached("INSERT INTO probe (n, bytes) VALUES (1, zeroblob(?1)) ON CONFLICT (n) DO UPDATE SET bytes = excluded.bytes")?
                    .execute([PROBE_BYTES as i64])?;
                connection.prepare_cached("DELETE FROM probe")?.execute([])
            })
            .await
            .map(drop)?)
    }
}

fn closed() -> Unavailable {
    Unavailable::new("SQLite", "the database is closed")
}

struct Awaited<T, W, C> {
    work: W,
    then: C,
    result: Option<T>,
    reply: Reply<T>,
    _room: OwnedSemaphorePermit,
}

/// Whoever waits is told in any case: an operation that is dropped was never carried out, unless the thread panics.
struct Reply<T>(Option<oneshot::Sender<Result<T, WriteError>>>);

impl<T> Reply<T> {
    fn send(&mut self, result: Result<T, WriteError>) {
        if let Some(reply) = self.0.take() {
            // Nobody there: the caller gave up waiting.
            let _ = reply.send(result);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.send(Err(if std::thread::panicking() {
            WriteError::Unknown(Unavailable::new("SQLite", "the writer has failed"))
        } else {
            WriteError::Undone(closed())
        }));
    }
}

impl<T, W, C> Operation for Awaited<T, W, C>
where
    T: Send,
    W: FnMut(&Connection) -> rusqlite::Result<T> + Send,
    C: FnOnce(&T) + Send,
{
    fn execute(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.result = Some((self.work)(connection)?);
        Ok(())
    }

    fn committed(self: Box<Self>) {
        let mut this = *self;
        let result = this.result.expect("it was executed before the commit");
        (this.then)(&result);
        this.reply.send(Ok(result));
    }

    fn failed(mut self: Box<Self>, error: &WriteError) {
        self.reply.send(Err(error.clone()));
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;

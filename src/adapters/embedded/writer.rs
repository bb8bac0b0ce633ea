//! The one thread that writes, and its group commit: all operations that are waiting become one transaction, one sync
//! of the disk, and are answered together after it.
//!
//! It knows nothing of queues or orders: an operation is a closure over the connection.
//!
//! # Invariants
//! - Nobody is told that something was written before the commit that holds it has returned.
//! - Operations are carried out in the order they were handed in.
//! - What waits is bounded in bytes ([`WAITING_UNITS`]); past that, callers wait, until their deadline.
//!
//! # Failure handling
//! If anything in a group fails, the group is undone and each of its operations is tried again in a transaction of its
//! own: one that cannot succeed takes nobody with it, and a group that succeeds (nearly all do) pays nothing for it. A
//! savepoint for each operation would make every group keep a second copy of each page it changes. For that an
//! operation must be able to run twice.
//!
//! A commit that fails for want of space or because another process writes is certainly undone. After any other failed
//! commit the bytes may be in the log, and may count if the process dies before they are written over: the fate is
//! unknown.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::chores::Chores;
use super::database::unavailable;
use super::folder::FolderLock;
use crate::ports::{PublishError, Unavailable};

/// How long a caller waits in all: for room, and for the commit.
const DEADLINE: Duration = Duration::from_secs(10);
/// What an operation counts for at least, in bytes; also the unit of the bound.
const UNIT_BYTES: usize = 4096;
/// What may wait to be written: 32 MiB.
const WAITING_UNITS: u32 = 8192;
/// What one transaction takes in, in bytes: within the writer's page cache, so that nothing spills to the disk before the
/// commit, and small enough that a group takes some tens of milliseconds.
const GROUP_BYTES_MAX: usize = 8 << 20;
const GROUP_OPERATIONS_MAX: usize = 1024;
/// How long an operation that nobody waits for may wait for company: a sync of the disk saved costs no one anything.
const COMPANY_WAIT: Duration = Duration::from_millis(10);
/// The longest sleep: so soon a change of the machine's clock is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(1);
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

enum Job {
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

struct Health {
    committed_at: Instant,
    failure: Option<Unavailable>,
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
        }));
        let mut thread = Thread {
            connection,
            chores,
            health: health.clone(),
        };
        let handle = std::thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || {
                thread.run(&received);
                thread.close();
                drop(lock);
            })?;
        let writer = Writer {
            jobs,
            room: Arc::new(Semaphore::new(WAITING_UNITS as usize)),
            health,
        };
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
            .map_err(|_| {
                WriteError::Undone(Unavailable::new("SQLite", "too much waits to be written"))
            })?;
        let (reply, answer) = oneshot::channel();
        self.hand_over(Job::Write {
            operation: Box::new(Awaited {
                work,
                then,
                result: None,
                reply,
                _room: room,
            }),
            size_bytes,
            awaited: true,
        });
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            // A job is answered or handed back; only a panic of the thread can drop it without a word.
            Ok(Err(_)) => Err(WriteError::Unknown(Unavailable::new(
                "SQLite",
                "the writer has stopped",
            ))),
            Err(_) => Err(WriteError::Unknown(Unavailable::new(
                "SQLite",
                format!("no commit within {} s", DEADLINE.as_secs()),
            ))),
        }
    }

    async fn room_for(&self, size_bytes: usize) -> OwnedSemaphorePermit {
        let units = u32::try_from(size_bytes / UNIT_BYTES + 1)
            .unwrap_or(u32::MAX)
            .min(WAITING_UNITS);
        self.room
            .clone()
            .acquire_many_owned(units)
            .await
            .expect("the semaphore is never closed")
    }

    /// Hands in something nobody waits for. The caller bounds how much of that there can be.
    pub(super) fn submit(&self, operation: Box<dyn Operation>) {
        self.hand_over(Job::Write {
            operation,
            size_bytes: 0,
            awaited: false,
        });
    }

    fn hand_over(&self, job: Job) {
        if let Err(returned) = self.jobs.send(job) {
            refuse(returned.0);
        }
    }

    /// Writes out everything handed in before, closes the file and ends the thread.
    pub(super) fn stop(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.failure = Some(closed());
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

fn refuse(job: Job) {
    match job {
        Job::Write { operation, .. } => operation.failed(&WriteError::Undone(closed())),
        Job::Stop => {}
    }
}

struct Awaited<T, W, C> {
    work: W,
    then: C,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, WriteError>>,
    _room: OwnedSemaphorePermit,
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
        let this = *self;
        let result = this.result.expect("it was executed before the commit");
        (this.then)(&result);
        // Nobody there: the caller gave up waiting.
        let _ = this.reply.send(Ok(result));
    }

    fn failed(self: Box<Self>, error: &WriteError) {
        let _ = self.reply.send(Err(error.clone()));
    }
}

struct Thread {
    connection: Connection,
    chores: Chores,
    health: Arc<Mutex<Health>>,
}

impl Thread {
    fn run(&mut self, jobs: &Receiver<Job>) {
        let mut group: Vec<Box<dyn Operation>> = Vec::new();
        loop {
            let sleep = self.chores.next_in(&self.connection).min(SLEEP_MAX);
            let more = gather(jobs, sleep, &mut group);
            group.extend(self.chores.due(&self.connection));
            if !group.is_empty() {
                self.write(std::mem::take(&mut group));
            }
            if !more {
                return;
            }
        }
    }

    fn write(&mut self, mut group: Vec<Box<dyn Operation>>) {
        let outcome = commit(&self.connection, &mut group);
        self.note(&outcome);
        match outcome {
            Ok(()) => group
                .into_iter()
                .for_each(|operation| operation.committed()),
            Err(Failure { stage, error }) if stage == FailedAt::Begin || group.len() == 1 => {
                for operation in group {
                    operation.failed(&error);
                }
            }
            Err(_) => {
                for operation in group {
                    self.write(vec![operation]);
                }
            }
        }
    }

    fn note(&self, outcome: &Result<(), Failure>) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                health.committed_at = Instant::now();
                if health.failure.take().is_some() {
                    tracing::info!("writing to the database works again");
                }
            }
            Err(failure) => {
                let error = Unavailable::from(failure.error.clone());
                if health.failure.is_none() {
                    tracing::warn!(%error, "writing to the database failed");
                }
                health.failure = Some(error);
            }
        }
    }

    /// Copies the log into the file, so that `ordering.db` alone holds everything.
    fn close(&mut self) {
        let checkpoint = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = checkpoint {
            // Nothing is lost: the log is read at the next start.
            tracing::warn!(%error, "the log could not be copied into the database");
        }
    }
}

/// Collects a group: waits up to `sleep` for its first operation, then takes what is there. False: no more will come.
fn gather(jobs: &Receiver<Job>, sleep: Duration, group: &mut Vec<Box<dyn Operation>>) -> bool {
    let mut bytes = 0;
    let mut wait_until = Instant::now() + sleep;
    let mut anybody_waits = false;
    loop {
        let wait = if anybody_waits {
            Duration::ZERO
        } else {
            wait_until.saturating_duration_since(Instant::now())
        };
        match jobs.recv_timeout(wait) {
            Ok(Job::Write {
                operation,
                size_bytes,
                awaited,
            }) => {
                if group.is_empty() {
                    wait_until = wait_until.min(Instant::now() + COMPANY_WAIT);
                }
                group.push(operation);
                bytes += size_bytes;
                anybody_waits |= awaited;
                if group.len() >= GROUP_OPERATIONS_MAX || bytes >= GROUP_BYTES_MAX {
                    return true;
                }
            }
            Ok(Job::Stop) => {
                // What slipped in behind is refused, and told so.
                jobs.try_iter().for_each(refuse);
                return false;
            }
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FailedAt {
    Begin,
    Later,
}

struct Failure {
    stage: FailedAt,
    error: WriteError,
}

/// One transaction: all of `group`, or nothing.
fn commit(connection: &Connection, group: &mut [Box<dyn Operation>]) -> Result<(), Failure> {
    let undone = |stage| {
        move |error: rusqlite::Error| Failure {
            stage,
            error: WriteError::Undone(unavailable(&error)),
        }
    };
    roll_back(connection);
    connection
        .prepare_cached("BEGIN IMMEDIATE")
        .and_then(|mut begin| begin.execute([]))
        .map_err(undone(FailedAt::Begin))?;
    for operation in group {
        if let Err(error) = operation.execute(connection) {
            roll_back(connection);
            return Err(undone(FailedAt::Later)(error));
        }
    }
    let committed = connection
        .prepare_cached("COMMIT")
        .and_then(|mut commit| commit.execute([]));
    committed.map(drop).map_err(|error| {
        roll_back(connection);
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => undone(FailedAt::Later)(error),
            _ => Failure {
                stage: FailedAt::Later,
                error: WriteError::Unknown(unavailable(&error)),
            },
        }
    })
}

/// Ends a transaction that SQLite has not undone by itself.
fn roll_back(connection: &Connection) {
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::warn!(%error, "a transaction could not be undone");
    }
}

#[cfg(test)]
mod tests {
    use super::super::database::{FILE_NAME, open_writer};
    use super::super::sources::Sources;
    use super::*;

    struct Open {
        writer: Writer,
        path: std::path::PathBuf,
        _folder: tempfile::TempDir,
    }

    fn open() -> Open {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        let path = folder.path().join(FILE_NAME);
        let connection = open_writer(&path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE numbers (n INTEGER PRIMARY KEY);
                 CREATE TABLE orphans (n REFERENCES numbers DEFERRABLE INITIALLY DEFERRED);",
            )
            .unwrap();
        let chores = Chores::new(Arc::new(Sources::new()));
        let (writer, _) = Writer::start(connection, lock, chores).unwrap();
        Open {
            writer,
            path,
            _folder: folder,
        }
    }

    impl Open {
        /// Hands `statements` in so that they make one group.
        async fn write_as_group(
            &self,
            statements: &[&'static str],
        ) -> Vec<Result<usize, WriteError>> {
            let (entered, has_entered) = std::sync::mpsc::channel();
            let (release, released) = std::sync::mpsc::channel::<()>();
            let writer = self.writer.clone();
            let first = tokio::spawn(async move {
                writer
                    .write(0, move |_| {
                        entered.send(()).unwrap();
                        released.recv().unwrap();
                        Ok(())
                    })
                    .await
            });
            tokio::task::spawn_blocking(move || has_entered.recv().unwrap())
                .await
                .unwrap();
            let writes = statements.iter().map(|sql| {
                let writer = self.writer.clone();
                tokio::spawn(async move {
                    writer
                        .write(0, |connection| connection.execute(sql, []))
                        .await
                })
            });
            let writes: Vec<_> = writes.collect();
            while self.writer.room.available_permits() + statements.len() + 1
                > WAITING_UNITS as usize
            {
                tokio::task::yield_now().await;
            }
            release.send(()).unwrap();
            first.await.unwrap().unwrap();
            let mut results = Vec::new();
            for write in writes {
                results.push(write.await.unwrap());
            }
            results
        }

        fn numbers(&self) -> Vec<i64> {
            let shell = Connection::open(&self.path).unwrap();
            let mut select = shell.prepare("SELECT n FROM numbers ORDER BY n").unwrap();
            let rows = select.query_map([], |row| row.get(0)).unwrap();
            rows.map(Result::unwrap).collect()
        }
    }

    const ONE: &str = "INSERT INTO numbers VALUES (1)";
    const TWO: &str = "INSERT INTO numbers VALUES (2)";

    #[tokio::test]
    async fn an_operation_that_fails_takes_nobody_with_it() {
        let open = open();
        let results = open.write_as_group(&[ONE, ONE, TWO]).await;
        assert!(matches!(
            &results[..],
            [Ok(1), Err(WriteError::Undone(_)), Ok(1)]
        ));
        assert_eq!(open.numbers(), [1, 2]);
    }

    #[tokio::test]
    async fn a_commit_that_fails_is_of_unknown_fate_and_takes_nobody_with_it() {
        let open = open();
        let orphan = "INSERT INTO orphans VALUES (99)";
        let results = open.write_as_group(&[ONE, orphan, TWO]).await;
        assert!(matches!(
            &results[..],
            [Ok(1), Err(WriteError::Unknown(_)), Ok(1)]
        ));
        assert_eq!(open.numbers(), [1, 2]);
        open.writer.check().await.unwrap();
    }

    #[tokio::test]
    async fn somebody_else_who_writes_makes_all_wait_and_then_fail() {
        let open = open();
        let shell = Connection::open(&open.path).unwrap();
        shell.execute_batch("BEGIN IMMEDIATE").unwrap();
        let write = |sql| {
            open.writer
                .write(0, move |connection| connection.execute(sql, []))
        };
        let (first, second) = tokio::join!(write(ONE), write(TWO));
        assert!(matches!(first, Err(WriteError::Undone(_))), "{first:?}");
        assert!(matches!(second, Err(WriteError::Undone(_))), "{second:?}");
        shell.execute_batch("ROLLBACK").unwrap();
        write(ONE).await.unwrap();
        open.writer.check().await.unwrap();
        assert_eq!(open.numbers(), [1]);
    }

    #[tokio::test]
    async fn what_comes_after_the_stop_is_refused_and_what_came_before_is_written() {
        let open = open();
        let write = |sql| {
            open.writer
                .write(0, move |connection| connection.execute(sql, []))
        };
        let before = write(ONE);
        let before = {
            let mut before = std::pin::pin!(before);
            let started = futures_util::poll!(before.as_mut());
            assert!(started.is_pending());
            open.writer.stop();
            before.await
        };
        assert_eq!(before.unwrap(), 1);
        assert!(matches!(write(TWO).await, Err(WriteError::Undone(_))));
        open.writer.check().await.unwrap_err();
        assert_eq!(open.numbers(), [1]);
    }
}

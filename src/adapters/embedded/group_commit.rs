//! The thread that writes, and its group commit: all operations that are waiting become one transaction, one sync of the
//! disk, and are answered together after it.
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

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::chores::Chores;
use super::database::unavailable;
use super::writer::{Health, Job, Operation, WriteError};
use crate::ports::Unavailable;

/// What one transaction takes in, in bytes: within the writer's page cache, so that nothing spills to the disk before the
/// commit, and small enough that a group takes some tens of milliseconds.
const GROUP_BYTES_MAX: usize = 8 << 20;
const GROUP_OPERATIONS_MAX: usize = 1024;
/// How long an operation that nobody waits for may wait for company: a sync of the disk saved costs no one anything.
const COMPANY_WAIT: Duration = Duration::from_millis(10);
/// On a full disk small writes may succeed while large ones fail, many times a second: one line in that time is enough.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// The longest sleep: so soon a change of the machine's clock is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(1);

pub(super) struct Thread {
    pub(super) connection: Connection,
    pub(super) chores: Chores,
    pub(super) health: Arc<Mutex<Health>>,
}

impl Thread {
    /// Until all handles are gone, or one says stop.
    pub(super) fn run(&mut self, jobs: Receiver<Job>) {
        let mut group: Vec<Box<dyn Operation>> = Vec::new();
        loop {
            let sleep = self.chores.next_in(&self.connection).min(SLEEP_MAX);
            let more = gather(&jobs, sleep, &mut group);
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
            Ok(()) => group.into_iter().for_each(|operation| operation.committed()),
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
                health.failure = None;
            }
            Err(failure) => {
                let error = Unavailable::from(failure.error.clone());
                let warned_lately = health.warned_at.is_some_and(|at| at.elapsed() < WARN_INTERVAL);
                if !warned_lately {
                    tracing::warn!(%error, "writing to the database failed");
                    health.warned_at = Some(Instant::now());
                    // On a full disk it may be the log that cannot grow, while the file has room for what is in it.
                    self.copy_log("PASSIVE");
                }
                health.failure = Some(error);
            }
        }
    }

    /// Copies the log into the file, so that `ordering.db` alone holds everything.
    pub(super) fn close(&mut self) {
        self.copy_log("TRUNCATE");
    }

    fn copy_log(&self, mode: &str) {
        let pragma = format!("PRAGMA wal_checkpoint({mode})");
        if let Err(error) = self.connection.query_row(&pragma, [], |_| Ok(())) {
            // Nothing is lost: the log counts as it is, and is read at the next start.
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
        let wait = if anybody_waits { Duration::ZERO } else { wait_until.saturating_duration_since(Instant::now()) };
        match jobs.recv_timeout(wait) {
            Ok(Job::Write { operation, size_bytes, awaited }) => {
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
            Ok(Job::Stop) => return false,
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
    let undone =
        |stage| move |error: rusqlite::Error| Failure { stage, error: WriteError::Undone(unavailable(&error)) };
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
    let committed = connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
    committed.map(drop).map_err(|error| {
        roll_back(connection);
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => undone(FailedAt::Later)(error),
            _ => Failure { stage: FailedAt::Later, error: WriteError::Unknown(unavailable(&error)) },
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

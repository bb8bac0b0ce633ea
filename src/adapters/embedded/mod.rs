//! The embedded back end: queues, in-flight store, archive and dead letters over one SQLite file, `{data_dir}/ordering.db`.
//!
//! No servers, and the same promises: what was confirmed is on the disk and survives `kill -9` and a power cut at any
//! moment. One process owns the folder; a second one is refused and told who has it. The file can be read with the
//! `sqlite3` shell at any time.
//!
//! # How it works
//! - One thread writes (`writer`): everything that waits becomes one transaction and one sync of the disk.
//! - A few connections read beside it (`readers`); the write-ahead log keeps them out of each other's way.
//! - `queues` hand messages out in the order of their ids; `in_flight` fences steps by [`crate::domain::Progress`];
//!   `archive` keeps what ended, `dead_letters` what nobody can read, `pauses` which stages people hold up, `webhooks` what
//!   others are to be told; `feed` is in memory.
//! - `chores` come round by themselves: delayed messages, expired records.
//!
//! # Failure handling
//! A full disk, a broken one, or somebody else writing to the file: the write is undone and its caller told
//! ([`crate::ports::Unavailable`] with part `SQLite`), and the next one is tried as if nothing had been. What cannot
//! be read at the start is an [`OpenError`], before anything is changed.
//!
//! A disk that is full to the last block takes no acknowledgements either, so it does not empty by itself: all goes on
//! when there is room again, without a restart.
//!
//! Whoever keeps a transaction open in the `sqlite3` shell stops the log from being copied into the file, and it grows as
//! long. The file itself does not shrink: space that is free in it is used again.

mod acks;
mod archive;
mod cancellations;
mod chores;
mod contents;
mod database;
mod dead_letters;
mod feed;
mod folder;
mod group_commit;
mod in_flight;
mod messages;
mod pauses;
mod queues;
mod readers;
mod rows;
mod sources;
mod stored_order;
mod subscription;
mod webhooks;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use archive::EmbeddedArchive;
pub use cancellations::EmbeddedCancellations;
pub use dead_letters::EmbeddedDeadLetters;
pub use feed::EmbeddedFeed;
pub use in_flight::EmbeddedInFlight;
pub use pauses::EmbeddedPauses;
pub use queues::EmbeddedQueues;
pub use webhooks::EmbeddedWebhooks;

use crate::ports::Unavailable;
use chores::Chores;
use folder::FolderLock;
use readers::Readers;
use sources::Sources;
use writer::Writer;

/// How long [`Embedded::close`] waits for the last commit and the copying of the log.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// How the embedded back end is set up.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The folder of the database; made if it is missing.
    pub data_dir: PathBuf,
    /// How long the in-flight record of an ended order stays, to recognise late duplicates.
    pub ended_ttl: Duration,
    /// How large the database may grow, its log (some tens of MiB) not counted. `None`: as large as the disk.
    pub size_bytes_max: Option<u64>,
}

impl EmbeddedOptions {
    /// The defaults: records of ended orders stay a minute, the disk is the bound.
    pub fn new(data_dir: impl Into<PathBuf>) -> EmbeddedOptions {
        EmbeddedOptions { data_dir: data_dir.into(), ended_ttl: Duration::from_secs(60), size_bytes_max: None }
    }
}

/// Why the database could not be opened. None of these passes by itself.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot make or write to the data folder {}", data_dir.display())]
    Folder { data_dir: PathBuf, source: io::Error },
    #[error("the data folder {} is in use by {}", data_dir.display(), owner(*pid))]
    InUse { data_dir: PathBuf, pid: Option<u32> },
    #[error("the disk of {} is full", path.display())]
    DiskFull { path: PathBuf },
    #[error("{} is not a database, or is damaged at its beginning", path.display())]
    NotADatabase { path: PathBuf },
    #[error("{} is a database of another program", path.display())]
    NotOurs { path: PathBuf },
    #[error(
        "{} has schema version {found}, this release knows versions up to {known}: run the newer release",
        path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error(
        "the file system of {} cannot hold a write-ahead log; is it a network folder?",
        path.display()
    )]
    NoLog { path: PathBuf },
    #[error("cannot open {}", path.display())]
    Database { path: PathBuf, source: rusqlite::Error },
    #[error("cannot start the thread that writes")]
    Thread(#[source] io::Error),
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("the process with pid {pid}"))
}

/// The open database.
pub struct Embedded {
    queues: Arc<queues::Shared>,
    in_flight: Arc<EmbeddedInFlight>,
    archive: Arc<EmbeddedArchive>,
    cancellations: Arc<EmbeddedCancellations>,
    dead_letters: Arc<EmbeddedDeadLetters>,
    pauses: Arc<EmbeddedPauses>,
    webhooks: Arc<EmbeddedWebhooks>,
    writer: Writer,
    readers: Arc<Readers>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Embedded {
    /// Takes the folder and opens the database, making both if they are missing. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(options: EmbeddedOptions) -> Result<Embedded, OpenError> {
        let lock = FolderLock::take(&options.data_dir)?;
        let path = options.data_dir.join(database::FILE_NAME);
        let connection = database::open_writer(&path)?;
        database::limit_size(&connection, options.size_bytes_max)
            .map_err(|source| OpenError::Database { path: path.clone(), source })?;
        let readers = Arc::new(Readers::open(&path)?);
        let sources = Arc::new(Sources::new());
        let chores = Chores::new(sources.clone());
        let (writer, thread) = Writer::start(connection, lock, chores).map_err(OpenError::Thread)?;
        Ok(Embedded {
            queues: queues::Shared::new(writer.clone(), readers.clone(), sources),
            in_flight: Arc::new(EmbeddedInFlight::new(writer.clone(), readers.clone(), options.ended_ttl)),
            archive: Arc::new(EmbeddedArchive::new(writer.clone(), readers.clone())),
            cancellations: Arc::new(EmbeddedCancellations::new(writer.clone(), readers.clone())),
            dead_letters: Arc::new(EmbeddedDeadLetters::new(writer.clone(), readers.clone())),
            pauses: Arc::new(EmbeddedPauses::new(writer.clone(), readers.clone())),
            webhooks: Arc::new(EmbeddedWebhooks::new(writer.clone(), readers.clone())),
            writer,
            readers,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The queues. Each value this gives is closed for itself: what its subscribers held then goes to those of others.
    pub fn queues(&self) -> Arc<EmbeddedQueues> {
        Arc::new(EmbeddedQueues::new(self.queues.clone()))
    }

    pub fn in_flight(&self) -> Arc<EmbeddedInFlight> {
        self.in_flight.clone()
    }

    pub fn archive(&self) -> Arc<EmbeddedArchive> {
        self.archive.clone()
    }

    pub fn cancellations(&self) -> Arc<EmbeddedCancellations> {
        self.cancellations.clone()
    }

    pub fn dead_letters(&self) -> Arc<EmbeddedDeadLetters> {
        self.dead_letters.clone()
    }

    pub fn pauses(&self) -> Arc<EmbeddedPauses> {
        self.pauses.clone()
    }

    pub fn webhooks(&self) -> Arc<EmbeddedWebhooks> {
        self.webhooks.clone()
    }

    /// Changes [`EmbeddedOptions::size_bytes_max`] of the open database.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn limit_size(&self, size_bytes_max: Option<u64>) -> Result<(), Unavailable> {
        let limit = move |connection: &rusqlite::Connection| database::limit_size(connection, size_bytes_max);
        Ok(self.writer.write(0, limit).await?)
    }

    /// Closes everything: the queues first, then what was handed in is written, the log copied into the file and the folder
    /// given up. Whatever is asked of the ports after that is answered with an error. Without it (the process is
    /// killed, or all handles are dropped) nothing confirmed is lost.
    pub async fn close(&self) {
        self.queues.close().await;
        self.readers.close();
        self.writer.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else {
            return;
        };
        let ended = tokio::task::spawn_blocking(move || thread.join());
        match tokio::time::timeout(CLOSE_DEADLINE, ended).await {
            Ok(Ok(Ok(()))) => {}
            Ok(_) => tracing::error!("the thread that writes to the database panicked"),
            Err(_) => tracing::warn!("the database is still being written to"),
        }
    }
}

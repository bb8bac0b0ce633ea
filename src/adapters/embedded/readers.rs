//! A few connections that only read. A read sees every commit that returned before it began.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::OpenError;
use super::database::{open_reader, unavailable};
use crate::ports::Unavailable;

/// As many reads run at a time.
const READERS: usize = 3;
/// How long a caller waits in all.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) struct Readers {
    idle: Mutex<Vec<Connection>>,
    free: Arc<Semaphore>,
}

impl Readers {
    /// # Errors
    /// [`OpenError`].
    pub(super) fn open(path: &Path) -> Result<Readers, OpenError> {
        let idle = (0..READERS).map(|_| open_reader(path)).collect::<Result<Vec<_>, _>>()?;
        Ok(Readers { idle: Mutex::new(idle), free: Arc::new(Semaphore::new(READERS)) })
    }

    /// Runs `query` on a thread that may block.
    ///
    /// # Errors
    /// [`Unavailable`]; passing.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let reading = async {
            let permit = self.free.clone().acquire_owned().await;
            let permit = permit.map_err(|_| closed())?;
            let readers = self.clone();
            let task = tokio::task::spawn_blocking(move || {
                let connection = readers.idle().pop().ok_or_else(closed)?;
                let result = query(&connection);
                readers.put_back(connection);
                drop(permit);
                result.map_err(|error| unavailable(&error))
            });
            task.await.map_err(|error| Unavailable::new("SQLite", error))?
        };
        tokio::time::timeout(DEADLINE, reading)
            .await
            .unwrap_or_else(|_| Err(Unavailable::new("SQLite", "no answer in time")))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_back(&self, connection: Connection) {
        let mut idle = self.idle();
        if !self.free.is_closed() {
            idle.push(connection);
        }
    }

    /// Closes the connections; those at work, when they are done.
    pub(super) fn close(&self) {
        let mut idle = self.idle();
        self.free.close();
        idle.clear();
    }
}

fn closed() -> Unavailable {
    Unavailable::new("SQLite", "the database is closed")
}

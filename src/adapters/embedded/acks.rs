//! Settled messages on their way out of the database.
//!
//! Nobody waits for them: they collect here, and the writer deletes all there are with whatever it commits next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::messages;
use super::writer::{Operation, WriteError, Writer};
use crate::ports::Unavailable;

pub(super) struct Acks {
    writer: Writer,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    ids: Vec<i64>,
    /// Whether an operation that will take them is with the writer: there is at most one.
    submitted: bool,
}

impl Acks {
    pub(super) fn new(writer: Writer) -> Arc<Acks> {
        Arc::new(Acks { writer, waiting: Mutex::default() })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The message `id` is settled.
    pub(super) fn add(self: &Arc<Self>, id: i64) {
        let mut waiting = self.waiting();
        waiting.ids.push(id);
        if !std::mem::replace(&mut waiting.submitted, true) {
            self.writer.submit(Box::new(Delete { acks: self.clone(), ids: Vec::new() }));
        }
    }

    /// Returns when everything settled before is gone from the database.
    ///
    /// # Errors
    /// [`Unavailable`]: what is left will be delivered again at the next start.
    pub(super) async fn flush(self: &Arc<Self>) -> Result<(), Unavailable> {
        // Those the writer has taken already are ahead of this in its line.
        let ids = std::mem::take(&mut self.waiting().ids);
        let result = self.writer.write(8 * ids.len(), move |connection| messages::delete(connection, &ids)).await;
        Ok(result?)
    }
}

struct Delete {
    acks: Arc<Acks>,
    ids: Vec<i64>,
}

impl Operation for Delete {
    fn execute(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut waiting = self.acks.waiting();
        self.ids.append(&mut waiting.ids);
        waiting.submitted = false;
        drop(waiting);
        messages::delete(connection, &self.ids)
    }

    fn committed(self: Box<Self>) {}

    fn failed(self: Box<Self>, error: &WriteError) {
        let error = Unavailable::from(error.clone());
        tracing::debug!(%error, messages = self.ids.len(), "settled messages could not be deleted yet");
        let mut waiting = self.acks.waiting();
        waiting.ids.extend(self.ids);
        // With `Begin` failing it may not have been executed at all.
        waiting.submitted = false;
    }
}

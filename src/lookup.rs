//! Finds an order: in the in-flight store, then in the archive; and knows of those in the journal.
//!
//! # Failure handling
//! "Not found" is said only when all of them were asked and have nothing, and the in-flight store has lost nothing since
//! the order can have been placed. Else the answer is unknown, which is an error, never a wrong answer.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::{OrderId, OrderRecord, Placed, Status};
use crate::ports::{Archive, Clock, InFlight, Journal, Ports, Unavailable};

/// How far the clocks of two processes may lie apart.
const CLOCKS_APART: Duration = Duration::from_secs(5);

/// How long the archive is waited for when there is a record, which is nearly always right.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(1);

/// How long an order may take to be seen again after the in-flight store has lost it. Past that an id that nobody knows
/// is wrong.
const DOUBT: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Clone)]
pub struct Lookup {
    in_flight: Arc<dyn InFlight>,
    archive: Arc<dyn Archive>,
    journal: Option<Arc<dyn Journal>>,
    clock: Arc<dyn Clock>,
}

impl Lookup {
    pub fn new(ports: &Ports) -> Self {
        Lookup {
            in_flight: ports.in_flight.clone(),
            archive: ports.archive.clone(),
            journal: ports.journal.clone(),
            clock: ports.clock.clone(),
        }
    }

    /// The order as far as it has come; `None` if there is no such order.
    ///
    /// # Errors
    /// [`Unavailable`] if a store that may have it is out of reach. Passing.
    pub async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        let found = match self.in_flight.find(id).await {
            // It was written over when the order was tried again.
            Ok(Some(record)) if record.history.status().has_ended() => return Ok(Some(record)),
            // A record can be left behind: an order was archived while the in-flight store was out of reach. Where the
            // archive does not answer, the record is all there is: still the best answer.
            Ok(Some(record)) => {
                let archived = tokio::time::timeout(ARCHIVE_PATIENCE, self.archive.find(id)).await;
                // It may be in a later passage than the one that the archive has.
                let archived = archived.ok().and_then(Result::ok).flatten();
                archived.filter(|archived| archived.passage >= record.passage).unwrap_or(record)
            }
            Ok(None) => match self.archive.find(id).await? {
                Some(record) => record,
                None => return self.missing(id).await,
            },
            Err(unavailable) => match self.archive.find(id).await {
                Ok(Some(record)) => record,
                Ok(None) | Err(_) => return Err(unavailable),
            },
        };
        self.check_passage(&found).await?;
        Ok(Some(found))
    }

    /// Whether a failed order is still that: while it is tried again the journal knows of a later passage.
    ///
    /// # Errors
    /// [`Unavailable`]: it is tried again, and the in-flight store cannot say how far it has come; or nobody can say.
    async fn check_passage(&self, found: &OrderRecord) -> Result<(), Unavailable> {
        let Some(journal) = self.journal.as_ref().filter(|_| found.history.status() == Status::Failed) else {
            return Ok(());
        };
        match journal.find(found.id).await? {
            Some(journaled) if journaled.passage > found.passage => Err(without_record()),
            Some(_) | None => Ok(()),
        }
    }

    /// What is known of an order that neither in-flight store nor archive has: that it waits for its time, or that there is
    /// none.
    ///
    /// # Errors
    /// [`Unavailable`] if it was taken, or if the in-flight store may have lost it: its worker will write the record again.
    async fn missing(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        let placed = id.placed();
        if placed == Placed::Never {
            return Ok(None);
        }
        if let Some(journal) = &self.journal
            && let Some(journaled) = journal.find(id).await?
        {
            // It may wait for longer than records are kept.
            if journaled.order.waits_at(self.clock.now().after(CLOCKS_APART)) {
                return Ok(Some(journaled));
            }
            // It says that the order was taken, and not how far it has come: it may have been read further on before.
            return Err(without_record());
        }
        let now = self.clock.now();
        let whole_since = self.in_flight.whole_since(now).await?;
        let is_in_doubt = match placed {
            Placed::At(at) => at < whole_since.after(CLOCKS_APART),
            Placed::AnyTime => true,
            Placed::Never => false,
        };
        if is_in_doubt && now.since(whole_since) < DOUBT {
            return Err(Unavailable::new("in-flight store", format!("it has lost what it knew before {whole_since}")));
        }
        Ok(None)
    }
}

fn without_record() -> Unavailable {
    Unavailable::new("in-flight store", "it has no record of it, though it was taken")
}

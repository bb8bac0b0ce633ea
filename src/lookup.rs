//! Finds an order: in the in-flight store, then in the archive.
//!
//! # Failure handling
//! "Not found" is said only when both stores were asked and have nothing. A store that is out of reach makes the
//! answer unknown, which is an error, never a wrong answer.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::{OrderId, OrderRecord};
use crate::ports::{Archive, Clock, InFlight, Unavailable};

/// A record that has not moved for this long is checked against the archive: an order can be archived while the
/// in-flight store is out of reach, which leaves its record behind.
const STILL: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Lookup {
    in_flight: Arc<dyn InFlight>,
    archive: Arc<dyn Archive>,
    clock: Arc<dyn Clock>,
}

impl Lookup {
    pub fn new(in_flight: Arc<dyn InFlight>, archive: Arc<dyn Archive>, clock: Arc<dyn Clock>) -> Self {
        Lookup { in_flight, archive, clock }
    }

    /// The order as far as it has come; `None` if there is no such order.
    ///
    /// # Errors
    /// [`Unavailable`] if a store that may have it is out of reach. Passing.
    pub async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        match self.in_flight.find(id).await {
            Ok(Some(record)) if record.history.status().has_ended() || !self.is_still(&record) => Ok(Some(record)),
            // The record is all there is if the archive has nothing, or cannot be asked: still the best answer.
            Ok(Some(record)) => Ok(Some(self.archive.find(id).await.ok().flatten().unwrap_or(record))),
            Ok(None) => match self.archive.find(id).await? {
                Some(record) => Ok(Some(record)),
                None => Ok(None),
            },
            Err(unavailable) => match self.archive.find(id).await {
                Ok(Some(record)) => Ok(Some(record)),
                Ok(None) | Err(_) => Err(unavailable),
            },
        }
    }

    fn is_still(&self, record: &OrderRecord) -> bool {
        self.clock.now().since(record.updated_at()) > STILL
    }
}

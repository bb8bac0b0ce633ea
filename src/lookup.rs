//! Finds an order: in the in-flight store, then in the archive.
//!
//! # Failure handling
//! "Not found" is said only when both stores were asked and have nothing, and the in-flight store has lost nothing since
//! the order can have been placed. Else the answer is unknown, which is an error, never a wrong answer.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::{Order, OrderId, OrderRecord, Placed, Status};
use crate::ports::{Archive, Clock, InFlight, Unavailable};

/// How far the clocks of two processes may lie apart.
const CLOCKS_APART: Duration = Duration::from_secs(5);

/// How long an order may take to be seen again after the in-flight store has lost it. Past that an id that nobody knows
/// is wrong.
const DOUBT: Duration = Duration::from_secs(24 * 60 * 60);

/// What is known of an order that may be placed a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacedBefore {
    /// It is on its way, or has ended.
    This,
    /// An order of other content has its id.
    Another,
    /// It is to be published: of two copies of an order the second changes nothing.
    Unknown,
}

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
            Ok(Some(record)) if record.history.status().has_ended() => Ok(Some(record)),
            // A record can be left behind: an order was archived while the in-flight store was out of reach. Where the
            // archive cannot be asked, the record is all there is: still the best answer.
            Ok(Some(record)) => Ok(Some(self.archive.find(id).await.ok().flatten().unwrap_or(record))),
            Ok(None) => match self.archive.find(id).await? {
                Some(record) => Ok(Some(record)),
                None => self.missing(id).await.map(|()| None),
            },
            Err(unavailable) => match self.archive.find(id).await {
                Ok(Some(record)) => Ok(Some(record)),
                Ok(None) | Err(_) => Err(unavailable),
            },
        }
    }

    /// Whether an order that comes with a derived id has been placed before.
    pub async fn placed_before(&self, id: OrderId, order: &Order) -> PlacedBefore {
        match self.find(id).await {
            Ok(Some(placed)) if placed.order != *order => PlacedBefore::Another,
            // A record alone proves nothing: it is written before the order is published. Only a step does, or an end.
            Ok(Some(placed)) if placed.history.status() == Status::Accepted => PlacedBefore::Unknown,
            Ok(Some(_)) => PlacedBefore::This,
            Ok(None) => PlacedBefore::Unknown,
            Err(unavailable) => {
                tracing::debug!(order = %id, %unavailable, "placed without a look for an earlier one");
                PlacedBefore::Unknown
            }
        }
    }

    /// Whether an order that neither store has is none at all.
    ///
    /// # Errors
    /// [`Unavailable`] if the in-flight store may have lost it: its worker will write the record again.
    async fn missing(&self, id: OrderId) -> Result<(), Unavailable> {
        let placed = id.placed();
        if placed == Placed::Never {
            return Ok(());
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
        Ok(())
    }
}

//! What the way of an order needs of the outside, naming no product.
//!
//! Two back ends stand behind these traits, `embedded` and `servers`; one conformance suite (`tests/contract.rs`)
//! runs against both. Everything here works on batches: a round trip is paid per batch, not per order.
//!
//! # Failure handling
//! Every method has a deadline of its own and answers [`Unavailable`] when what it needs is out of reach; none waits
//! for it to come back. Adapters rebuild lost connections by themselves, so that a caller only has to try again.
//! Every write may be repeated without harm: after an error nobody knows whether it took effect.

mod archive;
mod dead_letters;
mod in_flight;
mod journal;
mod queues;

pub use archive::{Archive, Archived};
pub use dead_letters::{DeadLetter, DeadLetterId, DeadLetterPage, DeadLetters};
pub use in_flight::{Begun, Claim, InFlight, Recorded, Scan, Unmoved};
pub use journal::{Journal, Leases, Purpose};
pub use queues::{
    DeadDelivery, DeadSubscription, Delivery, Place, PublishError, Queues, Receipt, Settle, Source, Subscription,
    UnknownSource, Unreadable,
};

use std::sync::Arc;

use crate::domain::Timestamp;

/// A back end: everything the way of an order needs of the outside.
#[derive(Clone)]
pub struct Ports {
    pub queues: Arc<dyn Queues>,
    pub in_flight: Arc<dyn InFlight>,
    pub archive: Arc<dyn Archive>,
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Where queues and in-flight store are one durable file, there is nothing a journal could add.
    pub journal: Option<Arc<dyn Journal>>,
    /// A back end of one process needs none.
    pub leases: Option<Arc<dyn Leases>>,
    pub clock: Arc<dyn Clock>,
}

/// A part of the system is out of reach, or did not answer in time. Passing: try again later.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{part}: {reason}")]
pub struct Unavailable {
    /// What it is, as the operator knows it: `RabbitMQ`.
    pub part: &'static str,
    /// What happened, without secrets and without an order's content.
    pub reason: String,
}

impl Unavailable {
    pub fn new(part: &'static str, reason: impl std::fmt::Display) -> Self {
        Unavailable { part, reason: reason.to_string() }
    }
}

/// The time of day.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

/// The clock of the machine.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

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
mod cancellations;
mod dead_letters;
mod feed;
mod in_flight;
mod journal;
mod pauses;
mod queues;
mod webhooks;

pub use archive::{Archive, Archived, FailedFilter};
pub use cancellations::{AskedCancellation, Cancellations};
pub use dead_letters::{DeadLetter, DeadLetterId, DeadLetterPage, DeadLetters};
pub use feed::{Feed, Page, Position, Told};
pub use in_flight::{Begun, Cancelling, Claim, InFlight, Recorded, Scan, Unmoved};
pub use journal::{Journal, Leases, Purpose};
pub use pauses::{Pause, Pauses, StageState};
pub use queues::{
    DeadDelivery, DeadSubscription, Delivery, EventDelivery, EventSubscription, Place, PublishError, Queues, Receipt,
    Settle, Source, Subscription, UnknownSource, Unreadable,
};
pub use webhooks::{Due, Sent, Tally, Webhook, WebhookId, Webhooks};

use std::sync::Arc;

use crate::domain::Timestamp;

/// A back end: everything the way of an order needs of the outside.
#[derive(Clone)]
pub struct Ports {
    pub queues: Arc<dyn Queues>,
    pub in_flight: Arc<dyn InFlight>,
    pub archive: Arc<dyn Archive>,
    pub cancellations: Arc<dyn Cancellations>,
    pub dead_letters: Arc<dyn DeadLetters>,
    pub pauses: Arc<dyn Pauses>,
    pub webhooks: Arc<dyn Webhooks>,
    /// Where queues and in-flight store are one durable file, there is nothing a journal could add.
    pub journal: Option<Arc<dyn Journal>>,
    /// `None` where nobody wants to listen.
    pub feed: Option<Arc<dyn Feed>>,
    /// A back end of one process needs none.
    pub leases: Option<Arc<dyn Leases>>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
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

/// What ids and jitter are drawn from. A port, so that a run of the whole can be repeated.
pub trait Random: Send + Sync + 'static {
    /// 128 bits that nobody can foresee.
    fn bits(&self) -> u128;
}

impl dyn Random {
    /// What makes an id the only one of its millisecond.
    pub fn id_bytes(&self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&self.bits().to_le_bytes()[..10]);
        bytes
    }

    /// Evenly from 0 to 1, without 1.
    pub fn fraction(&self) -> f64 {
        // As many bits as a double holds exactly.
        const BITS: u32 = 53;
        let bits = (self.bits() as u64) >> (u64::BITS - BITS);
        bits as f64 / (1_u64 << BITS) as f64
    }
}

/// The generator of the operating system's making.
pub struct SystemRandom;

impl Random for SystemRandom {
    fn bits(&self) -> u128 {
        rand::random()
    }
}

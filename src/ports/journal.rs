//! The second place for accepted orders: what the queues or the in-flight store cannot take at the moment.

use std::time::Duration;

use async_trait::async_trait;

use super::{Claim, PublishError, Unavailable};
use crate::domain::{OrderId, OrderRecord};

/// What an order is put into the journal for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be known of: a queue holds it, the in-flight store may not.
    Know,
    /// To be published: no queue holds it, as far as is known (the outbox).
    Publish,
}

/// Keeps accepted orders durably beside the queues, until they have ended. The back end `embedded` has none: there
/// queues and in-flight store are as durable and as far as a journal would be.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Whether a write has any prospect at the moment; answers at once. For callers who would do something first.
    ///
    /// # Errors
    /// [`Unavailable`]: nothing would be written.
    fn takes(&self) -> Result<(), Unavailable>;

    /// Keeps these orders, all in one transaction, and says of each whether the journal had one of its id before. One
    /// that is there keeps its content; if that is the same, [`Purpose::Publish`] makes one that was only known of wait to
    /// be published, and a later passage takes the place of an earlier one. An order that says when its work may begin
    /// ([`Order::not_before`](crate::domain::Order::not_before)) waits until then to be published. Of several of one id the first is put in.
    /// Takes at most 2 seconds: a customer waits.
    ///
    /// # Errors
    /// [`PublishError`], passing: nothing was kept, or nobody knows whether all were or none.
    async fn note(&self, orders: &[OrderRecord], purpose: Purpose) -> Result<Vec<Claim>, PublishError>;

    /// The order as it was put in; `None` if it is not there.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable>;

    /// For each of `ids` the order as it was put in, in the order of `ids`.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn find_all(&self, ids: &[OrderId]) -> Result<Vec<Option<OrderRecord>>, Unavailable>;

    /// The orders whose time has come, then those that have waited longest to be published, in the order in which they came:
    /// at most `orders_max`. By the clock of the store.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn to_publish(&self, orders_max: u32) -> Result<Vec<OrderRecord>, Unavailable>;

    /// How many wait to be published, those whose time has not come not counted.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn waiting(&self) -> Result<u64, Unavailable>;

    /// These have been published: a queue holds them. From now on they are only known of.
    ///
    /// # Errors
    /// [`Unavailable`]; none, some or all of them are marked.
    async fn published(&self, ids: &[OrderId]) -> Result<(), Unavailable>;

    /// Some of the orders that are known of, do not wait to be published and have not ended: those with ids greater than
    /// `after`, in the order of their ids, at most `orders_max`.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn scan(&self, after: Option<OrderId>, orders_max: u32) -> Result<Vec<OrderRecord>, Unavailable>;

    /// Removes some of the orders that have ended (of the same passage, or a later one); how many. 0: none is left.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn sweep(&self) -> Result<u64, Unavailable>;
}

/// Sees to it that of several processes one does a thing. A holder that freezes and wakes may for a moment believe that it
/// still holds what another has taken over: what is done under a lease must do no harm when it is done twice.
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// Takes the lease `name` for `holder`, or renews it; whether `holder` has it for `ttl` from now on. By the clock
    /// of the store alone.
    ///
    /// # Errors
    /// [`Unavailable`]: nobody knows.
    async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<bool, Unavailable>;

    /// Gives it up, if `holder` has it.
    ///
    /// # Errors
    /// [`Unavailable`]: it ends by itself.
    async fn release(&self, name: &str, holder: &str) -> Result<(), Unavailable>;
}

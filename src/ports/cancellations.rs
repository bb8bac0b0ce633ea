//! Which orders are to go no further.

use async_trait::async_trait;

use super::Unavailable;
use crate::domain::{Cancellation, OrderId};

/// A cancellation that was asked for, and the passage of the order that it is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedCancellation {
    pub id: OrderId,
    pub passage: u32,
    pub cancellation: Cancellation,
}

/// Keeps durably what was asked for, until the order has ended. Marks in the in-flight store
/// ([`super::InFlight::cancel`]) are what workers go by; where they are lost or out of reach, this is asked.
#[async_trait]
pub trait Cancellations: Send + Sync + 'static {
    /// Keeps it, unless one of this passage or a later one is kept; gives the one that is.
    ///
    /// # Errors
    /// [`Unavailable`]; it may have been kept.
    async fn ask(&self, asked: &AskedCancellation) -> Result<AskedCancellation, Unavailable>;

    /// For each order, given by id and passage, the cancellation that was asked for, in the order of `orders`.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn of(&self, orders: &[(OrderId, u32)]) -> Result<Vec<Option<Cancellation>>, Unavailable>;

    /// Some of those that are kept, those with ids greater than `after`, in the order of their ids.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn open(&self, after: Option<OrderId>, count_max: u32) -> Result<Vec<AskedCancellation>, Unavailable>;

    /// Forgets what was asked for of these orders, given by id and passage: they have ended.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn settle(&self, orders: &[(OrderId, u32)]) -> Result<(), Unavailable>;
}

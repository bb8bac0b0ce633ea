//! Where ended orders are kept.

use async_trait::async_trait;

use super::Unavailable;
use crate::domain::{OrderId, OrderRecord};

/// Keeps what has ended.
#[async_trait]
pub trait Archive: Send + Sync + 'static {
    /// Keeps these orders, whose histories have ended, all in one transaction. Of several ends of one order the
    /// first that was kept stays, and is told apart in the reply.
    ///
    /// # Errors
    /// [`Unavailable`]; all of them were kept, or none.
    async fn archive(&self, orders: &[OrderRecord]) -> Result<Vec<Archived>, Unavailable>;

    /// The order as it ended; `None` if it is not in the archive.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable>;

    /// Which of `ids` are in the archive, in the order of `ids`.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn contains(&self, ids: &[OrderId]) -> Result<Vec<bool>, Unavailable>;

    /// What of what it confirms would not survive the loss of its machine: a sentence for the operator, if there is
    /// something to be done about it.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn durability_warning(&self) -> Result<Option<String>, Unavailable> {
        Ok(None)
    }

    /// Whether orders can be kept and read at the moment.
    ///
    /// # Errors
    /// [`Unavailable`] with what is wrong.
    async fn check(&self) -> Result<(), Unavailable>;
}

/// What the archive did with one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archived {
    /// It keeps it now.
    Now,
    /// It has kept an end of this order before, and keeps that one.
    Before,
}

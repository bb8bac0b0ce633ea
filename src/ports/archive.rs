//! Where ended orders are kept.

use async_trait::async_trait;

use super::Unavailable;
use crate::domain::{OrderId, OrderRecord, Stage, Timestamp};

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

    /// For each of `ids` the passage of which the archive has the end, in the order of `ids`; `None` if it has none.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn ended_passages(&self, ids: &[OrderId]) -> Result<Vec<Option<u32>>, Unavailable>;

    /// Some of the orders that have failed and answer `filter`: those with ids greater than `after`, in the order of
    /// their ids.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn failed(
        &self,
        filter: &FailedFilter,
        after: Option<OrderId>,
        orders_max: u32,
    ) -> Result<Vec<OrderRecord>, Unavailable>;

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

/// Which of the failed orders; what is `None` is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailedFilter {
    /// The stage that failed.
    pub stage: Option<Stage>,
    /// What the reason contains; capital letters count.
    pub reason: Option<String>,
    pub customer_id: Option<String>,
    /// Failed at that moment or later.
    pub from: Option<Timestamp>,
    /// Failed before that moment.
    pub to: Option<Timestamp>,
}

/// What the archive did with one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archived {
    /// It keeps it now.
    Now,
    /// It has kept an end of this order before, and keeps that one.
    Before,
}

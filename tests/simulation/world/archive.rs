//! The archive.

use async_trait::async_trait;
use ordering::domain::{OrderId, OrderRecord};
use ordering::ports::{Archive, Archived, FailedFilter, Unavailable};

use super::{Part, Process};

#[async_trait]
impl Archive for Process {
    async fn archive(&self, orders: &[OrderRecord]) -> Result<Vec<Archived>, Unavailable> {
        let archive = self.world.effect(self, Part::Archive, |state| {
            let keep = |order: &OrderRecord| {
                if state.0.archive.get(&order.id).is_some_and(|kept| kept.passage >= order.passage) {
                    return Archived::Before;
                }
                state.0.archive.insert(order.id, order.clone());
                Archived::Now
            };
            orders.iter().map(keep).collect()
        });
        archive.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        let find = self.world.effect(self, Part::Archive, |state| state.0.archive.get(&id).cloned());
        find.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn ended_passages(&self, ids: &[OrderId]) -> Result<Vec<Option<u32>>, Unavailable> {
        let ended = self.world.effect(self, Part::Archive, |state| {
            ids.iter().map(|id| state.0.archive.get(id).map(|order| order.passage)).collect()
        });
        ended.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn failed(
        &self,
        _filter: &FailedFilter,
        _after: Option<OrderId>,
        _orders_max: u32,
    ) -> Result<Vec<OrderRecord>, Unavailable> {
        unreachable!("nobody asks here")
    }

    async fn check(&self) -> Result<(), Unavailable> {
        Ok(())
    }
}

//! The archive.

use async_trait::async_trait;
use ordering::domain::{OrderId, OrderRecord};
use ordering::ports::{Archive, Archived, Unavailable};

use super::{Part, Process};

#[async_trait]
impl Archive for Process {
    async fn archive(&self, orders: &[OrderRecord]) -> Result<Vec<Archived>, Unavailable> {
        let archive = self.world.effect(self, Part::Archive, |state| {
            let keep = |order: &OrderRecord| {
                if state.0.archive.contains_key(&order.id) {
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

    async fn contains(&self, ids: &[OrderId]) -> Result<Vec<bool>, Unavailable> {
        let contains = self
            .world
            .effect(self, Part::Archive, |state| ids.iter().map(|id| state.0.archive.contains_key(id)).collect());
        contains.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn check(&self) -> Result<(), Unavailable> {
        Ok(())
    }
}

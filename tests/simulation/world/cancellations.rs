//! What was asked to go no further.

use async_trait::async_trait;
use ordering::domain::{Cancellation, OrderId};
use ordering::ports::{AskedCancellation, Cancellations, Unavailable};

use super::{Part, Process};

#[async_trait]
impl Cancellations for Process {
    async fn ask(&self, asked: &AskedCancellation) -> Result<AskedCancellation, Unavailable> {
        let ask = self.world.effect(self, Part::Archive, |state| {
            let kept = state.0.cancellations.entry(asked.id).or_insert_with(|| asked.clone());
            if kept.passage < asked.passage {
                *kept = asked.clone();
            }
            kept.clone()
        });
        ask.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn of(&self, orders: &[(OrderId, u32)]) -> Result<Vec<Option<Cancellation>>, Unavailable> {
        let of = self.world.effect(self, Part::Archive, |state| {
            let of = |(id, passage): &(OrderId, u32)| {
                let asked = state.0.cancellations.get(id).filter(|asked| asked.passage == *passage);
                asked.map(|asked| asked.cancellation.clone())
            };
            orders.iter().map(of).collect()
        });
        of.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn open(&self, after: Option<OrderId>, count_max: u32) -> Result<Vec<AskedCancellation>, Unavailable> {
        let open = self.world.effect(self, Part::Archive, |state| {
            let open = state.0.cancellations.values().filter(|asked| Some(asked.id) > after);
            open.take(count_max as usize).cloned().collect()
        });
        open.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn settle(&self, orders: &[(OrderId, u32)]) -> Result<(), Unavailable> {
        let settle = self.world.effect(self, Part::Archive, |state| {
            for (id, passage) in orders {
                if state.0.cancellations.get(id).is_some_and(|asked| asked.passage <= *passage) {
                    state.0.cancellations.remove(id);
                }
            }
        });
        settle.await.map_err(|(_, unavailable)| unavailable)
    }
}

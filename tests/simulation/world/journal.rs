//! The journal, the leases, and dead letters, of which there are none.

use std::time::Duration;

use async_trait::async_trait;
use ordering::domain::{OrderId, OrderRecord};
use ordering::ports::{
    Claim, Clock, DeadLetter, DeadLetterId, DeadLetterPage, DeadLetters, Journal, Leases, PublishError, Purpose,
    Unavailable,
};
use tokio::time::Instant;

use super::{Part, Process, State};

pub(super) struct Row {
    pub(super) order: OrderRecord,
    pub(super) waits: bool,
}

impl State {
    fn note(&mut self, order: &OrderRecord, purpose: Purpose) -> Claim {
        let waits = purpose == Purpose::Publish;
        match self.journal.iter_mut().find(|row| row.order.id == order.id) {
            Some(row) if row.order.order != order.order => Claim::Other,
            Some(row) => {
                row.waits |= waits;
                if row.order.passage < order.passage {
                    row.order = order.clone();
                }
                Claim::Same { is_under_way: false }
            }
            None => {
                self.journal.push(Row { order: order.clone(), waits });
                Claim::New
            }
        }
    }
}

#[async_trait]
impl Journal for Process {
    fn takes(&self) -> Result<(), Unavailable> {
        let state = self.world.state.lock().unwrap();
        match state.down.get(&Part::Archive).is_some_and(|until| Instant::now() < *until) {
            true => Err(Unavailable::new("simulation", "no database")),
            false => Ok(()),
        }
    }

    async fn note(&self, orders: &[OrderRecord], purpose: Purpose) -> Result<Vec<Claim>, PublishError> {
        let note = self
            .world
            .effect(self, Part::Archive, |state| orders.iter().map(|order| state.0.note(order, purpose)).collect());
        note.await.map_err(|(done, unavailable)| match done {
            true => PublishError::Unknown(unavailable),
            false => PublishError::NotTaken(unavailable),
        })
    }

    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        Ok(self.find_all(&[id]).await?.remove(0))
    }

    async fn find_all(&self, ids: &[OrderId]) -> Result<Vec<Option<OrderRecord>>, Unavailable> {
        let find = self.world.effect(self, Part::Archive, |state| {
            let find = |id: &OrderId| state.0.journal.iter().find(|row| row.order.id == *id);
            ids.iter().map(|id| find(id).map(|row| row.order.clone())).collect()
        });
        find.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn to_publish(&self, orders_max: u32) -> Result<Vec<OrderRecord>, Unavailable> {
        let now = self.world.now();
        let to_publish = self.world.effect(self, Part::Archive, |state| {
            let waiting = state.0.journal.iter().filter(|row| row.waits && !row.order.order.waits_at(now));
            waiting.take(orders_max as usize).map(|row| row.order.clone()).collect()
        });
        to_publish.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn waiting(&self) -> Result<u64, Unavailable> {
        unreachable!("nobody asks here")
    }

    async fn published(&self, ids: &[OrderId]) -> Result<(), Unavailable> {
        let published = self.world.effect(self, Part::Archive, |state| {
            for row in state.0.journal.iter_mut().filter(|row| ids.contains(&row.order.id)) {
                row.waits = false;
            }
        });
        published.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn scan(&self, after: Option<OrderId>, _orders_max: u32) -> Result<Vec<OrderRecord>, Unavailable> {
        let scan = self.world.effect(self, Part::Archive, |state| {
            let archive = &state.0.archive;
            let has_ended =
                |order: &OrderRecord| archive.get(&order.id).is_some_and(|end| end.passage >= order.passage);
            let known = state.0.journal.iter().filter(|row| !row.waits && !has_ended(&row.order));
            let mut orders: Vec<OrderRecord> = known.map(|row| row.order.clone()).collect();
            orders.retain(|order| Some(order.id) > after);
            orders.sort_by_key(|order| order.id);
            orders
        });
        scan.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn sweep(&self) -> Result<u64, Unavailable> {
        let sweep = self.world.effect(self, Part::Archive, |state| {
            let State { journal, archive, .. } = &mut *state.0;
            let before = journal.len();
            let has_ended =
                |order: &OrderRecord| archive.get(&order.id).is_some_and(|end| end.passage >= order.passage);
            journal.retain(|row| row.waits || !has_ended(&row.order));
            (before - journal.len()) as u64
        });
        sweep.await.map_err(|(_, unavailable)| unavailable)
    }
}

#[async_trait]
impl Leases for Process {
    async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<bool, Unavailable> {
        let acquire = self.world.effect(self, Part::Archive, |state| {
            let now = Instant::now();
            let is_anothers = |(other, until): &(String, Instant)| other != holder && *until > now;
            if state.0.leases.get(name).is_some_and(is_anothers) {
                return false;
            }
            state.0.leases.insert(name.to_owned(), (holder.to_owned(), now + ttl));
            true
        });
        acquire.await.map_err(|(_, unavailable)| unavailable)
    }

    async fn release(&self, name: &str, holder: &str) -> Result<(), Unavailable> {
        let release = self.world.effect(self, Part::Archive, |state| {
            if state.0.leases.get(name).is_some_and(|(other, _)| other == holder) {
                state.0.leases.remove(name);
            }
        });
        release.await.map_err(|(_, unavailable)| unavailable)
    }
}

#[async_trait]
impl DeadLetters for Process {
    async fn keep(&self, _letters: &[DeadLetter]) -> Result<(), Unavailable> {
        unreachable!("the queues give none")
    }

    async fn list(&self, _page: &DeadLetterPage) -> Result<Vec<DeadLetter>, Unavailable> {
        unreachable!("nobody asks here")
    }

    async fn find(&self, _id: DeadLetterId) -> Result<Option<DeadLetter>, Unavailable> {
        unreachable!("nobody asks here")
    }

    async fn remove(&self, _id: DeadLetterId) -> Result<bool, Unavailable> {
        unreachable!("nobody asks here")
    }

    async fn count(&self) -> Result<u64, Unavailable> {
        unreachable!("nobody asks here")
    }
}

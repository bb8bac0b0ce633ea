//! Keeps a batch of new orders: in which order its places are written, and what is said when one of them fails.
//!
//! ```text
//!  with a key ─ claim the id (its record; the journal while there is no in-flight store)
//!                 └ claimed before ─ kept for certain? ─▶ 202, or another content ─▶ refused
//!  a queue takes orders ─ record ─ (journal) ─ publish ─ confirmed ─────────────────────────▶ 202
//!                                                  └ not, or nobody knows ─ outbox ─ committed ─▶ 202
//!  no queue takes orders, or its time has not come ─ outbox ─ record ─▶ 202
//! ```
//!
//! The record comes before the queue: a worker that begins an order without one has to ask the archive, and if that is
//! out of reach goes on without a fence. The outbox comes before the record, so that an order that is refused because
//! nothing takes it leaves nothing behind.
//!
//! # Invariants
//! - [`NotAccepted::Unavailable`] is said only of an order of which nothing was written anywhere. Where something may have
//!   been (a record, a row, a message), the order may come to life yet: [`NotAccepted::Unconfirmed`].
//! - An order without a record is in the journal, if that is in reach.

use std::borrow::Cow;
use std::time::Duration;

use tokio::time::timeout;

use crate::domain::{OrderId, OrderRecord, Stage, Timestamp};
use crate::ports::{Claim, Place, Ports, PublishError, Purpose, Unavailable};

use super::{Journaling, NotAccepted};

/// How long customers wait for what the archive and the journal know of the orders that came again with their keys.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// What became of an order: kept, or why not.
pub(super) type Verdict = Result<(), NotAccepted>;

pub(super) struct Keeper {
    ports: Ports,
    journaling: Journaling,
}

/// The orders to keep, and what is known of each so far.
struct Batch {
    orders: Vec<OrderRecord>,
    states: Vec<State>,
}

struct State {
    has_key: bool,
    /// Its time has not come.
    waits: bool,
    /// Something of it may have been written.
    has_trace: bool,
    verdict: Option<Verdict>,
}

impl Batch {
    fn new(orders: Vec<(OrderRecord, bool)>, now: Timestamp) -> Batch {
        let (orders, states) = orders
            .into_iter()
            .map(|(order, has_key)| {
                let waits = order.order.waits_at(now);
                (order, State { has_key, waits, has_trace: false, verdict: None })
            })
            .unzip();
        Batch { orders, states }
    }

    /// The orders whose state is as `wanted`, and their numbers in the batch.
    fn select(&self, wanted: impl Fn(&State) -> bool) -> (Vec<usize>, Cow<'_, [OrderRecord]>) {
        let numbers: Vec<usize> = (0..self.states.len()).filter(|n| wanted(&self.states[*n])).collect();
        let orders = match numbers.len() == self.orders.len() {
            // Nearly always: no order is copied then.
            true => Cow::Borrowed(&self.orders[..]),
            false => numbers.iter().map(|n| self.orders[*n].clone()).collect(),
        };
        (numbers, orders)
    }

    fn taken(&mut self, n: usize) {
        self.states[n].verdict = Some(Ok(()));
    }

    fn anothers(&mut self, n: usize) {
        self.states[n].verdict = Some(Err(NotAccepted::KeyReused { id: self.orders[n].id }));
    }

    fn refuse(&mut self, n: usize, unavailable: &Unavailable) {
        let (id, unavailable) = (self.orders[n].id, unavailable.clone());
        self.states[n].verdict = Some(Err(match self.states[n].has_trace {
            true => NotAccepted::Unconfirmed { id, unavailable },
            false => NotAccepted::Unavailable(unavailable),
        }));
    }

    /// What became of each order.
    fn verdicts(self) -> Vec<Verdict> {
        let unsaid = |id| Err(NotAccepted::Unconfirmed { id, unavailable: Unavailable::new("intake", "no verdict") });
        let ids = self.orders.into_iter().map(|order| order.id);
        self.states.into_iter().zip(ids).map(|(state, id)| state.verdict.unwrap_or_else(|| unsaid(id))).collect()
    }
}

impl State {
    fn is_open(&self) -> bool {
        self.verdict.is_none()
    }
}

impl Keeper {
    pub(super) fn new(ports: &Ports, journaling: Journaling) -> Keeper {
        Keeper { ports: ports.clone(), journaling }
    }

    /// Keeps the orders, each with whether its id is derived from a key, and says what became of each.
    pub(super) async fn keep(&self, orders: Vec<(OrderRecord, bool)>) -> Vec<Verdict> {
        let mut batch = Batch::new(orders, self.ports.clock.now());
        match self.ports.queues.takes() {
            Ok(()) => {
                self.claim(&mut batch).await;
                self.schedule(&mut batch).await;
                self.write_records(&mut batch).await;
                self.publish(&mut batch).await;
            }
            Err(unavailable) if self.journal_takes() => {
                self.claim(&mut batch).await;
                self.hold(&mut batch, State::is_open, &unavailable).await;
                self.write_records_of_held(&batch, |_| true).await;
            }
            Err(unavailable) => (0..batch.orders.len()).for_each(|n| batch.refuse(n, &unavailable)),
        }
        batch.verdicts()
    }

    /// Whether there is nowhere to keep an order at the moment.
    pub(super) fn takes_nothing(&self) -> bool {
        self.ports.queues.takes().is_err() && !self.journal_takes()
    }

    fn journal_takes(&self) -> bool {
        self.ports.journal.as_ref().is_some_and(|journal| journal.takes().is_ok())
    }

    /// Claims the ids that are derived from keys, and settles those that come again.
    async fn claim(&self, batch: &mut Batch) {
        let (numbers, orders) = batch.select(|state| state.has_key);
        if orders.is_empty() {
            return;
        }
        let claims = match self.ports.in_flight.claim(&orders).await {
            Ok(claims) => claims,
            Err(unavailable) => match self.claim_in_journal(&orders).await {
                Ok(claims) => claims,
                Err(error) => {
                    tracing::debug!(%unavailable, %error, orders = orders.len(), "keys cannot be claimed");
                    for n in numbers {
                        // The claim may have been written, and its reply lost.
                        batch.states[n].has_trace = true;
                        batch.refuse(n, error.unavailable());
                    }
                    return;
                }
            },
        };
        let mut uncertain = Vec::new();
        for (n, claim) in numbers.into_iter().zip(claims) {
            batch.states[n].has_trace = true;
            match claim {
                Claim::Same { is_under_way: true } => batch.taken(n),
                Claim::Other => batch.anothers(n),
                Claim::New | Claim::Same { is_under_way: false } => uncertain.push(n),
            }
        }
        self.compare_with_kept(batch, &uncertain).await;
    }

    async fn claim_in_journal(&self, orders: &[OrderRecord]) -> Result<Vec<Claim>, PublishError> {
        match &self.ports.journal {
            Some(journal) => journal.note(orders, Purpose::Know).await,
            None => Err(PublishError::NotTaken(Unavailable::new("journal", "there is none"))),
        }
    }

    /// Settles the orders that have ended before, or wait in the outbox: their record may be gone, or be another's.
    async fn compare_with_kept(&self, batch: &mut Batch, uncertain: &[usize]) {
        if uncertain.is_empty() {
            return;
        }
        let ids: Vec<OrderId> = uncertain.iter().map(|n| batch.orders[*n].id).collect();
        let archived = timeout(LOOK_PATIENCE, self.archived(&ids));
        let journaled = timeout(LOOK_PATIENCE, self.journaled(&ids));
        let (archived, journaled) = tokio::join!(archived, journaled);
        let unknown = |_elapsed| vec![None; ids.len()];
        let (archived, journaled) = (archived.unwrap_or_else(unknown), journaled.unwrap_or_else(unknown));
        for ((n, archived), journaled) in uncertain.iter().zip(archived).zip(journaled) {
            let is_ours = |kept: &OrderRecord| kept.order == batch.orders[*n].order;
            match (archived, journaled) {
                (Some(kept), _) => {
                    match is_ours(&kept) {
                        true => batch.taken(*n),
                        false => batch.anothers(*n),
                    }
                    // What was just written of it says that it was accepted: readers see through it, and this mends it.
                    let _ = self.ports.in_flight.end(&[kept]).await;
                }
                (None, Some(kept)) if !is_ours(&kept) => batch.anothers(*n),
                (None, Some(_) | None) => {}
            }
        }
    }

    /// The ended orders of these ids. While the archive is out of reach, or does not answer in time, an order that has ended
    /// may be taken for a new one: it then takes its way a second time with the same keys, and the archive keeps its
    /// first end.
    async fn archived(&self, ids: &[OrderId]) -> Vec<Option<OrderRecord>> {
        let passages = match self.ports.archive.ended_passages(ids).await {
            Ok(passages) => passages,
            Err(unavailable) => {
                tracing::debug!(%unavailable, orders = ids.len(), "taken without a look into the archive");
                return vec![None; ids.len()];
            }
        };
        let mut archived = Vec::with_capacity(ids.len());
        for (id, passage) in ids.iter().zip(passages) {
            archived.push(match passage {
                Some(_) => self.ports.archive.find(*id).await.ok().flatten(),
                None => None,
            });
        }
        archived
    }

    async fn journaled(&self, ids: &[OrderId]) -> Vec<Option<OrderRecord>> {
        match &self.ports.journal {
            Some(journal) => journal.find_all(ids).await.unwrap_or_else(|_| vec![None; ids.len()]),
            None => vec![None; ids.len()],
        }
    }

    /// Writes the records of orders without a key (a claim is a record already), and journals what has none.
    async fn write_records(&self, batch: &mut Batch) {
        let (numbers, orders) = batch.select(|state| state.is_open() && !state.has_key);
        let recorded = match orders.is_empty() {
            true => Ok(()),
            false => self.ports.in_flight.put(&orders).await,
        };
        if let Err(unavailable) = &recorded {
            tracing::debug!(%unavailable, orders = orders.len(), "accepted without in-flight records");
        }
        let journaled = match (self.journaling, &recorded) {
            (Journaling::All, _) => batch.select(State::is_open).1,
            (Journaling::Needed, Ok(())) => Cow::Borrowed(&[][..]),
            (Journaling::Needed, Err(_)) => orders,
        };
        if let Some(journal) = &self.ports.journal
            && !journaled.is_empty()
            && let Err(error) = journal.note(&journaled, Purpose::Know).await
        {
            // The queue's confirm is still a promise; where the order is can be told when a worker has begun it.
            tracing::debug!(%error, orders = journaled.len(), "accepted without the journal");
        }
        numbers.into_iter().for_each(|n| batch.states[n].has_trace = true);
    }

    async fn publish(&self, batch: &mut Batch) {
        let (numbers, orders) = batch.select(State::is_open);
        if orders.is_empty() {
            return;
        }
        match self.ports.queues.publish(Place::Stage(Stage::FIRST), &orders).await {
            Ok(()) => numbers.into_iter().for_each(|n| batch.taken(n)),
            Err(error) => {
                if let PublishError::Unknown(_) = error {
                    numbers.into_iter().for_each(|n| batch.states[n].has_trace = true);
                }
                // Of two copies, one from the outbox and one that a queue holds after all, the second changes nothing.
                self.hold(batch, State::is_open, error.unavailable()).await;
            }
        }
    }

    /// Puts the orders whose time has not come where they wait for it.
    async fn schedule(&self, batch: &mut Batch) {
        let waits = |state: &State| state.waits && state.is_open();
        let (numbers, orders) = batch.select(waits);
        if numbers.is_empty() {
            return;
        }
        if self.ports.journal.is_some() {
            drop(orders);
            let unavailable = Unavailable::new("journal", "orders that have a time set wait there");
            self.hold(batch, waits, &unavailable).await;
        } else {
            let put = orders.iter().map(|order| {
                let at = order.order.not_before().unwrap_or(order.placed_at);
                self.ports.queues.publish_at(at, order)
            });
            let put = futures_util::future::join_all(put).await;
            for (n, put) in numbers.into_iter().zip(put) {
                match put {
                    Ok(()) => batch.taken(n),
                    Err(error) => {
                        batch.states[n].has_trace |= matches!(error, PublishError::Unknown(_));
                        batch.refuse(n, error.unavailable());
                    }
                }
            }
        }
        self.write_records_of_held(batch, |state| state.waits).await;
    }

    /// Puts those orders into the outbox; `queues` says why they go there.
    async fn hold(&self, batch: &mut Batch, which: impl Fn(&State) -> bool, queues: &Unavailable) {
        let (numbers, orders) = batch.select(which);
        if orders.is_empty() {
            return;
        }
        let held = match &self.ports.journal {
            Some(journal) => journal.note(&orders, Purpose::Publish).await,
            None => Err(PublishError::NotTaken(queues.clone())),
        };
        match held {
            Ok(claims) => {
                for (n, claim) in numbers.into_iter().zip(claims) {
                    match claim {
                        Claim::New | Claim::Same { .. } => batch.taken(n),
                        Claim::Other => batch.anothers(n),
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, orders = numbers.len(), "not held");
                for n in numbers {
                    batch.states[n].has_trace |= matches!(error, PublishError::Unknown(_));
                    batch.refuse(n, queues);
                }
            }
        }
    }

    /// So that readers find what the outbox holds. Where this fails the journal knows of it.
    async fn write_records_of_held(&self, batch: &Batch, which: impl Fn(&State) -> bool) {
        let lacks_record = |state: &State| !state.has_key && matches!(state.verdict, Some(Ok(())));
        let (_, orders) = batch.select(|state| lacks_record(state) && which(state));
        if !orders.is_empty()
            && let Err(unavailable) = self.ports.in_flight.put(&orders).await
        {
            tracing::debug!(%unavailable, orders = orders.len(), "held without in-flight records");
        }
    }
}

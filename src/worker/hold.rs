//! What a worker holds: a delivery is settled when the last of its orders lets go of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ports::{Receipt, Settle};

/// One order's share in the delivery it came with.
///
/// [`Ticket::settle`] says that the order has its next place. When all tickets of a delivery are gone it is acked if
/// each was settled; if any was dropped instead (its task failed, panicked or was stopped), the whole delivery is
/// given back. So forgetting an order is impossible: what nobody vouches for is delivered again.
pub struct Ticket(Arc<Held>);

struct Held {
    receipt: Receipt,
    settle: Arc<dyn Settle>,
    unsettled: AtomicUsize,
}

impl Ticket {
    /// Tickets for the `orders` orders of one delivery.
    pub fn issue(receipt: Receipt, settle: Arc<dyn Settle>, orders: usize) -> impl Iterator<Item = Ticket> {
        let held = Arc::new(Held { receipt, settle, unsettled: AtomicUsize::new(orders) });
        std::iter::repeat_n(held, orders).map(Ticket)
    }

    /// Whether both orders came with one delivery.
    pub fn came_with(&self, other: &Ticket) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The order has its next place: the queue need not keep it any more.
    pub fn settle(self) {
        self.0.unsettled.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        match *self.unsettled.get_mut() {
            0 => self.settle.ack(self.receipt),
            _ => self.settle.give_back(self.receipt),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<&'static str>>);

    impl Settle for Seen {
        fn ack(&self, _: Receipt) {
            self.0.lock().unwrap().push("ack");
        }
        fn give_back(&self, _: Receipt) {
            self.0.lock().unwrap().push("give back");
        }
    }

    fn tickets(seen: &Arc<Seen>) -> Vec<Ticket> {
        Ticket::issue(Receipt { connection: 1, tag: 1 }, seen.clone(), 3).collect()
    }

    #[test]
    fn a_delivery_is_acked_when_its_last_order_is_settled() {
        let seen = Arc::new(Seen::default());
        let mut tickets = tickets(&seen);
        tickets.pop().unwrap().settle();
        tickets.pop().unwrap().settle();
        assert!(seen.0.lock().unwrap().is_empty());
        tickets.pop().unwrap().settle();
        assert_eq!(*seen.0.lock().unwrap(), ["ack"]);
    }

    #[test]
    fn a_delivery_with_one_forgotten_order_is_given_back() {
        let seen = Arc::new(Seen::default());
        let mut tickets = tickets(&seen);
        drop(tickets.pop());
        tickets.into_iter().for_each(Ticket::settle);
        assert_eq!(*seen.0.lock().unwrap(), ["give back"]);
    }
}

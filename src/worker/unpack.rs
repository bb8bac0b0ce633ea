//! Opens deliveries. What nobody can read, or what has no business in its queue, goes to the dead letters, so that
//! it never blocks the queue.

use std::sync::Arc;
use std::time::Duration;

use super::hold::Ticket;
use crate::domain::OrderRecord;
use crate::ports::{DeadLetter, DeadLetterId, Delivery, Ports, Receipt, Settle, Source, Unreadable};

/// The wait before a message that could not be buried is given back, so that it does not come round at full speed.
const BURY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The wait before a message of a newer release is given back. It holds a place of the prefetch meanwhile.
const PARKED_FOR: Duration = Duration::from_secs(2);

/// An order in hand.
pub(super) struct InHand {
    pub(super) order: OrderRecord,
    pub(super) ticket: Ticket,
    /// Orders of the delivery it came with.
    pub(super) delivered_with: usize,
}

/// The orders of `deliveries` with their tickets. Messages with an order that does not fit are buried whole.
pub(super) async fn unpack(
    ports: &Ports,
    source: Source,
    settle: &Arc<dyn Settle>,
    deliveries: Vec<Delivery>,
    fits: impl Fn(&OrderRecord) -> bool,
) -> Vec<InHand> {
    let mut in_hand = Vec::new();
    for Delivery { receipt, contents } in deliveries {
        let unreadable = match contents {
            Ok(orders) if orders.iter().all(&fits) => {
                let delivered_with = orders.len();
                let tickets = Ticket::issue(receipt, settle.clone(), delivered_with);
                let held = orders.into_iter().zip(tickets);
                in_hand.extend(held.map(|(order, ticket)| InHand { order, ticket, delivered_with }));
                continue;
            }
            Ok(orders) => Unreadable {
                reason: "an order that has no business in this queue".into(),
                is_newer: false,
                bytes: crate::wire::encode_batch(&orders).into(),
            },
            Err(unreadable) if unreadable.is_newer => {
                park(source, unreadable.reason, settle.clone(), receipt);
                continue;
            }
            Err(unreadable) => unreadable,
        };
        if bury(ports, source, unreadable).await {
            Ticket::issue(receipt, settle.clone(), 1).for_each(Ticket::settle);
        } else {
            settle.give_back(receipt);
        }
    }
    in_hand
}

/// Holds a message of a newer release for a while, and gives it back for a worker that can read it.
fn park(source: Source, reason: String, settle: Arc<dyn Settle>, receipt: Receipt) {
    tracing::warn!(%source, reason, "a message waits for a newer worker");
    tokio::spawn(async move {
        tokio::time::sleep(PARKED_FOR).await;
        settle.give_back(receipt);
    });
}

/// Whether the dead letters hold it now.
async fn bury(ports: &Ports, source: Source, unreadable: Unreadable) -> bool {
    let Unreadable { reason, is_newer: _, bytes } = unreadable;
    tracing::warn!(%source, reason, bytes = bytes.len(), "a message goes to the dead letters");
    let at = ports.clock.now();
    let letter = DeadLetter { id: DeadLetterId::new(at, ports.random.id_bytes()), source, reason, at, bytes };
    let buried = ports.queues.bury(&letter).await;
    if let Err(error) = &buried {
        tracing::warn!(%source, %error, "a dead letter could not be put aside");
        tokio::time::sleep(BURY_AGAIN_AFTER).await;
    }
    buried.is_ok()
}

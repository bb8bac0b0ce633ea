//! Queues that cut what is put into a stage's queue into messages of no more orders than the stage wants in one.
//!
//! An order of a message waits in the hands of one worker until all orders of the message have their next place. Where work
//! takes long, small messages spread over more workers, and less of it is done again when one dies.
//!
//! # Failure handling
//! If one of several messages is not taken, nobody knows how many of the orders are there: the fate of all is unknown.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;

use crate::domain::{Event, OrderRecord, Stage, Timestamp};
use crate::ports::{
    DeadLetter, DeadSubscription, EventSubscription, Place, PublishError, Queues, Source, Subscription, Unavailable,
};

/// Messages published at once: fewer than await their confirms at most, so that others get their turn.
const AT_ONCE: usize = 16;

/// [`Queues`] with the most orders in a message for each stage.
pub struct Portioned {
    queues: Arc<dyn Queues>,
    orders_max: [usize; 4],
}

impl Portioned {
    /// `orders_max` says it of each stage; at least 1.
    pub fn new(queues: Arc<dyn Queues>, orders_max: impl Fn(Stage) -> usize) -> Portioned {
        Portioned { queues, orders_max: Stage::ALL.map(|stage| orders_max(stage).max(1)) }
    }

    fn orders_max(&self, place: Place) -> usize {
        match place.source() {
            Source::Stage(stage) => self.orders_max[stage.index()],
            Source::Ending => usize::MAX,
        }
    }
}

#[async_trait]
impl Queues for Portioned {
    async fn publish(&self, place: Place, orders: &[OrderRecord]) -> Result<(), PublishError> {
        let orders_max = self.orders_max(place);
        if orders.len() <= orders_max {
            return self.queues.publish(place, orders).await;
        }
        let messages: Vec<&[OrderRecord]> = orders.chunks(orders_max).collect();
        let mut is_any_taken = false;
        for some in messages.chunks(AT_ONCE) {
            let published = join_all(some.iter().map(|message| self.queues.publish(place, message))).await;
            is_any_taken |= published.iter().any(|published| !matches!(published, Err(PublishError::NotTaken(_))));
            if let Some(error) = published.into_iter().find_map(Result::err) {
                return Err(match is_any_taken {
                    true => PublishError::Unknown(error.unavailable().clone()),
                    false => error,
                });
            }
        }
        Ok(())
    }

    async fn publish_at(&self, at: Timestamp, order: &OrderRecord) -> Result<(), PublishError> {
        self.queues.publish_at(at, order).await
    }

    fn takes(&self) -> Result<(), Unavailable> {
        self.queues.takes()
    }

    fn subscribe(&self, source: Source, prefetch: u16) -> Subscription {
        self.queues.subscribe(source, prefetch)
    }

    async fn bury(&self, letter: &DeadLetter) -> Result<(), PublishError> {
        self.queues.bury(letter).await
    }

    fn dead_letters(&self, prefetch: u16) -> Option<DeadSubscription> {
        self.queues.dead_letters(prefetch)
    }

    async fn publish_events(&self, events: &[Event]) -> Result<(), PublishError> {
        self.queues.publish_events(events).await
    }

    fn events(&self, prefetch: u16) -> Option<EventSubscription> {
        self.queues.events(prefetch)
    }

    async fn replay(&self, source: Source, bytes: &Bytes) -> Result<(), PublishError> {
        self.queues.replay(source, bytes).await
    }

    async fn waiting(&self, source: Source) -> Result<u64, Unavailable> {
        self.queues.waiting(source).await
    }

    fn take_losses(&self) -> Vec<Source> {
        self.queues.take_losses()
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.queues.check().await
    }

    async fn close(&self) {
        self.queues.close().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::domain::{Delay, Order, OrderId, Timestamp};

    /// Notes the size of each message; takes so many, and then no more.
    struct Taker {
        messages: Mutex<Vec<usize>>,
        takes: usize,
    }

    #[async_trait]
    impl Queues for Taker {
        async fn publish(&self, _: Place, orders: &[OrderRecord]) -> Result<(), PublishError> {
            let mut messages = self.messages.lock().unwrap();
            if messages.len() >= self.takes {
                return Err(PublishError::NotTaken(Unavailable::new("test", "full")));
            }
            messages.push(orders.len());
            Ok(())
        }

        async fn publish_at(&self, _: Timestamp, order: &OrderRecord) -> Result<(), PublishError> {
            self.publish(Place::Stage(Stage::FIRST), std::slice::from_ref(order)).await
        }

        fn takes(&self) -> Result<(), Unavailable> {
            Ok(())
        }

        fn subscribe(&self, _: Source, _: u16) -> Subscription {
            unreachable!("nobody subscribes here")
        }

        async fn bury(&self, _: &DeadLetter) -> Result<(), PublishError> {
            Ok(())
        }

        fn dead_letters(&self, _: u16) -> Option<DeadSubscription> {
            None
        }

        async fn publish_events(&self, _: &[Event]) -> Result<(), PublishError> {
            Ok(())
        }

        fn events(&self, _: u16) -> Option<EventSubscription> {
            None
        }

        async fn replay(&self, _: Source, _: &Bytes) -> Result<(), PublishError> {
            Ok(())
        }

        async fn waiting(&self, _: Source) -> Result<u64, Unavailable> {
            Ok(0)
        }

        fn take_losses(&self) -> Vec<Source> {
            Vec::new()
        }

        async fn check(&self) -> Result<(), Unavailable> {
            Ok(())
        }

        async fn close(&self) {}
    }

    fn orders(count: u8) -> Vec<OrderRecord> {
        let placed = br#"{"customer_id":"c","currency":"EUR","items":[{"sku":"s","quantity":1,"unit_price":"1"}]}"#;
        let order = Order::from_json(placed).unwrap();
        let now = Timestamp::from_millis(0);
        (0..count).map(|n| OrderRecord::new(OrderId::new(now, [n; 10]), now, order.clone())).collect()
    }

    async fn published(takes: usize, place: Place, count: u8) -> (Result<(), PublishError>, Vec<usize>) {
        let taker = Arc::new(Taker { messages: Mutex::default(), takes });
        let most = |stage| if stage == Stage::Processing { 3 } else { 256 };
        let result = Portioned::new(taker.clone(), most).publish(place, &orders(count)).await;
        let messages = taker.messages.lock().unwrap().clone();
        (result, messages)
    }

    #[tokio::test]
    async fn messages_to_a_stage_have_no_more_orders_than_it_wants() {
        for place in [Place::Stage(Stage::Processing), Place::Delayed(Stage::Processing, Delay::all().next().unwrap())]
        {
            assert_eq!(published(100, place, 7).await.1, [3, 3, 1]);
            assert_eq!(published(100, place, 3).await.1, [3]);
        }
        for place in [Place::Stage(Stage::Scheduling), Place::Ending] {
            assert_eq!(published(100, place, 200).await.1, [200]);
        }
        let many = published(100, Place::Stage(Stage::Processing), 120).await;
        assert!(many.0.is_ok() && many.1 == [3; 40]);
    }

    #[tokio::test]
    async fn what_is_taken_in_part_is_of_unknown_fate() {
        let place = Place::Stage(Stage::Processing);
        assert!(
            matches!(published(0, place, 120).await, (Err(PublishError::NotTaken(_)), messages) if messages.is_empty())
        );
        assert!(matches!(published(1, place, 7).await.0, Err(PublishError::Unknown(_))));
        let (result, messages) = published(20, place, 120).await;
        assert!(matches!(result, Err(PublishError::Unknown(_))) && messages.len() == 20);
    }
}

//! A stage that only looks like work: it takes its time, and fails some orders.

use std::time::Duration;

use async_trait::async_trait;

use super::{Call, Handler};
use crate::domain::Outcome;

/// Takes `delay` for each order and rejects a share of them.
pub struct Simulated {
    delay: Duration,
    failure_rate: f64,
}

impl Simulated {
    /// `failure_rate` is the share of orders to reject, 0 to 1.
    pub fn new(delay: Duration, failure_rate: f64) -> Self {
        Simulated { delay, failure_rate: failure_rate.clamp(0.0, 1.0) }
    }

    fn outcome(&self) -> Outcome {
        // `random_bool` draws from [0, 1): a rate of 0 never fails and a rate of 1 always does.
        if rand::random_bool(self.failure_rate) {
            Outcome::Reject { reason: "simulated failure".into() }
        } else {
            Outcome::done()
        }
    }
}

#[async_trait]
impl Handler for Simulated {
    async fn handle(&self, _call: &Call<'_>) -> Outcome {
        tokio::time::sleep(self.delay).await;
        self.outcome()
    }

    fn immediate(&self, _call: &Call<'_>) -> Option<Outcome> {
        self.delay.is_zero().then(|| self.outcome())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{Order, OrderId, OrderRecord, Stage, Timestamp};

    #[tokio::test(start_paused = true)]
    async fn a_simulated_stage_takes_its_time_and_fails_its_share() {
        let order = Order::from_parts(Bytes::from_static(b"{}"), "0".into());
        let order = OrderRecord::new(OrderId::from_uuid(Uuid::from_u128(1)), Timestamp::from_millis(0), order);
        let call = Call { order: &order, stage: Stage::Processing, attempt: 1 };
        let begun = tokio::time::Instant::now();
        assert_eq!(Simulated::new(Duration::from_secs(5), 0.0).handle(&call).await, Outcome::done());
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        let always = Simulated::new(Duration::ZERO, 1.0);
        assert!(matches!(always.immediate(&call), Some(Outcome::Reject { .. })));
        let twentieth = Simulated::new(Duration::ZERO, 0.05);
        let failed = (0..10_000).filter(|_| twentieth.immediate(&call) != Some(Outcome::done())).count();
        assert!((300..700).contains(&failed), "{failed} of 10,000 at 5 %");
    }

    #[test]
    fn the_key_of_a_call_tells_passages_apart() {
        let order = Order::from_parts(Bytes::from_static(b"{}"), "0".into());
        let mut order = OrderRecord::new(OrderId::from_uuid(Uuid::from_u128(1)), Timestamp::from_millis(0), order);
        let key = |order: &OrderRecord| Call { order, stage: Stage::PreProcessing, attempt: 3 }.key().to_string();
        assert_eq!(key(&order), "00000000-0000-0000-0000-000000000001:pre-processing");
        order.passage = 2;
        assert_eq!(key(&order), "00000000-0000-0000-0000-000000000001:pre-processing:2");
    }
}

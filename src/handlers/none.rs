//! A stage without work: every order advances at once.

use async_trait::async_trait;

use super::{Call, Handler};
use crate::domain::Outcome;

/// Says done of every order.
pub struct NoWork;

#[async_trait]
impl Handler for NoWork {
    async fn handle(&self, _call: &Call<'_>) -> Outcome {
        Outcome::done()
    }

    fn immediate(&self, _call: &Call<'_>) -> Option<Outcome> {
        Some(Outcome::done())
    }
}

//! The work of a stage, behind one trait.

pub mod answer;
pub mod breaker;
pub mod http;
mod none;
pub mod rate;
pub mod request;
pub mod signature;
mod simulated;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

pub use breaker::BreakerPolicy;
pub use http::{HttpHandler, HttpOptions};
pub use none::NoWork;
pub use simulated::Simulated;

use crate::domain::{OrderRecord, Outcome, Stage};
use crate::gate::Gate;

/// Does a stage's work on one order.
///
/// A handler is called at least once for every order and stage. It can be called again after a crash or a lost
/// connection, even while an earlier call still runs: always with the same [`Call::key`], so that it can do its effect
/// once. Of several outcomes the first that was recorded counts. A call that panics is not recorded; the order is
/// delivered again.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Works on one order, and says what came of it.
    async fn handle(&self, call: &Call<'_>) -> Outcome;

    /// The gate before the stage, if this handler has a reason to move one: while it is closed no order is begun, and
    /// none is charged with an attempt. See [`HttpHandler`] for one that closes it while its service is down.
    fn gate(&self) -> Option<watch::Receiver<Gate>> {
        None
    }

    /// What [`Handler::handle`] would say, if it can say so without waiting: spares the order a task of its own.
    fn immediate(&self, _call: &Call<'_>) -> Option<Outcome> {
        None
    }
}

/// Handlers that a program brings of its own, by stage.
#[derive(Clone, Default)]
pub struct Handlers([Option<Arc<dyn Handler>>; 4]);

impl Handlers {
    /// With `handler` doing the work of `stage`.
    pub fn with(mut self, stage: Stage, handler: impl Handler) -> Self {
        self.0[stage.index()] = Some(Arc::new(handler));
        self
    }

    pub fn get(&self, stage: Stage) -> Option<Arc<dyn Handler>> {
        self.0[stage.index()].clone()
    }
}

/// One call of a handler.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub order: &'a OrderRecord,
    pub stage: Stage,
    /// 1 for the first attempt at this stage.
    pub attempt: u32,
}

impl Call<'_> {
    /// The same for every call of one order's passage through one stage: `{order id}:{stage}`, from the second
    /// passage on `{order id}:{stage}:{passage}`.
    pub fn key(&self) -> impl fmt::Display {
        struct Key(crate::domain::OrderId, Stage, u32);
        impl fmt::Display for Key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}:{}", self.0, self.1)?;
                if self.2 > 1 { write!(f, ":{}", self.2) } else { Ok(()) }
            }
        }
        Key(self.order.id, self.stage, self.order.passage)
    }
}

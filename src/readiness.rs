//! Whether this process can do its work, and if not, whose fault it is.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::domain::Stage;
use crate::metrics::Metrics;
use crate::pauses::PausedStages;
use crate::ports::{Ports, Unavailable};

/// A part that takes longer than this to say how it is counts as down.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks all parts when it is asked.
#[derive(Clone)]
pub struct Readiness {
    pub ports: Ports,
    /// What it has counted so far.
    pub metrics: Arc<Metrics>,
    pub paused: PausedStages,
    /// Whether the process takes new orders: it can do that while the queues are down, if there is a journal.
    pub takes_orders: bool,
    /// Cancelled when the process begins to stop.
    pub stopping: CancellationToken,
    /// What the back end calls its parts: queues, in-flight store, archive.
    pub names: [&'static str; 3],
}

/// How a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Everything works.
    Ready,
    /// It does its work; a part that it can do without for a while is down.
    Degraded,
    /// It cannot do its work: the queues are down.
    Unavailable,
    /// It finishes what it has, and takes nothing more.
    Stopping,
}

impl Condition {
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::Ready => "ready",
            Condition::Degraded => "degraded",
            Condition::Unavailable => "unavailable",
            Condition::Stopping => "stopping",
        }
    }

    /// Whether new work should be sent here.
    pub fn takes_work(self) -> bool {
        match self {
            Condition::Ready | Condition::Degraded => true,
            Condition::Unavailable | Condition::Stopping => false,
        }
    }
}

/// The answer of one part.
#[derive(Clone, Debug)]
pub struct Part {
    pub name: &'static str,
    /// Why it is down; `None` if it is up.
    pub down: Option<String>,
    /// What an operator should know though it is up.
    pub warning: Option<String>,
}

/// What is known of a process.
#[derive(Clone, Debug)]
pub struct Report {
    pub condition: Condition,
    pub parts: Vec<Part>,
    /// Orders that wait in the outbox; `None` if there is none, or it cannot be asked.
    pub outbox_orders: Option<u64>,
    /// The stages that people hold up. That is no fault.
    pub paused: Vec<Stage>,
}

impl Readiness {
    /// How this process is, and each part it needs.
    pub async fn report(&self) -> Report {
        let Ports { queues, in_flight, archive, .. } = &self.ports;
        let checks = [queues.check(), in_flight.check(), archive.check()];
        let checks = join_all(checks.map(|check| timeout(CHECK_TIMEOUT, check)));
        let warning = timeout(CHECK_TIMEOUT, archive.durability_warning());
        let (answers, warning, outbox_orders) = tokio::join!(checks, warning, self.outbox_orders());
        let mut parts: Vec<Part> =
            self.names.into_iter().zip(answers).map(|(name, answer)| part(name, answer)).collect();
        if let [.., archive] = &mut parts[..] {
            archive.warning = warning.ok().and_then(Result::ok).flatten();
        }
        let condition = match &parts[..] {
            _ if self.stopping.is_cancelled() => Condition::Stopping,
            [queues, ..] if queues.down.is_some() && !self.has_an_outbox(outbox_orders) => Condition::Unavailable,
            others if others.iter().any(|part| part.down.is_some()) => Condition::Degraded,
            _ => Condition::Ready,
        };
        Report { condition, parts, outbox_orders, paused: self.paused.paused() }
    }
}

impl Readiness {
    async fn outbox_orders(&self) -> Option<u64> {
        let journal = self.ports.journal.as_ref()?;
        timeout(CHECK_TIMEOUT, journal.waiting()).await.ok()?.ok()
    }

    /// Whether orders can be taken while the queues are down. That the journal was never tried in vain is not enough: its
    /// table may not be there yet.
    fn has_an_outbox(&self, outbox_orders: Option<u64>) -> bool {
        let takes = self.ports.journal.as_ref().is_some_and(|journal| journal.takes().is_ok());
        self.takes_orders && takes && outbox_orders.is_some()
    }
}

fn part(name: &'static str, answer: Result<Result<(), Unavailable>, tokio::time::error::Elapsed>) -> Part {
    let down = match answer {
        Ok(Ok(())) => None,
        Ok(Err(unavailable)) => Some(unavailable.reason),
        Err(_elapsed) => Some(format!("no answer within {} s", CHECK_TIMEOUT.as_secs())),
    };
    Part { name, down, warning: None }
}

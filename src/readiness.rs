//! Whether this process can do its work, and if not, whose fault it is.

use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::ports::{Ports, Unavailable};

/// A part that takes longer than this to say how it is counts as down.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks all parts when it is asked.
#[derive(Clone)]
pub struct Readiness {
    pub ports: Ports,
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
}

impl Readiness {
    /// How this process is, and each part it needs.
    pub async fn report(&self) -> (Condition, Vec<Part>) {
        let Ports { queues, in_flight, archive, .. } = &self.ports;
        let checks = [queues.check(), in_flight.check(), archive.check()];
        let checks = checks.map(|check| tokio::time::timeout(CHECK_TIMEOUT, check));
        let answers = join_all(checks).await;
        let parts: Vec<Part> = self.names.into_iter().zip(answers).map(|(name, answer)| part(name, answer)).collect();
        let condition = match &parts[..] {
            _ if self.stopping.is_cancelled() => Condition::Stopping,
            [queues, ..] if queues.down.is_some() && !self.has_an_outbox() => Condition::Unavailable,
            others if others.iter().any(|part| part.down.is_some()) => Condition::Degraded,
            _ => Condition::Ready,
        };
        (condition, parts)
    }
}

impl Readiness {
    /// Whether orders can be taken while the queues are down.
    fn has_an_outbox(&self) -> bool {
        self.takes_orders && self.ports.journal.as_ref().is_some_and(|journal| journal.takes().is_ok())
    }
}

fn part(name: &'static str, answer: Result<Result<(), Unavailable>, tokio::time::error::Elapsed>) -> Part {
    let down = match answer {
        Ok(Ok(())) => None,
        Ok(Err(unavailable)) => Some(unavailable.reason),
        Err(_elapsed) => Some(format!("no answer within {} s", CHECK_TIMEOUT.as_secs())),
    };
    Part { name, down }
}

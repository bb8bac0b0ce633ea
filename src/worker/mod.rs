//! The loop every order passes at every stage, and the only owner of the order of effects.
//!
//! ```text
//!  receive ─▶ begin ─▶ handle ─▶ record ─▶ carry out ─▶ settle
//!                │                             ├ advance ─▶ next stage's queue
//!                │                             ├ retry   ─▶ delay queue
//!                │                             └ end     ─▶ archive, then the record's end
//!                ├ recorded before ────────────▲   (or the queue `ending` while the archive is out of reach)
//!                └ passed ──────────────────────────────▶ settle
//! ```
//!
//! **Next place first, ack last.** An order leaves a queue only when its next place has confirmed that it holds it. A
//! crash at any point means that the order is delivered again, and the in-flight store says how far it had come.
//!
//! `unpack` opens deliveries; `receive` takes deliveries (`line` knows how long they have waited), begins their orders and has the handler work on them; `finish` records outcomes and
//! carries the recorded ones out; `outbound` and `archiver` are the two ways on, each with group commit; `ending`
//! drains what waited for the archive; `outside` is told of all of it. They are joined by bounded channels, and each order carries its [`hold::Ticket`]:
//! whoever drops an order without settling it gives its delivery back.
//!
//! # Failure handling
//! - The in-flight store out of reach: work goes on without its fence; a handler may then be called again with the
//!   same key, and the archive's first row decides.
//! - The queues out of reach: what is held is tried again for a while and then let go of; it is delivered again.
//! - The archive out of reach: ended orders go to the queue `ending`.
//! - Events for webhooks are told before the order goes on (`outside`): they are held up by what holds up the order.

mod archiver;
mod ending;
mod finish;
pub mod hold;
mod line;
mod outbound;
mod outside;
mod receive;
mod unpack;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batch::{BatchLimits, Batches};
use crate::domain::{RetryPolicy, Stage};
use crate::gate::Gate;
use crate::handlers::Handler;
use crate::metrics::Metrics;
use crate::ports::Ports;

/// How one stage is worked on.
pub struct StageOptions {
    pub stage: Stage,
    pub handler: Arc<dyn Handler>,
    /// What holds the stage up beside the handler.
    pub gates: Vec<watch::Receiver<Gate>>,
    /// Orders the handler works on at once.
    pub at_once: usize,
    /// Messages held at once.
    pub prefetch: u16,
    pub retry: RetryPolicy,
    /// An attempt begun more often than this ends the order: it brings its workers down.
    pub max_deliveries: u32,
}

pub struct WorkerOptions {
    /// Who did a step: named in every step of every order.
    pub name: Arc<str>,
    pub batch: BatchLimits,
    pub metrics: Arc<Metrics>,
}

/// Orders that may wait between two parts of the loop. Small: what waits here is held in no queue's stead, and a
/// deep line only makes orders wait in memory instead of in the queues.
const CHANNEL_ORDERS: usize = 1_024;

/// The stages of one process at work.
pub struct Worker {
    /// Receivers: they stop first.
    receiving: TaskTracker,
    /// Everything behind them: stops by itself when the last order in hand is gone.
    finishing: TaskTracker,
    stop: CancellationToken,
}

impl Worker {
    /// Starts work on `stages`, and the draining of `ending`, on the current runtime.
    pub fn start(options: &WorkerOptions, ports: &Ports, stages: Vec<StageOptions>) -> Worker {
        let (receiving, finishing, stop) = (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
        let (archive_sender, to_archive) = mpsc::channel(CHANNEL_ORDERS);
        let outside = outside::Outside::new(ports);
        let archive = archiver::Archive {
            ports: ports.clone(),
            metrics: options.metrics.clone(),
            outside: outside.clone(),
            stop: stop.clone(),
        };
        let to_archive = Batches::new(to_archive, options.batch);
        finishing.spawn(archiver::Archiver::new(archive.clone(), to_archive, stop.clone()).run());
        receiving.spawn(ending::run(archive, options.batch, stop.clone()));
        for stage in stages {
            let (outbound_sender, outgoing) = mpsc::channel(CHANNEL_ORDERS);
            let (finished_sender, finished) = mpsc::channel(CHANNEL_ORDERS);
            let outbound =
                outbound::Outbound::new(ports, outside.clone(), Batches::new(outgoing, options.batch), stop.clone());
            finishing.spawn(outbound.run());
            let finisher = finish::Finisher {
                stage: stage.stage,
                ports: ports.clone(),
                metrics: options.metrics.clone(),
                finished: Batches::new(finished, options.batch),
                outbound: outbound_sender,
                archiver: archive_sender.clone(),
            };
            finishing.spawn(finisher.run());
            let receiver =
                receive::Receiver::new(options, ports, outside.clone(), stage, finished_sender, stop.clone());
            receiving.spawn(receiver.run());
        }
        receiving.close();
        finishing.close();
        Worker { receiving, finishing, stop }
    }

    /// Takes nothing more, and finishes what is in hand or, after `deadline`, gives it back.
    pub async fn stop(self, deadline: Duration) {
        self.stop.cancel();
        let done = async {
            self.receiving.wait().await;
            self.finishing.wait().await;
        };
        if tokio::time::timeout(deadline, done).await.is_err() {
            tracing::warn!("some orders were still at work: they are given back");
        }
    }
}

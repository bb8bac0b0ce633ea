//! What a process does: puts the parts together by the settings, runs them, and takes them down in order.

mod backend;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use backend::BackendError;
use backend::{Backend, Servers};

use crate::api::{Api, ApiOptions, Orders, Services};
use crate::batch::BatchLimits;
use crate::dead_letters::DeadLetterOffice;
use crate::domain::Stage;
use crate::handlers::{Handler, NoWork, Simulated};
use crate::intake::{Backlog, Intake, IntakeOptions, Journaling};
use crate::lookup::Lookup;
use crate::ports::Ports;
use crate::process;
use crate::readiness::Readiness;
use crate::settings::{self, Settings};
use crate::upkeep::{Upkeep, UpkeepOptions};
use crate::worker::{StageOptions, Worker, WorkerOptions};

/// Why a role could not run. None of these passes by itself.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("cannot listen on {address}")]
    Listen { address: String, source: std::io::Error },
    #[error("cannot serve HTTP")]
    Serve(#[source] std::io::Error),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Orders in, and all stages, in one process.
///
/// # Errors
/// [`RoleError`], before anything was taken.
pub async fn all(settings: Settings) -> Result<(), RoleError> {
    run(&settings, Parts { orders: true, listen: Some(&settings.listen), stages: &Stage::ALL }).await
}

/// Orders in.
///
/// # Errors
/// [`RoleError`], before anything was taken.
pub async fn api(settings: Settings) -> Result<(), RoleError> {
    run(&settings, Parts { orders: true, listen: Some(&settings.listen), stages: &[] }).await
}

/// The work of `stages`.
///
/// # Errors
/// [`RoleError`], before anything was taken.
pub async fn worker(settings: Settings, stages: Vec<Stage>) -> Result<(), RoleError> {
    run(&settings, Parts { orders: false, listen: settings.health_listen.as_ref(), stages: &stages }).await
}

/// Brings the archive's schema up to date.
///
/// # Errors
/// [`RoleError::Backend`] if Postgres is out of reach or refuses.
pub async fn migrate(settings: Settings) -> Result<(), RoleError> {
    Ok(Servers::migrate_once(&settings).await?)
}

/// What a role consists of.
struct Parts<'a> {
    /// Whether it takes orders and answers for them.
    orders: bool,
    /// Where it serves HTTP; health at least.
    listen: Option<&'a settings::Address>,
    stages: &'a [Stage],
}

async fn run(settings: &Settings, parts: Parts<'_>) -> Result<(), RoleError> {
    let stop = process::stop_signal().map_err(RoleError::Signals)?;
    // The port first: the likeliest error of a second start, and the cheapest to find.
    let listener = parts.listen.map(listen).transpose()?;
    let backend = Backend::open(settings)?;
    let ports = backend.ports();
    let backlog = Backlog::default();
    let upkeep = Upkeep::start(&upkeep_options(settings), &ports, parts.orders.then(|| backlog.clone()));
    let worker = (!parts.stages.is_empty()).then(|| start_worker(settings, &ports, parts.stages));
    let stopping = CancellationToken::new();
    let api = match listener {
        Some(listener) => {
            let services = parts.orders.then(|| Services {
                orders: orders(settings, &ports, backlog),
                dead_letters: DeadLetterOffice::new(&ports),
            });
            let readiness = Readiness {
                ports: ports.clone(),
                takes_orders: parts.orders,
                stopping: stopping.clone(),
                names: backend.names(),
            };
            Some(Api::start(listener, api_options(settings), services, readiness).map_err(RoleError::Serve)?)
        }
        None => None,
    };
    announce(settings, &parts, api.as_ref().map(Api::address));
    process::notify_ready();

    stop.cancelled().await;
    process::notify_stopping();
    stopping.cancel();
    let end = Instant::now() + settings.stop_timeout;
    let left = || end.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
    // Side by side: the requests that are under way do not need the workers, only the queues.
    let stop_api = async {
        if let Some(api) = api {
            api.stop(left()).await;
        }
    };
    let stop_worker = async {
        if let Some(worker) = worker {
            worker.stop(left()).await;
        }
    };
    tokio::join!(stop_api, stop_worker, upkeep.stop(left()));
    ports.queues.close().await;
    backend.close().await;
    tracing::info!("stopped");
    Ok(())
}

fn listen(address: &settings::Address) -> Result<TcpListener, RoleError> {
    let bound = TcpListener::bind(address.as_pair());
    bound.map_err(|source| RoleError::Listen { address: address.to_string(), source })
}

fn batch_limits(settings: &Settings) -> BatchLimits {
    BatchLimits { orders_max: settings.batch.orders_max, bytes_max: settings.batch.bytes_max }
}

fn orders(settings: &Settings, ports: &Ports, backlog: Backlog) -> Orders {
    let options = IntakeOptions {
        batch: batch_limits(settings),
        waiting_max: settings.api.requests_max,
        journaling: match settings.journal {
            settings::Journal::Off => Journaling::Needed,
            settings::Journal::Accepted => Journaling::All,
        },
    };
    Orders {
        intake: Intake::start(options, ports, backlog),
        lookup: Lookup::new(ports),
        body_bytes_max: settings.api.body_max_bytes,
        body_timeout: settings.api.request_timeout,
    }
}

fn api_options(settings: &Settings) -> ApiOptions {
    let threads = match settings.api.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    ApiOptions { threads, connections_max: settings.api.connections_max, request_timeout: settings.api.request_timeout }
}

fn upkeep_options(settings: &Settings) -> UpkeepOptions {
    UpkeepOptions {
        // A name can be given twice, a lease must not be.
        holder: format!("{} {:08x}", settings.worker_name, rand::random::<u32>()).into(),
        batch: batch_limits(settings),
        reconcile_after: settings.reconcile_after,
        backlog_max_messages: settings.api.backlog_max_messages,
    }
}

fn start_worker(settings: &Settings, ports: &Ports, stages: &[Stage]) -> Worker {
    let options = WorkerOptions { name: settings.worker_name.clone(), batch: batch_limits(settings) };
    let stages = stages.iter().map(|stage| stage_options(settings, *stage)).collect();
    Worker::start(&options, ports, stages)
}

fn stage_options(settings: &Settings, stage: Stage) -> StageOptions {
    let of_stage = &settings.stages[stage];
    let handler: Arc<dyn Handler> = match of_stage.handler {
        settings::Handler::None => Arc::new(NoWork),
        settings::Handler::Simulated { delay, failure_rate } => Arc::new(Simulated::new(delay, failure_rate)),
    };
    StageOptions {
        stage,
        handler,
        at_once: of_stage.at_once,
        prefetch: of_stage.prefetch,
        retry: of_stage.retry,
        max_deliveries: settings.max_deliveries,
    }
}

/// Says on stdout where the process listens, and on a first start what to do with it.
fn announce(settings: &Settings, parts: &Parts<'_>, address: Option<SocketAddr>) {
    let mut text = String::new();
    if let Some(address) = address {
        text += &format!("listening on http://{address}\n");
        if parts.orders && settings.backend == settings::Backend::Embedded {
            text += &format!("orders are kept in {}\n", absolute(&settings.data_dir));
        }
        if parts.orders && !parts.stages.is_empty() {
            text += &format!("\n{}\n", first_order(address));
        }
    }
    let stages: Vec<&str> = parts.stages.iter().map(|stage| stage.as_kebab()).collect();
    tracing::info!(worker = %settings.worker_name, stages = stages.join(","), "started");
    // Nobody has to read it: a closed stdout stops nothing.
    let _ = std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush());
}

fn absolute(path: &std::path::Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn first_order(address: SocketAddr) -> String {
    // An address to listen on everywhere is none to connect to.
    let host = if address.ip().is_unspecified() { "127.0.0.1".into() } else { address.ip().to_string() };
    let host = if address.is_ipv6() && !address.ip().is_unspecified() { format!("[{host}]") } else { host };
    format!(
        "place an order, then read it where `location` says:\n  \
         curl -i http://{host}:{port}/v1/orders -H 'Content-Type: application/json' -d '\
         {{\"customer_id\":\"17850\",\"currency\":\"EUR\",\"items\":[{{\"sku\":\"TEA-100\",\"quantity\":2,\"unit_price\":\"6.40\"}}]}}'",
        port = address.port(),
    )
}

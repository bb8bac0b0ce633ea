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

use crate::api::{Api, ApiOptions, Life, Orders, Services, Stages, StreamOptions};
use crate::batch::BatchLimits;
use crate::cancel::Canceller;
use crate::dead_letters::DeadLetterOffice;
use crate::domain::Stage;
use crate::handlers::{Handlers, HttpHandler, HttpOptions, NoWork, Simulated};
use crate::intake::{Backlog, Intake, IntakeOptions, Journaling};
use crate::live::Live;
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::pauses::PausedStages;
use crate::portions::Portioned;
use crate::ports::Ports;
use crate::process;
use crate::readiness::Readiness;
use crate::settings::{self, Settings};
use crate::try_again::TryAgain;
use crate::upkeep::{Upkeep, UpkeepOptions, WebhookOptions};
use crate::webhooks::WebhookOffice;
use crate::webhooks::sender::{RetryOptions, Sender};
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
    #[error("the http handler of {stage} cannot be set up")]
    HttpHandler { stage: Stage, source: reqwest::Error },
    #[error("webhooks cannot be called")]
    Webhooks(#[source] reqwest::Error),
    /// The program brings a handler, and the settings name one.
    #[error(
        "stages.{stage}.handler is set, and this program has a handler of its own for the stage: leave it at `none`"
    )]
    TwoHandlers { stage: Stage },
}

/// Orders in, and all stages, in one process.
///
/// # Errors
/// [`RoleError`], before anything was taken.
pub async fn all(settings: Settings) -> Result<(), RoleError> {
    all_with(settings, Handlers::default()).await
}

/// As [`all`], with handlers that this program brings for some of the stages; the settings say what is done at the others.
///
/// # Errors
/// [`RoleError`], before anything was taken.
pub async fn all_with(settings: Settings, handlers: Handlers) -> Result<(), RoleError> {
    let parts = Parts { orders: true, listen: Some(&settings.listen), stages: &Stage::ALL };
    run(&settings, parts, &handlers).await
}

/// Orders in.
///
/// # Errors
/// [`RoleError`], before anything was taken.
pub async fn api(settings: Settings) -> Result<(), RoleError> {
    let parts = Parts { orders: true, listen: Some(&settings.listen), stages: &[] };
    run(&settings, parts, &Handlers::default()).await
}

/// The work of `stages`.
///
/// # Errors
/// [`RoleError`], before anything was taken.
pub async fn worker(settings: Settings, stages: Vec<Stage>) -> Result<(), RoleError> {
    worker_with(settings, stages, Handlers::default()).await
}

/// As [`worker`], with handlers that this program brings for some of the stages; the settings say what is done at the
/// others.
///
/// # Errors
/// [`RoleError`], before anything was taken.
pub async fn worker_with(settings: Settings, stages: Vec<Stage>, handlers: Handlers) -> Result<(), RoleError> {
    let parts = Parts { orders: false, listen: settings.health_listen.as_ref(), stages: &stages };
    run(&settings, parts, &handlers).await
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

async fn run(settings: &Settings, parts: Parts<'_>, handlers: &Handlers) -> Result<(), RoleError> {
    process::install_tls();
    // Before anything is opened: what is wrong here does not pass.
    let paused = PausedStages::default();
    let stages = stages(settings, parts.stages, handlers, &paused)?;
    let sender = Sender::new(settings.webhooks.timeout).map_err(RoleError::Webhooks)?;
    let stop = process::stop_signal().map_err(RoleError::Signals)?;
    // The port first: the likeliest error of a second start, and the cheapest to find.
    let listener = parts.listen.map(listen).transpose()?;
    let backend = Backend::open(settings)?;
    let mut ports = backend.ports();
    ports.queues =
        Arc::new(Portioned::new(ports.queues, |stage| settings.stages[stage].batch_max(settings.batch.orders_max)));
    let backlog = Backlog::default();
    let metrics = Arc::new(Metrics::default());
    let upkeep_options = upkeep_options(settings, parts.stages, &paused, &metrics, sender.clone());
    let upkeep = Upkeep::start(&upkeep_options, &ports, parts.orders.then(|| backlog.clone()));
    let worker = (!stages.is_empty()).then(|| start_worker(settings, &ports, &metrics, stages));
    let stopping = CancellationToken::new();
    let api = match listener {
        Some(listener) => {
            let services = parts.orders.then(|| Services {
                orders: orders(settings, &ports, backlog, &metrics),
                life: Life {
                    canceller: Canceller::new(&ports, metrics.clone()),
                    try_again: TryAgain::new(&ports, batch_limits(settings), metrics.clone()),
                },
                dead_letters: DeadLetterOffice::new(&ports),
                stages: Stages {
                    pauses: ports.pauses.clone(),
                    clock: ports.clock.clone(),
                    body_timeout: settings.api.request_timeout,
                },
                webhooks: WebhookOffice::new(&ports, sender),
                live: ports.feed.clone().map(Live::start),
            });
            let readiness = Readiness {
                ports: ports.clone(),
                metrics: metrics.clone(),
                paused,
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

fn orders(settings: &Settings, ports: &Ports, backlog: Backlog, metrics: &Arc<Metrics>) -> Orders {
    let options = IntakeOptions {
        batch: batch_limits(settings),
        waiting_max: settings.api.requests_max,
        journaling: match settings.journal {
            settings::Journal::Off => Journaling::Needed,
            settings::Journal::Accepted => Journaling::All,
        },
    };
    Orders {
        intake: Intake::start(options, ports, backlog, metrics.clone()),
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
    ApiOptions {
        threads,
        connections_max: settings.api.connections_max,
        request_timeout: settings.api.request_timeout,
        streams: StreamOptions { streams_max: settings.api.event_streams_max, heartbeat: settings.api.event_heartbeat },
    }
}

fn upkeep_options(
    settings: &Settings,
    stages: &[Stage],
    paused: &PausedStages,
    metrics: &Arc<Metrics>,
    sender: Sender,
) -> UpkeepOptions {
    let settings::Webhooks { timeout: _, at_once, retry_base, retry_cap, give_up_after } = settings.webhooks;
    UpkeepOptions {
        // A name can be given twice, a lease must not be.
        holder: format!("{} {:08x}", settings.worker_name, rand::random::<u32>()).into(),
        batch: batch_limits(settings),
        reconcile_after: settings.reconcile_after,
        backlog_max_messages: settings.api.backlog_max_messages,
        paused: paused.clone(),
        start_paused: stages.iter().copied().filter(|stage| settings.start_paused.contains(stage)).collect(),
        metrics: metrics.clone(),
        webhooks: WebhookOptions {
            sender,
            at_once,
            retry: RetryOptions { base: retry_base, cap: retry_cap, give_up_after },
        },
    }
}

fn start_worker(settings: &Settings, ports: &Ports, metrics: &Arc<Metrics>, stages: Vec<StageOptions>) -> Worker {
    let options =
        WorkerOptions { name: settings.worker_name.clone(), batch: batch_limits(settings), metrics: metrics.clone() };
    Worker::start(&options, ports, stages)
}

/// How each of `stages` is worked on: by the handler that the program brings, or the one that the settings name.
fn stages(
    settings: &Settings,
    stages: &[Stage],
    handlers: &Handlers,
    paused: &PausedStages,
) -> Result<Vec<StageOptions>, RoleError> {
    if let Some(stage) = Stage::ALL
        .into_iter()
        .find(|stage| handlers.get(*stage).is_some() && settings.stages[*stage].handler != settings::Handler::None)
    {
        return Err(RoleError::TwoHandlers { stage });
    }
    stages.iter().map(|stage| stage_options(settings, *stage, handlers, paused)).collect()
}

fn stage_options(
    settings: &Settings,
    stage: Stage,
    handlers: &Handlers,
    paused: &PausedStages,
) -> Result<StageOptions, RoleError> {
    let of_stage = &settings.stages[stage];
    let mut at_once = of_stage.at_once;
    let handler = match (handlers.get(stage), &of_stage.handler) {
        (Some(own), _) => own,
        (None, settings::Handler::None) => Arc::new(NoWork),
        (None, settings::Handler::Simulated { delay, failure_rate }) => Arc::new(Simulated::new(*delay, *failure_rate)),
        (None, settings::Handler::Http(http)) => {
            at_once = at_once.min(at_once_for(http));
            let options = http_options(stage, http);
            Arc::new(HttpHandler::new(options).map_err(|source| RoleError::HttpHandler { stage, source })?)
        }
    };
    Ok(StageOptions {
        stage,
        handler,
        gates: vec![paused.gate(stage)],
        at_once,
        prefetch: of_stage.prefetch(of_stage.batch_max(settings.batch.orders_max), at_once),
        retry: of_stage.retry,
        max_deliveries: settings.max_deliveries,
    })
}

/// As many orders as make full use of the rate when every call takes as long as it may. More would only wait in hand for
/// their turn, and longer than the queue lets a worker hold them.
fn at_once_for(http: &settings::Http) -> usize {
    let Some(per_second) = http.calls_per_second else { return usize::MAX };
    let longest_secs = http.timeout.as_secs() + 1;
    usize::try_from(u64::from(per_second) * longest_secs).unwrap_or(usize::MAX)
}

fn http_options(stage: Stage, http: &settings::Http) -> HttpOptions {
    HttpOptions {
        stage,
        url: http.url.expose().parse().expect("the settings have seen it read"),
        timeout: http.timeout,
        headers: http.headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect(),
        secrets: http.secrets.clone(),
        calls_per_second: http.calls_per_second,
        breaker: http.breaker,
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

//! The settings as the rest of the program takes them: one struct for each concern, units in the names or types.
//! What each of them means stands in [`super::keys::KEYS`], under the name given here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::http::SecretHeader;
use super::urls::{Address, SecretUrl};
use super::values::Values;
use crate::domain::{RetryPolicy, Stage};
use crate::handlers::BreakerPolicy;
use crate::handlers::signature::Secret;

#[derive(Clone, Debug)]
pub struct Settings {
    pub backend: Backend,
    pub namespace: String,
    pub listen: Address,
    pub health_listen: Option<Address>,
    pub data_dir: PathBuf,
    pub migrate_at_start: bool,
    pub stop_timeout: Duration,
    /// `worker_name`, or the host's name and the process id.
    pub worker_name: Arc<str>,
    pub max_deliveries: u32,
    pub start_paused: Vec<Stage>,
    pub journal: Journal,
    pub reconcile_after: Duration,
    /// Whether `events` is `on`.
    pub events: bool,
    pub webhooks: Webhooks,
    pub log: Log,
    pub api: Api,
    pub batch: Batch,
    pub stages: Stages,
    pub rabbitmq: RabbitMq,
    pub redis: Redis,
    pub postgres: Postgres,
}

/// `backend`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Embedded,
    Servers,
}

/// `journal`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    Off,
    Accepted,
}

/// `webhooks.…`
#[derive(Clone, Copy, Debug)]
pub struct Webhooks {
    pub timeout: Duration,
    pub at_once: usize,
    pub retry_base: Duration,
    pub retry_cap: Duration,
    pub give_up_after: Duration,
}

/// `log.…`
#[derive(Clone, Debug)]
pub struct Log {
    /// Directives that `tracing_subscriber::EnvFilter` has been seen to read.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    Auto,
    Pretty,
    Json,
}

/// `api.…`
#[derive(Clone, Debug)]
pub struct Api {
    pub body_max_bytes: usize,
    pub requests_max: usize,
    pub backlog_max_messages: u64,
    pub request_timeout: Duration,
    pub connections_max: usize,
    /// 0 for one per core.
    pub threads: usize,
    pub event_streams_max: usize,
    pub event_heartbeat: Duration,
}

/// `batch.…`
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    pub orders_max: usize,
    pub bytes_max: usize,
}

/// `stages.…`, by stage.
#[derive(Clone, Debug)]
pub struct Stages([StageSettings; 4]);

impl std::ops::Index<Stage> for Stages {
    type Output = StageSettings;

    fn index(&self, stage: Stage) -> &StageSettings {
        &self.0[stage.index()]
    }
}

/// `stages.<stage>.…`
#[derive(Clone, Debug)]
pub struct StageSettings {
    pub handler: Handler,
    pub at_once: usize,
    /// As given; see [`StageSettings::batch_max`].
    batch_max: usize,
    /// As given; see [`StageSettings::prefetch`].
    prefetch: u16,
    /// `attempts_max`, `backoff_base` and `backoff_cap`.
    pub retry: RetryPolicy,
}

/// `stages.<stage>.handler` and the settings of that handler.
#[derive(Clone, Debug, PartialEq)]
pub enum Handler {
    None,
    Simulated {
        delay: Duration,
        /// From 0 to 1.
        failure_rate: f64,
    },
    Http(Box<Http>),
}

/// The settings of the handler `http`.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// One that `reqwest::Url` has been seen to read.
    pub url: SecretUrl,
    pub timeout: Duration,
    pub headers: Vec<SecretHeader>,
    pub secrets: Vec<Secret>,
    /// `None` for no limit.
    pub calls_per_second: Option<u32>,
    pub breaker: BreakerPolicy,
}

/// `amqp_urls` and `rabbitmq.…`
#[derive(Clone, Debug)]
pub struct RabbitMq {
    /// At least one.
    pub urls: Vec<SecretUrl>,
    pub confirm_deadline: Duration,
    /// In whole seconds.
    pub heartbeat: Duration,
    pub connect_timeout: Duration,
}

/// `redis_url` and `redis.…`
#[derive(Clone, Debug)]
pub struct Redis {
    pub url: SecretUrl,
    pub timeout: Duration,
    pub connections: usize,
    pub in_flight_ttl: Duration,
    pub ended_ttl: Duration,
}

/// `postgres_url` and `postgres.…`
#[derive(Clone, Debug)]
pub struct Postgres {
    pub url: SecretUrl,
    pub pool_max: usize,
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
}

impl Settings {
    pub(super) fn from_values(values: &Values) -> Settings {
        Settings {
            backend: match values.text("backend") {
                "servers" => Backend::Servers,
                _ => Backend::Embedded,
            },
            namespace: values.text("namespace").to_owned(),
            listen: values.address("listen").clone(),
            health_listen: values.optional_address("health_listen").cloned(),
            data_dir: values.text("data_dir").into(),
            migrate_at_start: values.boolean("migrate_at_start"),
            stop_timeout: values.duration("stop_timeout"),
            worker_name: values.optional_text("worker_name").map_or_else(host_and_process, str::to_owned).into(),
            max_deliveries: values.whole("max_deliveries"),
            start_paused: values.stages("start_paused").to_vec(),
            journal: match values.text("journal") {
                "accepted" => Journal::Accepted,
                _ => Journal::Off,
            },
            reconcile_after: values.duration("reconcile_after"),
            events: values.text("events") == "on",
            webhooks: Webhooks {
                timeout: values.duration("webhooks.timeout"),
                at_once: values.whole("webhooks.at_once"),
                retry_base: values.duration("webhooks.retry_base"),
                retry_cap: values.duration("webhooks.retry_cap"),
                give_up_after: values.duration("webhooks.give_up_after"),
            },
            log: Log {
                level: values.text("log.level").to_owned(),
                format: match values.text("log.format") {
                    "pretty" => LogFormat::Pretty,
                    "json" => LogFormat::Json,
                    _ => LogFormat::Auto,
                },
            },
            api: Api {
                body_max_bytes: values.whole("api.body_max"),
                requests_max: values.whole("api.requests_max"),
                backlog_max_messages: values.whole("api.backlog_max"),
                request_timeout: values.duration("api.request_timeout"),
                connections_max: values.whole("api.connections_max"),
                threads: values.whole("api.threads"),
                event_streams_max: values.whole("api.event_streams_max"),
                event_heartbeat: values.duration("api.event_heartbeat"),
            },
            batch: Batch { orders_max: values.whole("batch.orders_max"), bytes_max: values.whole("batch.bytes_max") },
            stages: Stages(Stage::ALL.map(|stage| StageSettings::from_values(stage, values))),
            rabbitmq: RabbitMq {
                urls: values.urls("amqp_urls").to_vec(),
                confirm_deadline: values.duration("rabbitmq.confirm_deadline"),
                heartbeat: values.duration("rabbitmq.heartbeat"),
                connect_timeout: values.duration("rabbitmq.connect_timeout"),
            },
            redis: Redis {
                url: values.url("redis_url"),
                timeout: values.duration("redis.timeout"),
                connections: values.whole("redis.connections"),
                in_flight_ttl: values.duration("redis.in_flight_ttl"),
                ended_ttl: values.duration("redis.ended_ttl"),
            },
            postgres: Postgres {
                url: values.url("postgres_url"),
                pool_max: values.whole("postgres.pool_max"),
                connect_timeout: values.duration("postgres.connect_timeout"),
                statement_timeout: values.duration("postgres.statement_timeout"),
            },
        }
    }
}

/// Messages held at once, if nothing is said.
const PREFETCH: u16 = 64;
/// The bounds of what is made out for the http handler.
const PREFETCH_MIN: usize = 4;
const PREFETCH_MAX: usize = 10_000;

/// Every setting at its default.
impl Default for Settings {
    fn default() -> Self {
        Settings::from_values(&Values::defaults())
    }
}

impl StageSettings {
    /// The most orders in a message to the stage, where no message has more than `orders_max`.
    pub fn batch_max(&self, orders_max: usize) -> usize {
        let batch_max = match (self.batch_max, &self.handler) {
            (0, Handler::Http(_)) => 1,
            (0, Handler::None | Handler::Simulated { .. }) => orders_max,
            (given, _) => given,
        };
        batch_max.min(orders_max)
    }

    /// Messages that a worker holds at once, of `batch_max` orders each, where the handler takes `at_once` orders.
    pub fn prefetch(&self, batch_max: usize, at_once: usize) -> u16 {
        match (self.prefetch, &self.handler) {
            // As many orders wait in hand as are at work: the handler is never idle, and what is held ends soon.
            (0, Handler::Http(_)) => {
                let messages = at_once.saturating_mul(2).div_ceil(batch_max.max(1)).clamp(PREFETCH_MIN, PREFETCH_MAX);
                u16::try_from(messages).unwrap_or(u16::MAX)
            }
            (0, Handler::None | Handler::Simulated { .. }) => PREFETCH,
            (given, _) => given,
        }
    }

    fn from_values(stage: Stage, values: &Values) -> StageSettings {
        let name = |setting: &str| format!("stages.{stage}.{setting}");
        StageSettings {
            handler: match values.text(&name("handler")) {
                "simulated" => Handler::Simulated {
                    delay: values.duration(&name("delay")),
                    failure_rate: values.fraction(&name("failure_rate")),
                },
                "http" => Handler::Http(Box::new(Http {
                    url: values.url(&name("url")),
                    timeout: values.duration(&name("timeout")),
                    headers: values.headers(&name("headers")).to_vec(),
                    secrets: values.secrets(&name("signing_secret")).to_vec(),
                    calls_per_second: Some(values.whole(&name("calls_per_second"))).filter(|calls| *calls > 0),
                    breaker: BreakerPolicy {
                        failures: values.whole(&name("breaker_failures")),
                        pause_base: values.duration(&name("breaker_pause_base")),
                        pause_cap: values.duration(&name("breaker_pause_cap")),
                    },
                })),
                _ => Handler::None,
            },
            at_once: values.whole(&name("at_once")),
            batch_max: values.whole(&name("batch_max")),
            prefetch: values.whole(&name("prefetch")),
            retry: RetryPolicy {
                attempts_max: values.whole(&name("attempts_max")),
                base: values.duration(&name("backoff_base")),
                cap: values.duration(&name("backoff_cap")),
            },
        }
    }
}

/// Tells this process from every other one that works on the same queues.
fn host_and_process() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| "worker".to_owned());
    format!("{}-{}", host.trim(), std::process::id())
}

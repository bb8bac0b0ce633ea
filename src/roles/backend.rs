//! The two back ends behind the ports. Which one is in force is said in the settings and nowhere else: there is no
//! silent fallback from one to the other.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::adapters::embedded::{Embedded, EmbeddedFeed, EmbeddedOptions, OpenError};
use crate::adapters::postgres::{MigrateError, PostgresArchive, PostgresOptions, PostgresStores};
use crate::adapters::rabbitmq::{RabbitOptions, RabbitQueues};
use crate::adapters::redis::{RedisFeed, RedisInFlight, RedisOptions};
use crate::ports::{Feed, Ports, SystemClock, SystemRandom};
use crate::settings::{self, Settings};

/// Why a back end could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error(transparent)]
    Embedded(#[from] OpenError),
    /// An address that the settings let pass and the adapter cannot read.
    #[error("{setting}: {reason}")]
    Address { setting: &'static str, reason: String },
    #[error("the schema of Postgres could not be brought up to date")]
    Migrate(#[from] MigrateError),
}

pub(super) enum Backend {
    Embedded(Embedded, Option<Arc<EmbeddedFeed>>),
    Servers(Servers),
}

impl Backend {
    /// Opens the embedded one; connects to the servers in the background.
    pub(super) fn open(settings: &Settings) -> Result<Backend, BackendError> {
        match settings.backend {
            settings::Backend::Embedded => {
                let options =
                    EmbeddedOptions { ended_ttl: settings.redis.ended_ttl, ..EmbeddedOptions::new(&settings.data_dir) };
                let feed = settings.events.then(Arc::default);
                Ok(Backend::Embedded(Embedded::open(options)?, feed))
            }
            settings::Backend::Servers => Ok(Backend::Servers(Servers::start(settings)?)),
        }
    }

    pub(super) fn ports(&self) -> Ports {
        match self {
            Backend::Embedded(embedded, feed) => Ports {
                queues: embedded.queues(),
                in_flight: embedded.in_flight(),
                archive: embedded.archive(),
                cancellations: embedded.cancellations(),
                dead_letters: embedded.dead_letters(),
                pauses: embedded.pauses(),
                webhooks: embedded.webhooks(),
                journal: None,
                feed: feed.clone().map(|feed| feed as Arc<dyn Feed>),
                leases: None,
                clock: Arc::new(SystemClock),
                random: Arc::new(SystemRandom),
            },
            Backend::Servers(servers) => Ports {
                queues: servers.queues.clone(),
                in_flight: servers.in_flight.clone(),
                archive: servers.stores.archive.clone(),
                cancellations: servers.stores.cancellations.clone(),
                dead_letters: servers.stores.dead_letters.clone(),
                pauses: servers.stores.pauses.clone(),
                webhooks: servers.stores.webhooks.clone(),
                journal: Some(servers.stores.journal.clone()),
                feed: servers.feed.clone().map(|feed| feed as Arc<dyn Feed>),
                leases: Some(servers.stores.leases.clone()),
                clock: Arc::new(SystemClock),
                random: Arc::new(SystemRandom),
            },
        }
    }

    /// What an operator calls the queues, the in-flight store and the archive.
    pub(super) fn names(&self) -> [&'static str; 3] {
        match self {
            Backend::Embedded(..) => ["queues (SQLite)", "in-flight store (SQLite)", "archive (SQLite)"],
            Backend::Servers(_) => ["RabbitMQ", "Redis", "Postgres"],
        }
    }

    pub(super) async fn close(self) {
        match self {
            Backend::Embedded(embedded, _) => embedded.close().await,
            Backend::Servers(_) => {}
        }
    }
}

/// RabbitMQ, Redis and Postgres.
pub(super) struct Servers {
    queues: Arc<RabbitQueues>,
    in_flight: Arc<RedisInFlight>,
    feed: Option<Arc<RedisFeed>>,
    stores: PostgresStores,
}

/// The waits before a migration is tried again while Postgres is out of reach.
const MIGRATE_WAIT_MIN: Duration = Duration::from_millis(250);
const MIGRATE_WAIT_MAX: Duration = Duration::from_secs(5);

impl Servers {
    fn start(settings: &Settings) -> Result<Servers, BackendError> {
        let stores = start_stores(settings)?;
        let in_flight = RedisInFlight::start(redis_options(settings))
            .map_err(|reason| BackendError::Address { setting: "redis_url", reason })?;
        let feed = settings.events.then(|| RedisFeed::start(&redis_options(settings))).transpose();
        let feed = feed.map_err(|reason| BackendError::Address { setting: "redis_url", reason })?;
        if settings.migrate_at_start {
            tokio::spawn(migrate_when_in_reach(stores.archive.clone()));
        }
        Ok(Servers {
            queues: Arc::new(RabbitQueues::start(rabbit_options(settings))),
            in_flight: Arc::new(in_flight),
            feed: feed.map(Arc::new),
            stores,
        })
    }

    pub(super) async fn migrate_once(settings: &Settings) -> Result<(), BackendError> {
        let applied = start_stores(settings)?.archive.migrate().await?;
        let _ = match &applied[..] {
            [] => writeln!(std::io::stdout(), "the schema is up to date"),
            applied => writeln!(std::io::stdout(), "applied {}", applied.join(", ")),
        };
        Ok(())
    }
}

fn start_stores(settings: &Settings) -> Result<PostgresStores, BackendError> {
    PostgresStores::start(postgres_options(settings))
        .map_err(|reason| BackendError::Address { setting: "postgres_url", reason })
}

/// Postgres may be down when a process starts. Until the schema is there, ended orders wait in the queue `ending`.
async fn migrate_when_in_reach(archive: Arc<PostgresArchive>) {
    let (mut wait, mut said) = (MIGRATE_WAIT_MIN, String::new());
    while let Err(error) = archive.migrate().await {
        let why = crate::cli::chain(&error);
        // Once for each reason: some never pass, a missing right for example.
        if why != said {
            tracing::warn!(error = why, "the schema of Postgres is not up to date");
            said = why;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MIGRATE_WAIT_MAX);
    }
}

fn rabbit_options(settings: &Settings) -> RabbitOptions {
    let rabbitmq = &settings.rabbitmq;
    RabbitOptions {
        urls: rabbitmq.urls.iter().map(|url| url.expose().to_owned()).collect(),
        namespace: settings.namespace.clone(),
        confirm_deadline: rabbitmq.confirm_deadline,
        connect_timeout: rabbitmq.connect_timeout,
        heartbeat_secs: u16::try_from(rabbitmq.heartbeat.as_secs()).unwrap_or(u16::MAX),
        connection_name: settings.worker_name.to_string(),
    }
}

fn redis_options(settings: &Settings) -> RedisOptions {
    let redis = &settings.redis;
    RedisOptions {
        url: redis.url.expose().to_owned(),
        namespace: settings.namespace.clone(),
        in_flight_ttl: redis.in_flight_ttl,
        ended_ttl: redis.ended_ttl,
        timeout: redis.timeout,
        connections: redis.connections,
    }
}

fn postgres_options(settings: &Settings) -> PostgresOptions {
    let postgres = &settings.postgres;
    PostgresOptions {
        pool_max: postgres.pool_max,
        connect_timeout: postgres.connect_timeout,
        statement_timeout: postgres.statement_timeout,
        ..PostgresOptions::new(postgres.url.expose(), &settings.namespace)
    }
}

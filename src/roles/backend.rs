//! The two back ends behind the ports. Which one is in force is said in the settings and nowhere else: there is no
//! silent fallback from one to the other.

use std::sync::Arc;

use crate::adapters::embedded::{Embedded, EmbeddedOptions, OpenError};
use crate::ports::{Archive, InFlight, Queues};
use crate::settings::{self, Settings};

/// Why a back end could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error(transparent)]
    Embedded(#[from] OpenError),
    #[error("the schema of Postgres could not be brought up to date")]
    Migrate,
}

pub(super) enum Backend {
    Embedded(Embedded),
    Servers(Servers),
}

impl Backend {
    /// Opens the embedded one; connects to the servers in the background.
    pub(super) fn open(settings: &Settings) -> Result<Backend, BackendError> {
        match settings.backend {
            settings::Backend::Embedded => {
                let options =
                    EmbeddedOptions { ended_ttl: settings.redis.ended_ttl, ..EmbeddedOptions::new(&settings.data_dir) };
                Ok(Backend::Embedded(Embedded::open(options)?))
            }
            settings::Backend::Servers => Ok(Backend::Servers(Servers::start(settings))),
        }
    }

    pub(super) fn queues(&self) -> Arc<dyn Queues> {
        match self {
            Backend::Embedded(embedded) => embedded.queues(),
            Backend::Servers(servers) => servers.queues.clone(),
        }
    }

    pub(super) fn in_flight(&self) -> Arc<dyn InFlight> {
        match self {
            Backend::Embedded(embedded) => embedded.in_flight(),
            Backend::Servers(servers) => servers.in_flight.clone(),
        }
    }

    pub(super) fn archive(&self) -> Arc<dyn Archive> {
        match self {
            Backend::Embedded(embedded) => embedded.archive(),
            Backend::Servers(servers) => servers.archive.clone(),
        }
    }

    /// What an operator calls the queues, the in-flight store and the archive.
    pub(super) fn names(&self) -> [&'static str; 3] {
        match self {
            Backend::Embedded(_) => ["queues (SQLite)", "in-flight store (SQLite)", "archive (SQLite)"],
            Backend::Servers(_) => ["RabbitMQ", "Redis", "Postgres"],
        }
    }

    pub(super) async fn close(self) {
        match self {
            Backend::Embedded(embedded) => embedded.close().await,
            Backend::Servers(_) => {}
        }
    }
}

pub(super) struct Servers {
    queues: Arc<dyn Queues>,
    in_flight: Arc<dyn InFlight>,
    archive: Arc<dyn Archive>,
}
impl Servers {
    fn start(_: &Settings) -> Servers {
        unimplemented!("the servers are merged next")
    }
    pub(super) async fn migrate_once(_: &Settings) -> Result<(), BackendError> {
        Err(BackendError::Migrate)
    }
}

//! What is kept in Postgres: the archive of ended orders, the journal of those in flight, dead letters, webhooks, leases
//! and paused stages.
//!
//! [`PostgresStores`] starts all of them. Orders that customers wait for are put into the journal on connections of their
//! own; everything else shares a pool.
//!
//! Everything lives in one schema, named after the namespace, so that several installations share a database.
//! [`PostgresArchive::migrate`] makes and updates it; nothing else changes its shape.
//!
//! # Failure handling
//! Every call is bounded: waiting for a connection, making one, and the statement itself each have a limit. A
//! connection that was lost, or leads to a server that takes no writes any more, is dropped and never used again; the
//! next call makes a new one, to whichever of the hosts takes writes (`target_session_attrs=read-write`). While
//! Postgres is out of reach most calls fail at once (`reach`).

mod archive;
mod cancellations;
mod connections;
mod dead_letters;
mod durability;
mod hosts;
mod journal;
mod leases;
mod migrate;
mod pauses;
mod rows;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use connections::Connections;

pub use archive::PostgresArchive;
pub use cancellations::PostgresCancellations;
pub use dead_letters::PostgresDeadLetters;
pub use journal::PostgresJournal;
pub use leases::PostgresLeases;
pub use migrate::MigrateError;
pub use pauses::PostgresPauses;
pub use webhooks::PostgresWebhooks;

/// What it is called in errors and logs.
const PART: &str = "Postgres";

/// The longest name Postgres does not cut off, in bytes.
const IDENTIFIER_BYTES_MAX: usize = 63;

#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?…` or `host=a,b dbname=… target_session_attrs=read-write`.
    pub url: String,
    /// The schema that holds all tables, at most 63 bytes.
    pub namespace: String,
    /// Connections to open at most, beside the few of the journal.
    pub pool_max: usize,
    /// How long opening a connection to one host may take.
    pub connect_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// How long to wait for one of the connections to be free.
    pub wait_timeout: Duration,
    /// How long it may take to put orders into the journal, everything included.
    pub note_timeout: Duration,
}

impl PostgresOptions {
    /// Those that most installations want.
    pub fn new(url: impl Into<String>, namespace: impl Into<String>) -> PostgresOptions {
        PostgresOptions {
            url: url.into(),
            namespace: namespace.into(),
            pool_max: 8,
            connect_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
            wait_timeout: Duration::from_secs(2),
            // The port promises 2 s, also on a machine that is slow to wake whoever waits.
            note_timeout: Duration::from_millis(1_800),
        }
    }
}

/// Connections that put orders into the journal. Few are enough: each carries a batch.
const NOTE_CONNECTIONS_MAX: usize = 3;

/// All that is kept in one Postgres.
#[derive(Clone)]
pub struct PostgresStores {
    pub archive: Arc<PostgresArchive>,
    pub journal: Arc<PostgresJournal>,
    pub leases: Arc<PostgresLeases>,
    pub cancellations: Arc<PostgresCancellations>,
    pub dead_letters: Arc<PostgresDeadLetters>,
    pub pauses: Arc<PostgresPauses>,
    pub webhooks: Arc<PostgresWebhooks>,
}

impl PostgresStores {
    /// Connects when it is first needed; it comes back at once. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with the options; final.
    pub fn start(options: PostgresOptions) -> Result<PostgresStores, String> {
        let note_timeout = options.note_timeout;
        let shared = Arc::new(Connections::start(options)?);
        let notes = shared.beside(NOTE_CONNECTIONS_MAX, note_timeout)?;
        Ok(PostgresStores {
            archive: Arc::new(PostgresArchive::on(shared.clone())),
            journal: Arc::new(PostgresJournal::on(notes, shared.clone())),
            leases: Arc::new(PostgresLeases::on(shared.clone())),
            cancellations: Arc::new(PostgresCancellations::on(shared.clone())),
            dead_letters: Arc::new(PostgresDeadLetters::on(shared.clone())),
            pauses: Arc::new(PostgresPauses::on(shared.clone())),
            webhooks: Arc::new(PostgresWebhooks::on(shared)),
        })
    }
}

/// Reads the address of a Postgres, in either of its two forms.
///
/// # Errors
/// What is wrong with it, without its password.
pub fn parse_url(url: &str) -> Result<Config, String> {
    const FORM: &str = "must be of the form postgres://user:password@host:port/database";
    let config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        // Other complaints quote what they could not make sense of, and that may be half a password.
        let reason = std::error::Error::source(&error).map(ToString::to_string);
        match reason.filter(|reason| reason.starts_with("invalid value for option")) {
            Some(reason) => format!("{FORM}: {reason}"),
            None => FORM.into(),
        }
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(format!("{FORM}: a host is missing"));
    }
    // The parser ends a password at its first @: the rest would be taken for a host, and logged.
    let is_torn = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
    if config.get_hosts().iter().any(is_torn) {
        return Err(format!("{FORM}: an @ in the password is written %40"));
    }
    if config.get_user().is_none_or(str::is_empty) {
        return Err(format!("{FORM}: a user is missing"));
    }
    match config.get_ssl_mode() {
        SslMode::Disable | SslMode::Prefer => Ok(config),
        _ => Err("TLS to Postgres is not supported: use it within a private network, without sslmode=require".into()),
    }
}

/// `name` as an identifier in SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_address_are_read() {
        for url in [
            "postgres://ordering@127.0.0.1:5432/ordering",
            "postgresql://u:p%40ss@a,b:5433/db?target_session_attrs=read-write",
            "host=a,b port=5432,5433 user=u password='my secret' dbname=db target_session_attrs=read-write",
        ] {
            assert!(parse_url(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said_without_the_password() {
        for url in [
            "",
            "localhost",
            "http://u:secret@localhost",
            "postgres://u:secret@localhost:99999/db",
            "postgres://u:sec@secret@localhost/db",
            "postgres://u:secret@localhost/db?secret=1",
            "postgres://u:secret@localhost/db?sslmode=require",
            "host=a user=u password=my secret",
            "host=a user=u password='secret",
            "user=u password=secret",
            "postgres://:secret@localhost/db",
        ] {
            let error = parse_url(url).expect_err(url);
            assert!(!error.contains("secret"), "{error}");
        }
        let error = parse_url("postgres://u:secret@localhost:99999/db").unwrap_err();
        assert!(error.contains("`port`"), "{error}");
    }
}

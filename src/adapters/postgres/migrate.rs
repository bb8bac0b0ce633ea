//! Makes and updates the schema.

use refinery::{Migration, Runner};
use tokio_util::task::AbortOnDropHandle;

use super::connections::Connections;
use super::quoted;

/// All there ever were, in order. One that was released is never changed again: its checksum is kept.
const MIGRATIONS: [(&str, &str); 7] = [
    ("V1__archive", include_str!("migrations/V1__archive.sql")),
    ("V2__journal", include_str!("migrations/V2__journal.sql")),
    ("V3__leases", include_str!("migrations/V3__leases.sql")),
    ("V4__dead_letters", include_str!("migrations/V4__dead_letters.sql")),
    ("V5__paused_stages", include_str!("migrations/V5__paused_stages.sql")),
    ("V6__whole_life", include_str!("migrations/V6__whole_life.sql")),
    ("V7__webhooks", include_str!("migrations/V7__webhooks.sql")),
];

/// The version this release needs at least.
pub(super) fn version_needed() -> i32 {
    let (name, _) = MIGRATIONS[MIGRATIONS.len() - 1];
    let digits = name.trim_start_matches('V').split('_').next();
    digits.and_then(|digits| digits.parse().ok()).expect("a migration begins with its number")
}

/// How long to wait for another process that migrates, and for what holds a table.
const LOCK_TIMEOUT_SECS: u32 = 60;

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("cannot connect to Postgres")]
    Connect(#[source] tokio_postgres::Error),
    #[error("cannot prepare the schema `{schema}`")]
    Prepare { schema: String, source: tokio_postgres::Error },
    #[error("the database's encoding is {0}, it must be UTF8: an order may hold any character")]
    Encoding(String),
    #[error("cannot migrate the schema `{schema}`")]
    Migrate { schema: String, source: refinery::Error },
}

/// Brings the schema up to date, and answers which migrations that took. Any number of processes may try at once: one
/// does it, the others wait and find it done.
pub(super) async fn migrate(connections: &Connections) -> Result<Vec<String>, MigrateError> {
    let schema = connections.namespace();
    let (mut client, connection) = connections.dedicated().await.map_err(MigrateError::Connect)?;
    // Dropped at the end, whatever the end is, and the lock with it.
    let _connection = AbortOnDropHandle::new(connection);

    let prepare = async {
        let timeout = format!("SET lock_timeout = '{LOCK_TIMEOUT_SECS}s'");
        client.batch_execute(&timeout).await?;
        // refinery takes no lock of its own. Creating a schema "if not exists" is no remedy: two at once still collide.
        client.execute("SELECT pg_advisory_lock(hashtextextended('ordering migrate ' || $1, 0))", &[&schema]).await?;
        let row = client
            .query_one(
                "SELECT current_setting('server_encoding'), EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)",
                &[&schema],
            )
            .await?;
        // Asked for first: without the right to create schemas "if not exists" fails even if it exists.
        if !row.get::<_, bool>(1) {
            let create = format!("CREATE SCHEMA {}", quoted(schema));
            client.batch_execute(&create).await?;
        }
        Ok::<String, tokio_postgres::Error>(row.get(0))
    };
    let encoding = prepare.await.map_err(|source| MigrateError::Prepare { schema: schema.to_owned(), source })?;
    if encoding != "UTF8" {
        return Err(MigrateError::Encoding(encoding));
    }

    let failed = |source| MigrateError::Migrate { schema: schema.to_owned(), source };
    let migrations = MIGRATIONS
        .into_iter()
        .map(|(name, sql)| Migration::unapplied(name, sql))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    let report = Runner::new(&migrations)
        // All or none: a schema that is half there answers some questions and not others.
        .set_grouped(true)
        // A release that is rolled back meets a newer schema, and works with it.
        .set_abort_missing(false)
        .run_async(&mut client)
        .await
        .map_err(failed)?;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}

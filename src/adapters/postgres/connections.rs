//! A bounded pool of connections, each set up for the namespace, and statements on them that never hang.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error, Row};

use super::hosts::{Hosts, address};
use super::{IDENTIFIER_BYTES_MAX, PART, PostgresOptions, parse_url};
use crate::adapters::reach::Reach;
use crate::ports::{PublishError, Unavailable};

/// How much longer than the server the client waits for a statement to end.
const GRACE: Duration = Duration::from_secs(1);
/// When a quiet connection is asked whether its peer is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

pub(super) struct Connections {
    pool: Pool,
    /// Shared by all pools of one server: it is lost and found once, whoever notices.
    reach: Arc<Reach>,
    hosts: Hosts,
    options: PostgresOptions,
    limits: Limits,
}

/// How long things may take.
#[derive(Clone, Copy)]
struct Limits {
    /// The wait for a connection to be free.
    wait: Duration,
    /// The making of a connection, for each host.
    connect: Duration,
    /// A statement, by the server's clock.
    statement: Duration,
    /// A call with all of this, and a second try of the statement.
    call: Duration,
}

impl Limits {
    fn of(options: &PostgresOptions, config: &Config) -> Limits {
        let wait = options.wait_timeout;
        let connect = config.get_connect_timeout().copied().unwrap_or(options.connect_timeout);
        let statement = options.statement_timeout;
        let call = wait + connect * hosts(config) + (statement + GRACE) * 2;
        Limits { wait, connect, statement, call }
    }

    /// Fits all of it into `call`: half of that for a connection, whichever of the hosts it leads to, and time for the
    /// server to give a statement up by itself.
    fn within(self, call: Duration, config: &Config) -> Limits {
        Limits {
            wait: self.wait.min(call / 2),
            connect: self.connect.min(call / 2 / hosts(config)),
            statement: self.statement.min(call * 3 / 4),
            call: self.call.min(call),
        }
    }
}

fn hosts(config: &Config) -> u32 {
    u32::try_from(config.get_hosts().len().max(config.get_hostaddrs().len()).max(1)).unwrap_or(u32::MAX)
}

impl Connections {
    pub(super) fn start(options: PostgresOptions) -> Result<Connections, String> {
        let config = parse_url(&options.url)?;
        let reach = Arc::new(Reach::new(PART, address(&config)));
        let limits = Limits::of(&options, &config);
        Self::pool(options, config, limits, reach)
    }

    /// Another pool to the same server, of `pool_max` connections, no call on which takes longer than `call_timeout`.
    pub(super) fn beside(&self, pool_max: usize, call_timeout: Duration) -> Result<Connections, String> {
        let options = PostgresOptions { pool_max, ..self.options.clone() };
        let config = parse_url(&options.url)?;
        let limits = Limits::of(&options, &config).within(call_timeout, &config);
        Self::pool(options, config, limits, self.reach.clone())
    }

    fn pool(
        options: PostgresOptions,
        mut config: Config,
        limits: Limits,
        reach: Arc<Reach>,
    ) -> Result<Connections, String> {
        if options.namespace.is_empty()
            || options.namespace.len() > IDENTIFIER_BYTES_MAX
            || options.namespace.contains('\0')
        {
            return Err(format!("the namespace must have 1 to {IDENTIFIER_BYTES_MAX} bytes"));
        }
        config.connect_timeout(limits.connect);
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(limits.statement + GRACE);
        }
        if config.get_application_name().is_none() {
            config.application_name("ordering");
        }
        config.keepalives(true).keepalives_idle(KEEPALIVE_IDLE);

        let hosts = Hosts::new(&config, &options.namespace);
        let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager =
            Manager::from_connect(config, hosts.with_timeouts(limits.connect, limits.statement), manager_config);
        let pool = Pool::builder(manager)
            .max_size(options.pool_max.max(1))
            .wait_timeout(Some(limits.wait))
            // Each host is tried in turn.
            .create_timeout(Some(limits.connect * hosts.count()))
            .recycle_timeout(Some(limits.connect))
            // The pool would warn of each connection that was lost with the server.
            .pre_recycle(Hook::sync_fn(|client, _| {
                if client.is_closed() {
                    return Err(HookError::message("closed"));
                }
                Ok(())
            }))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Connections { pool, reach, hosts, options, limits })
    }

    pub(super) fn namespace(&self) -> &str {
        &self.options.namespace
    }

    /// Whether a call has any prospect at the moment.
    ///
    /// # Errors
    /// [`Unavailable`]: it would fail at once.
    pub(super) fn takes(&self) -> Result<(), Unavailable> {
        self.reach.would_admit()
    }

    /// A connection outside the pool, for what may take longer than a statement.
    pub(super) async fn dedicated(&self) -> Result<(Client, JoinHandle<()>), Error> {
        self.hosts.with_timeouts(self.limits.connect, Duration::ZERO).connect().await
    }

    /// Runs one statement, a second time if it lost against another one.
    pub(super) async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Unavailable> {
        self.write(sql, parameters).await.map_err(|error| error.unavailable().clone())
    }

    /// As [`Connections::query`]; an error says whether the statement may have been carried out after all.
    pub(super) async fn write(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, PublishError> {
        let _admitted = self.reach.admit().map_err(PublishError::NotTaken)?;
        let deadline = Instant::now() + self.limits.call;
        let mut is_second = false;
        loop {
            let client = self.client(deadline).await.map_err(PublishError::NotTaken)?;
            let statement = async {
                let statement = client.prepare_cached(sql).await?;
                client.query(&statement, parameters).await
            };
            let limit = Instant::now() + self.limits.statement + GRACE;
            match timeout_at(limit.min(deadline), statement).await {
                Ok(Ok(rows)) => {
                    self.reach.works();
                    return Ok(rows);
                }
                Ok(Err(error)) if lost_a_race(&error) && !is_second => is_second = true,
                // What the server refused it has undone; of what was lost with the connection nobody knows.
                Ok(Err(error)) if error.code().is_some() => {
                    return Err(PublishError::NotTaken(self.unavailable(client, &error)));
                }
                Ok(Err(error)) => return Err(PublishError::Unknown(self.unavailable(client, &error))),
                Err(_) => {
                    // Its reply may still come: nobody else may use this connection.
                    self.drop_all(client);
                    return Err(PublishError::Unknown(self.reach.failed("no answer in time")));
                }
            }
        }
    }

    async fn client(&self, deadline: Instant) -> Result<Object, Unavailable> {
        let Ok(client) = timeout_at(deadline, self.pool.get()).await else {
            // Waiting alone is given up earlier than this.
            return Err(self.reach.failed("no connection in time"));
        };
        client.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Wait) => Unavailable::new(PART, "all connections are in use"),
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => {
                self.reach.failed("no connection in time")
            }
            PoolError::Backend(error) => self.reach.failed(describe(&error)),
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                Unavailable::new(PART, error)
            }
        })
    }

    /// Drops a connection that is of no use any more, and those that wait in the pool: they lead to the same server, and
    /// each would cost a call of its own to find out, before one is made to a server that took over.
    fn drop_all(&self, client: Object) {
        drop(Object::take(client));
        self.pool.retain(|_, _| false);
    }

    fn unavailable(&self, client: Object, error: &Error) -> Unavailable {
        if client.is_closed() || is_connection_spent(error) {
            self.drop_all(client);
            return self.reach.failed(describe(error));
        }
        if error.code() == Some(&SqlState::QUERY_CANCELED) {
            return self.reach.failed("a statement took too long");
        }
        self.reach.works();
        match error.code() {
            Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME | &SqlState::UNDEFINED_COLUMN) => {
                Unavailable::new(PART, format!("{}: run `ordering migrate`", describe(error)))
            }
            _ => Unavailable::new(PART, describe(error)),
        }
    }
}

/// Whether nothing good can come of this connection any more.
fn is_connection_spent(error: &Error) -> bool {
    match error.code() {
        // Closed, or something that is no reply of Postgres'.
        None => true,
        // A primary that was demoted keeps its connections, and refuses every write on them.
        Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => true,
        Some(&SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN | &SqlState::CANNOT_CONNECT_NOW) => true,
        // Prepared on another connection, behind a proxy that shuffles them.
        Some(&SqlState::INVALID_SQL_STATEMENT_NAME) => true,
        Some(code) => code.code().starts_with("08"),
    }
}

fn lost_a_race(error: &Error) -> bool {
    matches!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE))
}

/// The error without its details, which may quote an order.
fn describe(error: &Error) -> String {
    if let Some(error) = error.as_db_error() {
        return format!("{} ({})", error.message(), error.code().code());
    }
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

//! A bounded pool of connections, each set up for the namespace, and statements on them that never hang.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use deadpool_postgres::{
    Connect, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error, NoTls, Row};

use super::{IDENTIFIER_BYTES_MAX, PART, PostgresOptions, parse_url, quoted};
use crate::adapters::reach::Reach;
use crate::ports::Unavailable;

/// How much longer than the server the client waits for a statement to end.
const GRACE: Duration = Duration::from_secs(1);
/// When a quiet connection is asked whether its peer is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

pub(super) struct Connections {
    pool: Pool,
    reach: Reach,
    config: Config,
    options: PostgresOptions,
}

impl Connections {
    pub(super) fn start(options: PostgresOptions) -> Result<Connections, String> {
        if options.namespace.is_empty()
            || options.namespace.len() > IDENTIFIER_BYTES_MAX
            || options.namespace.contains('\0')
        {
            return Err(format!("the namespace must have 1 to {IDENTIFIER_BYTES_MAX} bytes"));
        }
        let mut config = parse_url(&options.url)?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(options.connect_timeout);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(options.statement_timeout + GRACE);
        }
        if config.get_application_name().is_none() {
            config.application_name("ordering");
        }
        config.keepalives(true).keepalives_idle(KEEPALIVE_IDLE);

        let set_up = SetUp { statements: set_up(&options.namespace, options.statement_timeout) };
        let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(config.clone(), set_up, manager_config);
        // Each host is tried in turn.
        let hosts = config.get_hosts().len().max(1);
        let create_timeout = options.connect_timeout * u32::try_from(hosts).unwrap_or(u32::MAX);
        let pool = Pool::builder(manager)
            .max_size(options.pool_max.max(1))
            .wait_timeout(Some(options.wait_timeout))
            .create_timeout(Some(create_timeout))
            .recycle_timeout(Some(options.connect_timeout))
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
        Ok(Connections { pool, reach: Reach::new(PART, address(&config)), config, options })
    }

    pub(super) fn namespace(&self) -> &str {
        &self.options.namespace
    }

    /// A connection outside the pool, for what may take longer than a statement.
    pub(super) async fn dedicated(&self) -> Result<(Client, JoinHandle<()>), Error> {
        connect(&self.config, &set_up(self.namespace(), Duration::ZERO)).await
    }

    /// Runs one statement, a second time if it lost against another one.
    pub(super) async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Unavailable> {
        let _admitted = self.reach.admit()?;
        let mut is_second = false;
        loop {
            let client = self.client().await?;
            let statement = async {
                let statement = client.prepare_cached(sql).await?;
                client.query(&statement, parameters).await
            };
            let limit = self.options.statement_timeout + GRACE;
            match timeout(limit, statement).await {
                Ok(Ok(rows)) => {
                    self.reach.works();
                    return Ok(rows);
                }
                Ok(Err(error)) if lost_a_race(&error) && !is_second => is_second = true,
                Ok(Err(error)) => return Err(self.unavailable(client, &error)),
                Err(_) => {
                    // Its reply may still come: nobody else may use this connection.
                    drop(Object::take(client));
                    return Err(self.reach.failed("no answer in time"));
                }
            }
        }
    }

    async fn client(&self) -> Result<Object, Unavailable> {
        self.pool.get().await.map_err(|error| match error {
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

    fn unavailable(&self, client: Object, error: &Error) -> Unavailable {
        if client.is_closed() || is_connection_spent(error) {
            drop(Object::take(client));
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

/// What each connection is told first.
fn set_up(namespace: &str, statement_timeout: Duration) -> String {
    format!("SET search_path = {}; SET statement_timeout = {}", quoted(namespace), statement_timeout.as_millis())
}

/// Makes the pool's connections. The pool's own way of doing it warns of each one that is lost.
struct SetUp {
    statements: String,
}

impl Connect for SetUp {
    fn connect(
        &self,
        config: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move { connect(&config, &self.statements).await })
    }
}

async fn connect(config: &Config, set_up: &str) -> Result<(Client, JoinHandle<()>), Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let task = tokio::spawn(async move {
        // Whoever has a call under way learns of it by that call.
        let _ = connection.await;
    });
    client.batch_execute(set_up).await?;
    Ok((client, task))
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

fn address(config: &Config) -> String {
    let ports = config.get_ports();
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(n, host)| {
            let port = ports.get(n).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        })
        .collect();
    hosts.join(", ")
}

//! Connections to Redis that come back by themselves, and calls that never wait for them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::{Client, Pool, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, KeysInterface, LuaInterface};
use fred::types::config::{
    Config, ConnectionConfig, Options, PerformanceConfig, ReconnectError, ReconnectPolicy, Server, TcpConfig,
    UnresponsiveConfig,
};
use fred::types::{InfoKind, Key, Value};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::RedisOptions;
use crate::adapters::reach::{Admitted, Reach};
use crate::ports::Unavailable;

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The first and the longest wait between two attempts to connect, in ms.
const RECONNECT_FIRST_MS: u32 = 100;
const RECONNECT_LONGEST_MS: u32 = 2_000;
/// After this much silence a connection with calls under way is given up: its peer may have gone without a word.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Commands that may wait for one connection. A batch is one command; past this many Redis is overloaded.
const COMMANDS_WAITING_MAX: usize = 1_000;

/// Reads the address of a Redis.
///
/// # Errors
/// What is wrong with it, without its password.
pub fn parse_url(url: &str) -> Result<Config, String> {
    const FORM: &str = "must be of the form redis://[user][:password@]host[:port][/database]";
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("redis" | "valkey" | "redis-sentinel" | "valkey-sentinel") => {}
        Some("rediss" | "valkeys" | "rediss-sentinel" | "valkeys-sentinel") => {
            return Err("TLS to Redis is not supported: use redis:// within a private network".into());
        }
        Some("redis-cluster" | "rediss-cluster" | "valkey-cluster" | "valkeys-cluster") => {
            return Err("Redis Cluster is not supported: a batch touches keys of many slots".into());
        }
        Some(_) | None => return Err(FORM.into()),
    }
    // What the parser says names no part of the address but the one that is wrong, and never the password.
    Config::from_url(url).map_err(|error| format!("{FORM}: {}", error.details()))
}

/// A script, and its name in Redis once it was loaded there.
pub(super) struct Script {
    source: &'static str,
    /// Whether a Redis that is full refuses it.
    takes_memory: bool,
    sha: OnceLock<String>,
}

impl Script {
    pub(super) const fn that_takes_memory(source: &'static str) -> Script {
        Script { source, takes_memory: true, sha: OnceLock::new() }
    }

    pub(super) const fn that_takes_no_memory(source: &'static str) -> Script {
        Script { source, takes_memory: false, sha: OnceLock::new() }
    }
}

pub(super) struct Connection {
    /// What it is called in errors and logs.
    part: &'static str,
    pool: Pool,
    options: Options,
    timeout: Duration,
    reach: Arc<Reach>,
    /// The last write was refused by a Redis that answers: out of memory, read-only.
    is_refused: AtomicBool,
    /// Whether the first attempt to connect has come to something, good or bad.
    is_settled: watch::Sender<bool>,
    /// Ends with it.
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Connection {
    pub(super) fn start(options: &RedisOptions, part: &'static str) -> Result<Connection, String> {
        let mut config = parse_url(&options.url)?;
        // A Redis that is not there yet is waited for like one that went.
        config.fail_fast = false;
        let address = address(&config.server.hosts());
        let performance =
            PerformanceConfig { default_command_timeout: options.timeout, ..PerformanceConfig::default() };
        let connection = ConnectionConfig {
            connection_timeout: CONNECT_TIMEOUT,
            internal_command_timeout: CONNECT_TIMEOUT,
            max_command_buffer_len: COMMANDS_WAITING_MAX,
            tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
            unresponsive: UnresponsiveConfig {
                max_timeout: Some(SILENCE_MAX.max(options.timeout * 2)),
                interval: Duration::from_secs(1),
            },
            // What a primary says that has become a replica, or is starting: connecting anew finds the right one.
            reconnect_errors: vec![ReconnectError::ReadOnly, ReconnectError::Loading, ReconnectError::MasterDown],
            auto_client_setname: false,
            ..ConnectionConfig::default()
        };
        let policy = ReconnectPolicy::new_exponential(0, RECONNECT_FIRST_MS, RECONNECT_LONGEST_MS, 2);
        let pool = Pool::new(config, Some(performance), Some(connection), Some(policy), options.connections.max(1))
            .map_err(|error| error.details().to_owned())?;

        let reach = Arc::new(Reach::new(part, address));
        let is_settled = watch::Sender::new(false);
        let mut tasks = Vec::new();
        for client in pool.clients() {
            tasks.push(tokio::spawn(keep_connected(client.clone(), reach.clone())));
            let observe = observe(client.clone(), pool.clone(), reach.clone(), is_settled.clone());
            tasks.push(tokio::spawn(observe));
        }
        Ok(Connection {
            part,
            pool,
            options: Options {
                timeout: Some(options.timeout),
                // Neither wait for a connection nor send again after one was lost: the caller knows better.
                fail_fast: true,
                max_attempts: Some(1),
                ..Options::default()
            },
            timeout: options.timeout,
            reach,
            is_refused: AtomicBool::new(false),
            is_settled,
            _tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(),
        })
    }

    /// Runs a script.
    pub(super) async fn run(
        &self,
        script: &Script,
        keys: Vec<Key>,
        arguments: Vec<Value>,
    ) -> Result<Value, Unavailable> {
        let _admitted = self.admit().await?;
        match self.evaluate(script, keys, arguments).await {
            Ok(value) => {
                self.reach.works();
                if script.takes_memory && self.is_refused.swap(false, Ordering::Relaxed) {
                    tracing::info!("{} takes writes again", self.part);
                }
                Ok(value)
            }
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    async fn evaluate(&self, script: &Script, keys: Vec<Key>, arguments: Vec<Value>) -> Result<Value, Error> {
        let client = self.client();
        if let Some(sha) = script.sha.get() {
            let outcome = client.evalsha(sha.as_str(), keys.clone(), arguments.clone()).await;
            match outcome {
                Err(error) if error.details().starts_with("NOSCRIPT") => {}
                outcome => return outcome,
            }
        }
        // This Redis has never seen it, or has been started anew since.
        let sha: String = client.script_load(script.source).await?;
        let outcome = client.evalsha(sha.as_str(), keys, arguments).await;
        // Somebody else may have been faster, with the same.
        let _ = script.sha.set(sha);
        outcome
    }

    /// The text at a key; `None` if there is none, or something else.
    pub(super) async fn text(&self, key: Key) -> Result<Option<Bytes>, Unavailable> {
        let _admitted = self.admit().await?;
        let text: Result<Option<Bytes>, Error> = self.client().get(key).await;
        match text {
            Ok(text) => {
                self.reach.works();
                Ok(text)
            }
            Err(error) if error.details().starts_with("WRONGTYPE") => {
                self.reach.works();
                Ok(None)
            }
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        let _admitted = self.admit().await?;
        match self.client().ping::<Value>(None).await {
            Ok(_) => {
                self.reach.works();
                Ok(())
            }
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    /// What `INFO memory` says.
    pub(super) async fn memory_info(&self) -> Result<String, Error> {
        self.client().info(Some(InfoKind::Memory)).await
    }

    async fn admit(&self) -> Result<Admitted<'_>, Unavailable> {
        if !*self.is_settled.borrow() {
            // Just started: no reason to cry wolf before the first timeout is over.
            let mut is_settled = self.is_settled.subscribe();
            if timeout(self.timeout, is_settled.wait_for(|is_settled| *is_settled)).await.is_err() {
                self.is_settled.send_replace(true);
                return Err(self.reach.failed("no connection in time"));
            }
        }
        let admitted = self.reach.admit()?;
        // A probe without a connection would wait its timeout for one.
        match admitted.still_lost() {
            Some(unavailable) if !is_any_connected(&self.pool) => Err(unavailable),
            Some(_) | None => Ok(admitted),
        }
    }

    fn client(&self) -> WithOptions<Client> {
        self.pool.next_connected().with_options(&self.options)
    }

    fn unavailable(&self, error: &Error) -> Unavailable {
        match error.kind() {
            ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Routing => {
                self.reach.failed(describe(error))
            }
            // It answers, if only to refuse: no reason not to ask again.
            _ => {
                self.reach.works();
                // Past this follow the script's hash and line.
                let reason = error.details().split(" script: ").next().unwrap_or_default();
                if !self.is_refused.swap(true, Ordering::Relaxed) {
                    tracing::warn!(reason, "{} refuses", self.part);
                }
                Unavailable::new(self.part, reason)
            }
        }
    }
}

/// Runs the client's connection for ever: some errors (a wrong password is none of them) end fred's own attempts.
async fn keep_connected(client: Client, reach: Arc<Reach>) {
    loop {
        let connection = AbortOnDropHandle::new(client.connect());
        if let Ok(Err(error)) = connection.await {
            reach.failed(describe(&error));
        }
        tokio::time::sleep(Duration::from_millis(RECONNECT_LONGEST_MS.into())).await;
    }
}

/// Learns of lost and new connections as they happen, so that calls need not find out by waiting.
async fn observe(client: Client, pool: Pool, reach: Arc<Reach>, is_settled: watch::Sender<bool>) {
    let mut errors = client.error_rx();
    let mut is_connected = false;
    loop {
        tokio::select! {
            connected = client.wait_for_connect(), if !is_connected => {
                is_connected = connected.is_ok();
                if is_connected {
                    reach.works();
                    is_settled.send_replace(true);
                }
            }
            error = errors.recv() => match error {
                Ok((error, _)) => {
                    is_connected = client.is_connected();
                    // One connection of several is nobody's loss.
                    if !is_any_connected(&pool) {
                        reach.failed(describe(&error));
                        is_settled.send_replace(true);
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }
}

fn is_any_connected(pool: &Pool) -> bool {
    pool.clients().iter().any(Client::is_connected)
}

fn describe(error: &Error) -> String {
    match error.kind() {
        ErrorKind::Timeout => "no answer in time".into(),
        ErrorKind::Canceled => "not connected".into(),
        ErrorKind::IO => {
            // It is the debug form of an `io::Error`: what a reader wants is its message.
            let message = error.details().split("message: \"").nth(1);
            let message = message.and_then(|rest| rest.split('"').next());
            message.unwrap_or(error.details()).to_owned()
        }
        _ => error.details().to_owned(),
    }
}

fn address(servers: &[Server]) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("{}:{}", server.host, server.port)).collect();
    servers.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for url in [
            "redis://localhost",
            "redis://user:pass@10.0.0.1:6380/3",
            "redis://:pass@[::1]:6379",
            "redis-sentinel://a:26379?sentinelServiceName=main&node=b:26379",
        ] {
            assert!(parse_url(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said_without_the_password() {
        for url in [
            "localhost",
            "http://:secret@localhost",
            "redis://:secret@",
            "redis://:sec/secret@localhost",
            "redis://:secret@localhost:99999",
            "redis://:secret@localhost/x",
            "redis://:secret@localhost/1/2",
            "rediss://:secret@localhost",
            "redis-cluster://:secret@localhost",
            "redis-sentinel://:secret@localhost",
        ] {
            let error = parse_url(url).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}

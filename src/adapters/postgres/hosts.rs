//! The hosts of a Postgres that fails over, tried one after the other.
//!
//! tokio-postgres does this too, but bounds no more of it than the TCP connection: a frozen server, whose kernel takes
//! connections while it says nothing, would use up all the time there is for a connection, and the host that took over
//! would never be reached.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_postgres::Connect;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, LoadBalanceHosts};
use tokio_postgres::{Client, Config, Error, NoTls};

use super::quoted;

/// Where the connections of a pool lead to.
#[derive(Clone)]
pub(super) struct Hosts {
    /// One for each host.
    configs: Arc<[Config]>,
    namespace: Arc<str>,
    /// Which host is tried first; moves on where connections are to be spread.
    first: Arc<AtomicUsize>,
}

impl Hosts {
    pub(super) fn new(config: &Config, namespace: &str) -> Hosts {
        Hosts { configs: each_host(config).into(), namespace: namespace.into(), first: Arc::default() }
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.configs.len()).unwrap_or(u32::MAX)
    }

    /// Makes connections, with so long for each host, on which each statement may take so long (zero: any time).
    pub(super) fn with_timeouts(&self, connect_timeout: Duration, statement_timeout: Duration) -> Connector {
        // What each connection is told first.
        let statement_timeout_ms = statement_timeout.as_millis();
        let namespace = quoted(&self.namespace);
        let set_up = format!("SET search_path = {namespace}; SET statement_timeout = {statement_timeout_ms}");
        Connector { hosts: self.clone(), connect_timeout, set_up }
    }
}

/// Makes the pool's connections. The pool's own way of doing it warns of each one that is lost.
pub(super) struct Connector {
    hosts: Hosts,
    connect_timeout: Duration,
    set_up: String,
}

impl Connector {
    /// A connection to the first host that takes it.
    pub(super) async fn connect(&self) -> Result<(Client, JoinHandle<()>), Error> {
        let configs = &self.hosts.configs;
        let is_spread = configs.iter().any(|config| config.get_load_balance_hosts() == LoadBalanceHosts::Random);
        let first = if is_spread { self.hosts.first.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let mut in_turn = (0..configs.len()).map(|n| &configs[first.wrapping_add(n) % configs.len()]);
        let last = in_turn.next_back();
        for config in in_turn {
            if let Ok(Ok(connected)) = timeout(self.connect_timeout, self.connect_to(config)).await {
                return Ok(connected);
            }
        }
        // The pool bounds the whole. Of several errors the last one is told.
        self.connect_to(last.expect("each_host makes at least one")).await
    }

    async fn connect_to(&self, config: &Config) -> Result<(Client, JoinHandle<()>), Error> {
        let (client, connection) = config.connect(NoTls).await?;
        let task = tokio::spawn(async move {
            // Whoever has a call under way learns of it by that call.
            let _ = connection.await;
        });
        client.batch_execute(&self.set_up).await?;
        Ok((client, task))
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        _config: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        Box::pin(self.connect())
    }
}

/// A configuration for each of the hosts. One that makes no sense stays whole: connecting says what is wrong with it.
fn each_host(config: &Config) -> Vec<Config> {
    let (names, addrs, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = names.len().max(addrs.len());
    let is_of_all = |len: usize| len == 0 || len == count;
    if count < 2 || !is_of_all(names.len()) || !is_of_all(addrs.len()) || !(ports.len() == 1 || is_of_all(ports.len()))
    {
        return vec![config.clone()];
    }
    (0..count).map(|n| one_host(config, n)).collect()
}

/// All that `config` says of its host `n`. (A configuration can be given hosts, not freed of them.)
fn one_host(config: &Config, n: usize) -> Config {
    let mut one = Config::new();
    one.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    match config.get_hosts().get(n) {
        Some(Host::Tcp(name)) => _ = one.host(name),
        Some(Host::Unix(path)) => _ = one.host_path(path),
        None => {}
    }
    if let Some(addr) = config.get_hostaddrs().get(n) {
        one.hostaddr(*addr);
    }
    if let Some(port) = config.get_ports().get(n).or(config.get_ports().first()) {
        one.port(*port);
    }
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(dbname) = config.get_dbname() {
        one.dbname(dbname);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    if let Some(application_name) = config.get_application_name() {
        one.application_name(application_name);
    }
    if let Some(connect_timeout) = config.get_connect_timeout() {
        one.connect_timeout(*connect_timeout);
    }
    if let Some(tcp_user_timeout) = config.get_tcp_user_timeout() {
        one.tcp_user_timeout(*tcp_user_timeout);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one
}

/// `host:port` of each, for the log.
pub(super) fn address(config: &Config) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "user=u password='p w' dbname=d options='-c geqo=off' application_name=x sslmode=disable \
         sslnegotiation=direct connect_timeout=3 tcp_user_timeout=4 keepalives=0 keepalives_idle=5 keepalives_interval=6 \
         keepalives_retries=7 target_session_attrs=read-write channel_binding=disable load_balance_hosts=random";

    fn config(hosts: &str) -> Config {
        format!("{hosts} {REST}").parse().unwrap()
    }

    #[test]
    fn each_host_keeps_all_that_is_said_of_the_whole() {
        for (whole, each) in [
            ("host=a", vec!["host=a"]),
            ("host=a,/tmp port=1,2", vec!["host=a port=1", "host=/tmp port=2"]),
            ("host=a,b port=7", vec!["host=a port=7", "host=b port=7"]),
            ("host=a,b hostaddr=127.0.0.1,::1", vec!["host=a hostaddr=127.0.0.1", "host=b hostaddr=::1"]),
            // Left to tokio-postgres to refuse.
            ("host=a,b port=1,2,3", vec!["host=a,b port=1,2,3"]),
        ] {
            let expected: Vec<Config> = each.into_iter().map(config).collect();
            assert_eq!(each_host(&config(whole)), expected, "{whole}");
        }
    }
}

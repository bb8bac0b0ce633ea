//! The servers of a run: a cluster of three RabbitMQ nodes, Redis, and Postgres with a standby that has all that was
//! committed. `scripts/servers` runs them.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take for anything; a busy machine starts RabbitMQ slowly.
const DEADLINE: Duration = Duration::from_secs(120);

pub const NODES: [&str; 3] = ["rabbitmq", "rabbitmq-2", "rabbitmq-3"];
pub const POSTGRES: [&str; 2] = ["postgres", "postgres-2"];
pub const EVERY: [&str; 6] = ["rabbitmq", "rabbitmq-2", "rabbitmq-3", "redis", "postgres", "postgres-2"];

/// Servers in a folder of their own. Dropping it removes them, once their logs are where they are to be kept.
pub struct Servers {
    folder: PathBuf,
    /// `host:port` of each, in the order of [`EVERY`].
    addresses: Vec<String>,
    /// Which of the two of [`POSTGRES`] leads.
    leader: AtomicUsize,
    logs: PathBuf,
}

impl Servers {
    /// Starts them all. `logs` is the folder that their logs are copied to in the end.
    pub async fn start(folder: &Path, logs: &Path) -> Servers {
        let mut servers = Servers {
            folder: folder.to_owned(),
            addresses: Vec::new(),
            leader: AtomicUsize::new(0),
            logs: logs.to_owned(),
        };
        servers.run(&[&["start"], &EVERY[..]].concat()).await;
        let status = servers.run(&[&["status"], &EVERY[..]].concat()).await;
        let address = |name: &str| {
            let mut lines = status.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let line = lines.find(|words| words.first() == Some(&name)).unwrap_or_else(|| panic!("{name} in {status}"));
            line[2].to_owned()
        };
        servers.addresses = EVERY.map(address).to_vec();
        servers.require_standby().await;
        servers
    }

    /// `host:port` of the server of this place in [`EVERY`].
    pub fn address(&self, n: usize) -> &str {
        &self.addresses[n]
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/servers"));
        command.args(args).env("ORDERING_SERVERS_DIR", &self.folder).stdin(Stdio::null());
        command
    }

    /// Runs `scripts/servers`; what it prints.
    pub async fn run(&self, args: &[&str]) -> String {
        let mut command = self.command(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let Output { status, stdout, stderr } = output;
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "scripts/servers {args:?}: {out}{err}");
        out.into_owned()
    }

    /// Postgres that takes writes, by its place in [`POSTGRES`].
    pub fn leader(&self) -> usize {
        self.leader.load(Ordering::Acquire)
    }

    pub fn standby(&self) -> usize {
        1 - self.leader()
    }

    /// The one that leads is gone: the other one leads from now on.
    pub async fn promote_standby(&self) {
        let standby = self.standby();
        self.run(&["promote", POSTGRES[standby]]).await;
        self.leader.store(standby, Ordering::Release);
    }

    /// Makes the one that does not lead anew.
    pub async fn rebuild_standby(&self) {
        self.run(&["follow", POSTGRES[self.standby()]]).await;
        self.require_standby().await;
    }

    /// Lets commits wait for the standby, once it follows. Without that a promotion would lose commits.
    pub async fn require_standby(&self) {
        let following = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'";
        self.until("the standby follows", async || self.ask_leader(following).await == Ok(1)).await;
        self.set_synchronous("'*'").await;
        let synchronous = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
        self.until("commits wait for the standby", async || self.ask_leader(synchronous).await == Ok(1)).await;
    }

    /// Lets commits be without the standby, which is gone: what whoever watches over a pair of Postgres does.
    pub async fn do_without_standby(&self) {
        self.set_synchronous("''").await;
    }

    /// Neither of these two waits for a standby: they write no transaction.
    async fn set_synchronous(&self, names: &str) {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = {names}");
        self.until("Postgres takes a setting", async || self.ask_leader(&set).await.is_ok()).await;
        self.until("Postgres reads its settings", async || self.ask_leader("SELECT pg_reload_conf()").await.is_ok())
            .await;
    }

    /// How many rows the one that leads answers.
    async fn ask_leader(&self, query: &str) -> Result<usize, String> {
        let url = format!("postgres://ordering@{}/ordering?connect_timeout=5", self.address(4 + self.leader()));
        let asked = async {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            client.query(query, &[]).await
        };
        let answer = tokio::time::timeout(Duration::from_secs(10), asked).await.map_err(|error| error.to_string())?;
        answer.map(|rows| rows.len()).map_err(|error| error.to_string())
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let end = Instant::now() + DEADLINE;
        while !holds().await {
            assert!(Instant::now() < end, "not in {DEADLINE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Redis forgets everything.
    pub async fn flush_redis(&self) {
        let address = self.address(3).to_owned();
        let answer = tokio::task::spawn_blocking(move || {
            let mut redis = std::net::TcpStream::connect(address)?;
            redis.set_read_timeout(Some(DEADLINE))?;
            redis.write_all(b"FLUSHALL\r\n")?;
            let mut answer = [0; 5];
            redis.read_exact(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        });
        assert_eq!(&answer.await.unwrap().unwrap(), b"+OK\r\n");
    }

    /// Messages in each queue that has some.
    pub async fn messages(&self) -> Vec<(String, u64)> {
        let listed = self.run(&["rabbitmqctl", "-q", "--no-table-headers", "list_queues", "name", "messages"]).await;
        let line = |line: &str| {
            let (name, messages) = line.split_once('\t')?;
            Some((name.to_owned(), messages.trim().parse().ok()?))
        };
        listed.lines().filter_map(line).filter(|(_, messages)| *messages > 0).collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for name in EVERY {
            let _ = std::fs::copy(self.folder.join(name).join("log"), self.logs.join(format!("{name}.log")));
        }
        let _ = self.command(&["remove"]).stdout(Stdio::null()).status();
    }
}

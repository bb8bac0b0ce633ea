//! Private servers of this test program, which its tests may kill, pause and wipe, and the program running on them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use amqprs::channel::{QueueDeclareArguments, QueueDeleteArguments};
use amqprs::connection::{Connection, OpenConnectionArguments};
use serde_json::Value;

use crate::system::{System, http, ordering};

/// How long a test waits for something that must happen. A busy machine starts RabbitMQ slowly.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub const STAGES: [&str; 4] = ["scheduling", "pre-processing", "processing", "post-processing"];

/// RabbitMQ, Redis and Postgres in a folder of their own. The last test that holds them removes them.
struct Folder(tempfile::TempDir);

impl Folder {
    fn start() -> Folder {
        let folder = tempfile::Builder::new().prefix("ordering-outages").tempdir().unwrap();
        // Postgres, which does not run as root, must get through to its part of it.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let folder = Folder(folder);
        folder.run(&["start"]);
        folder
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/servers"));
        command.args(args).env("ORDERING_SERVERS_DIR", self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "scripts/servers {args:?}: {out}{err}");
        out.into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = self.command(&["remove"]).stdout(Stdio::null()).status();
    }
}

static SHARED: Mutex<Weak<Folder>> = Mutex::new(Weak::new());
static TURN: Mutex<()> = Mutex::new(());

/// The servers, for one test at a time, and a namespace that is the test's own.
pub struct Servers {
    namespace: String,
    urls: [String; 3],
    // The turn ends before the folder may go.
    _turn: MutexGuard<'static, ()>,
    folder: Arc<Folder>,
}

impl Servers {
    /// Waits its turn; all servers are up then. `None` where no servers were promised.
    pub fn take() -> Option<Servers> {
        let promised = std::env::var("ORDERING_TEST_SERVERS").is_ok_and(|value| value == "1");
        if !promised && std::env::var_os("ORDERING_AMQP_URLS").is_none() {
            eprintln!("skipped: no servers");
            return None;
        }
        let folder = {
            // Held while they start: the other tests are to use the same ones.
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            let folder = shared.upgrade().unwrap_or_else(|| Arc::new(Folder::start()));
            *shared = Arc::downgrade(&folder);
            folder
        };
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // A test that failed may have left some of them down.
        folder.run(&["start"]);
        let env = folder.run(&["env"]);
        let url = |name: &str| {
            let line = env.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
            line.unwrap_or_else(|| panic!("{name} in {env}")).trim_matches(['\'', '"']).to_owned()
        };
        let urls = ["ORDERING_AMQP_URLS", "ORDERING_REDIS_URL", "ORDERING_POSTGRES_URL"].map(url);
        let namespace = format!("outage_{}", uuid::Uuid::now_v7().simple());
        Some(Servers { namespace, urls, _turn: turn, folder })
    }

    pub fn start(&self, names: &[&str]) {
        self.folder.run(&[&["start"], names].concat());
    }

    /// Starts RabbitMQ after a SIGKILL. On a node that stands alone a quorum queue can then stay without a leader for
    /// ever, and whatever a client does with that queue hangs (rabbitmq/ra#179; often with 3.10.8). That is the
    /// broker's to mend: if `is_ready` does not come soon, it is made to elect.
    pub async fn start_rabbitmq_after_kill(&self, is_ready: impl AsyncFn() -> bool) {
        self.start(&["rabbitmq"]);
        let patience = Instant::now() + Duration::from_secs(8);
        while !is_ready().await {
            if Instant::now() >= patience {
                eprintln!("RabbitMQ: not ready 8 s after its start; its queues are made to elect a leader");
                let elect = "[ra:trigger_election(amqqueue:get_pid(Q)) || Q <- rabbit_amqqueue:list()].";
                self.folder.run(&["rabbitmqctl", "eval", elect]);
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn kill(&self, names: &[&str]) {
        self.folder.run(&[&["kill"], names].concat());
    }

    pub fn pause(&self, name: &str) {
        self.folder.run(&["pause", name]);
    }

    pub fn resume(&self, name: &str) {
        self.folder.run(&["resume", name]);
    }

    pub fn rabbitmqctl(&self, args: &[&str]) {
        self.folder.run(&[&["rabbitmqctl"], args].concat());
    }

    pub async fn delete_queue(&self, queue: &str) {
        let port = self.urls[0].rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
        let arguments = OpenConnectionArguments::new("127.0.0.1", port, "guest", "guest");
        let connection = Connection::open(&arguments).await.unwrap();
        let channel = connection.open_channel(None).await.unwrap();
        let name = format!("{}.{queue}", self.namespace);
        channel.queue_delete(QueueDeleteArguments::new(&name)).await.unwrap();
        let _ = connection.close().await;
    }

    pub fn wipe(&self, name: &str) {
        self.folder.run(&["wipe", name]);
    }

    /// The program in one of its roles, ready to be run.
    fn command(&self, role: &[&str], more: &[&str]) -> Command {
        let mut command = ordering();
        let [amqp, redis, postgres] = &self.urls;
        command.args(role).args(["--backend", "servers", "--namespace", &self.namespace]);
        command.args(["--amqp-urls", amqp, "--redis-url", redis, "--postgres-url", postgres]).args(more);
        command
    }

    pub fn api(&self, log: Stdio) -> System {
        let mut command = self.command(&["api"], &["--listen", "127.0.0.1:0"]);
        command.stderr(log);
        System::start_command(command)
    }

    /// A worker that answers for its health.
    pub fn worker(&self, stages: &[&str], more: &[&str], log: Stdio) -> System {
        let stages = stages.iter().flat_map(|stage| ["--stage", stage]);
        let role: Vec<&str> = std::iter::once("worker").chain(stages).collect();
        let mut command = self.command(&role, &[&["--health-listen", "127.0.0.1:0"], more].concat());
        command.stderr(log);
        System::start_command(command)
    }

    /// An api, and a worker for all stages of which one takes `delay`.
    pub fn api_and_worker(&self, delay: &str) -> (System, System) {
        let delay = format!("stages.processing.delay={delay}");
        let slow = ["--set", "stages.processing.handler=simulated", "--set", &delay];
        let log = || if std::env::var_os("ORDERING_TEST_LOGS").is_some() { Stdio::inherit() } else { Stdio::null() };
        let slow = [&slow[..], &["--set", "reconcile_after=4s"]].concat();
        let (api, worker) = (self.api(log()), self.worker(&STAGES, &slow, log()));
        (api, worker)
    }

    async fn postgres(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.urls[2], tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// As if another process were making the schema, until what it gives is dropped.
    pub async fn hold_migrations(&self) -> tokio_postgres::Client {
        let client = self.postgres().await;
        let lock = "SELECT pg_advisory_lock(hashtextextended('ordering migrate ' || $1, 0))";
        client.execute(lock, &[&self.namespace]).await.unwrap();
        client
    }

    /// The ids in the archive, as often as they are there.
    pub async fn archived(&self) -> Vec<String> {
        let query = format!("SELECT id::text FROM \"{}\".archive", self.namespace);
        self.postgres().await.query(&query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Orders that wait to be published.
    pub async fn waiting_in_outbox(&self) -> i64 {
        let query = format!("SELECT count(*) FROM \"{}\".journal WHERE to_publish", self.namespace);
        self.postgres().await.query_one(&query, &[]).await.unwrap().get(0)
    }

    /// How many times each migration was applied.
    pub async fn migrations(&self) -> Vec<i64> {
        let table = format!("\"{}\".refinery_schema_history", self.namespace);
        let query = format!("SELECT count(*) FROM {table} GROUP BY version");
        self.postgres().await.query(&query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Messages that wait in a queue and are in nobody's hands.
    pub async fn waiting_in(&self, queue: &str) -> u32 {
        let port = self.urls[0].rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
        let arguments = OpenConnectionArguments::new("127.0.0.1", port, "guest", "guest");
        let connection = Connection::open(&arguments).await.unwrap();
        let channel = connection.open_channel(None).await.unwrap();
        let passive = QueueDeclareArguments::new(&format!("{}.{queue}", self.namespace)).passive(true).finish();
        let (_, messages, _) = channel.queue_declare(passive).await.unwrap().unwrap();
        let _ = connection.close().await;
        messages
    }
}

/// What `/readyz` says.
#[derive(Debug)]
pub struct Readiness {
    pub code: u16,
    pub status: String,
    /// The parts that are down, and why.
    pub down: Vec<(String, String)>,
}

pub async fn readiness(url: &str) -> Readiness {
    let answer = http().get(format!("{url}/readyz")).send().await.unwrap();
    let code = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    let parts = body["parts"].as_array().unwrap();
    let mut down = Vec::new();
    for part in parts {
        let text = |member: &str| part[member].as_str().map(str::to_owned);
        match (text("status").unwrap().as_str(), text("reason")) {
            ("up", None) => {}
            ("down", Some(reason)) if !reason.is_empty() => down.push((text("name").unwrap(), reason)),
            _ => panic!("down with a reason, or up: {body}"),
        }
    }
    Readiness { code, status: body["status"].as_str().unwrap().to_owned(), down }
}

/// Waits until `/readyz` says that `down`, and nothing else, is down. A process that takes orders can do that without
/// RabbitMQ as long as Postgres is there.
pub async fn until_down(url: &str, down: &[&str]) {
    let is_enough = match down.contains(&"RabbitMQ") {
        true => takes_orders(url).await && !down.contains(&"Postgres"),
        false => true,
    };
    let expected = match (down, is_enough) {
        ([], _) => (200, "ready"),
        (_, true) => (200, "degraded"),
        (_, false) => (503, "unavailable"),
    };
    let end = Instant::now() + DEADLINE;
    loop {
        let found = readiness(url).await;
        if found.down.iter().map(|(name, _)| name).eq(down) {
            assert_eq!((found.code, found.status.as_str()), expected);
            return;
        }
        assert!(Instant::now() < end, "{down:?} should be down, and this is: {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn takes_orders(url: &str) -> bool {
    http().get(format!("{url}/v1/orders")).send().await.unwrap().status() == 405
}

pub async fn until_ready(url: &str) {
    until_down(url, &[]).await;
}

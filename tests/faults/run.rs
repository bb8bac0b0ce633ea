//! One run from its begin to its verdict.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ordering::domain::Timestamp;
use serde_json::Value;

use super::checker::check;
use super::customers::Customers;
use super::inject::World;
use super::kinds::Kind;
use super::liar::{self, Liar};
use super::log::{Log, Row};
use super::network::Network;
use super::notes::Notes;
use super::processes::Fleet;
use super::report::{Outcome, Struck};
use super::schedule::{Round, Schedule};
use super::servers::Servers;
use super::system::valid_orders;

/// How long the program may take until all of it is ready again after a fault was healed.
const READY_AGAIN: Duration = Duration::from_secs(60);
/// How long orders may take to their 202, and then to the archive, after everything was healed.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Options {
    pub seed: u64,
    /// How long there are faults; without it, until every kind has come once.
    minutes: Option<f64>,
    kinds: Vec<Kind>,
    per_second: f64,
    folder: Option<PathBuf>,
    keep: bool,
}

impl Options {
    pub fn from_env() -> Options {
        let text =
            |name: &str| std::env::var(format!("ORDERING_TEST_FAULTS_{name}")).ok().filter(|text| !text.is_empty());
        let number = |name: &str| {
            text(name).map(|text| text.parse::<f64>().unwrap_or_else(|_| panic!("{name}: {text} is no number")))
        };
        let kinds = match text("ONLY") {
            None => Kind::ALL.to_vec(),
            Some(names) => names.split(',').flat_map(named).collect(),
        };
        Options {
            seed: text("SEED").map_or(1, |text| text.parse().unwrap_or_else(|_| panic!("SEED: {text} is no number"))),
            minutes: number("MINUTES"),
            per_second: number("RATE").unwrap_or(40.0),
            folder: text("DIR").map(PathBuf::from),
            keep: text("KEEP").is_some(),
            kinds,
        }
    }

    /// How long a fault lasts, and how long it is quiet after a round, in milliseconds.
    fn schedule(&self) -> Schedule {
        let (lasts, pause) = if self.minutes.is_some_and(|minutes| minutes > 10.0) {
            (2_000..40_000, 2_000..15_000)
        } else {
            (500..4_000, 300..1_000)
        };
        Schedule::new(self.seed, self.kinds.clone(), lasts, pause)
    }
}

fn named(name: &str) -> Vec<Kind> {
    let kinds = Kind::named(name.trim());
    let all: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
    assert!(!kinds.is_empty(), "no kind of fault is called {name}; there are {}", all.join(", "));
    kinds
}

/// Where a run keeps the logs of all that it started.
fn make_logs(seed: u64) -> PathBuf {
    let now = Timestamp::from_millis(now_ms()).to_string().replace(':', "-");
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/faults/{now}-seed-{seed}"));
    std::fs::create_dir_all(&logs).unwrap();
    logs
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// Breaks and heals for as long as the options say, and prints what came of it; whether everything held.
pub async fn run(options: &Options) -> bool {
    let logs = make_logs(options.seed);
    let temporary = options.folder.is_none().then(|| {
        let folder = tempfile::Builder::new().prefix("ordering-faults").tempdir().unwrap();
        // Postgres, which does not run as root, must get through to its part of it.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        folder
    });
    let folder =
        options.folder.as_deref().or(temporary.as_ref().map(tempfile::TempDir::path)).expect("one of them is there");
    println!("seed {}; logs in {}", options.seed, logs.display());

    let servers = Servers::start(folder, &logs).await;
    let network = Network::start(&servers).await;
    let liar = Liar::start(options.seed).await;
    let namespace = format!("faults_{}", uuid::Uuid::now_v7().simple());
    let fleet = Arc::new(tokio::task::block_in_place(|| Fleet::start(&network, &namespace, &liar.url, &logs)));
    let world = World { fleet: fleet.clone(), network, servers };
    let mut run =
        Run { world, notes: Arc::new(Notes::new(valid_orders())), struck: Vec::new(), complaints: Vec::new() };
    run.until_ready().await;

    let mut customers = Customers::start(fleet, run.notes.clone(), options.per_second, namespace.clone());
    run.until_accepted(20).await;
    let begun = run.notes.now();
    for round in options.schedule() {
        run.carry_out(&round).await;
        let is_over = match options.minutes {
            Some(minutes) => (run.notes.now() - begun).as_secs_f64() >= minutes * 60.0,
            None => options.kinds.iter().all(|kind| run.struck.iter().any(|struck| struck.kind == *kind)),
        };
        if is_over {
            break;
        }
    }

    let waiting = customers.close(PATIENCE).await;
    if waiting > 0 {
        run.complaints.push(format!("{waiting} orders had no 202 {PATIENCE:?} after everything was healed"));
    }
    let drained_in = run.until_drained(&namespace).await;
    let seen = customers.seen.clone();
    customers.leave().await;
    run.complaints.extend(seen.odd.lock().unwrap().drain(..).map(|what| format!("an odd answer to {what}")));
    run.until_nothing_is_left(&namespace).await;
    run.complaints.extend(run.world.fleet.complaints());
    let rows = run.rows(&namespace).await;
    let mut log: Log = run.notes.log().clone();
    log.rows = rows;
    log.declined = (0..log.placed).filter(|number| liar::declines(options.seed, *number)).collect();

    let verdict = check(&log);
    let outcome = Outcome {
        log: &log,
        verdict: &verdict,
        struck: &run.struck,
        drained_in,
        complaints: &run.complaints,
        told: &liar.told(),
        panics_of_libraries: run.world.fleet.panics_of_libraries(),
        refused: seen.refused.load(std::sync::atomic::Ordering::Relaxed),
        unanswered: seen.unanswered.load(std::sync::atomic::Ordering::Relaxed),
    };
    let (table, is_good) = (outcome.table(), outcome.is_good());
    println!("\n{table}");
    drop(run);
    if is_good && !options.keep {
        let _ = std::fs::remove_dir_all(&logs);
    } else {
        std::fs::write(logs.join("verdict.txt"), &table).unwrap();
        std::fs::write(logs.join("seen.txt"), format!("{log:#?}")).unwrap();
        let verdict = if is_good { "It held" } else { "It did not hold" };
        println!("{verdict}. Logs of all processes and servers are in {}", logs.display());
    }
    is_good
}

struct Run {
    world: World,
    notes: Arc<Notes>,
    struck: Vec<Struck>,
    /// What must not be, and is not seen in the log.
    complaints: Vec<String>,
}

impl Run {
    fn say(&self, what: &str) {
        let (accepted, at) = (self.notes.log().promises.len(), self.notes.now());
        println!("{:8.1} s  {what:<60} {accepted:>8} accepted", at.as_secs_f64());
    }

    /// Waits until every process says that it is ready. If that does not come it is a complaint.
    async fn until_ready(&mut self) -> Option<Duration> {
        let end = self.notes.now() + READY_AGAIN;
        loop {
            let unready = self.world.fleet.unready().await;
            if unready.is_empty() {
                return Some(self.notes.now());
            }
            if self.notes.now() >= end {
                self.complaints.push(format!("not ready {READY_AGAIN:?} after the last fault: {}", unready.join(", ")));
                self.say("not ready");
                return None;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn until_accepted(&self, more: usize) {
        let count = || self.notes.log().promises.len();
        let (enough, end) = (count() + more, self.notes.now() + READY_AGAIN);
        while count() < enough {
            assert!(self.notes.now() < end, "orders are not accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn carry_out(&mut self, round: &Round) {
        let faults = round.faults.iter().map(async |fault| {
            let target = self.world.target(fault);
            self.say(&format!("{} ({target}) for {:.1} s", fault.kind.name(), fault.lasts.as_secs_f64()));
            let from = self.notes.now() + fault.after;
            let injected = self.world.inject(fault).await;
            let healed = self.notes.now();
            (Struck { kind: fault.kind, from, healed, ready: None }, injected)
        });
        let (struck, injected): (Vec<Struck>, Vec<_>) =
            futures_util::future::join_all(faults).await.into_iter().unzip();
        self.complaints.extend(injected.into_iter().filter_map(Result::err));
        let ready = self.until_ready().await;
        self.until_accepted(1).await;
        // Nothing is ready before the longer one of two is healed.
        let healed = struck.iter().map(|struck| struck.healed).max().unwrap_or_default();
        for struck in struck.into_iter().map(|struck| Struck { healed, ready, ..struck }) {
            let gap = struck.longest_gap(&self.notes.log().promises);
            self.say(&format!("  {}: {:.1} s without service", struck.kind.name(), gap.as_secs_f64()));
            self.struck.push(struck);
        }
        tokio::time::sleep(round.pause).await;
    }

    async fn postgres(&self) -> tokio_postgres::Client {
        let address = self.world.servers.address(4 + self.world.servers.leader());
        let url = format!("postgres://ordering@{address}/ordering");
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Waits until all that was promised is in the archive; how long that took.
    async fn until_drained(&self, namespace: &str) -> Option<Duration> {
        let from = self.notes.now();
        let mut promised: std::collections::BTreeSet<String> =
            self.notes.log().promises.iter().map(|promise| promise.id.clone()).collect();
        let postgres = self.postgres().await;
        let query = format!("SELECT id FROM \"{namespace}\".archive WHERE id = ANY($1)");
        while self.notes.now() < from + PATIENCE {
            let ids: Vec<uuid::Uuid> = promised.iter().map(|id| id.parse().unwrap()).collect();
            for some in ids.chunks(10_000) {
                for row in postgres.query(&query, &[&some]).await.unwrap() {
                    promised.remove(&row.get::<_, uuid::Uuid>(0).to_string());
                }
            }
            if promised.is_empty() {
                return Some(self.notes.now() - from);
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        self.say(&format!("{} orders are not archived", promised.len()));
        None
    }

    /// Waits until nothing is left to be done. Dead letters are a complaint, for nobody sent anything unreadable; so is a
    /// message that nobody takes out of its queue, and an order of the journal that nobody publishes.
    async fn until_nothing_is_left(&mut self, namespace: &str) {
        let postgres = self.postgres().await;
        let rows = async |table: &str| -> i64 {
            let query = format!("SELECT count(*) FROM \"{namespace}\".{table}");
            postgres.query_one(&query, &[]).await.unwrap().get(0)
        };
        let end = self.notes.now() + READY_AGAIN;
        loop {
            let mut left: Vec<String> = Vec::new();
            let messages = self.world.servers.messages().await;
            left.extend(messages.iter().filter(|(name, _)| name.starts_with(namespace)).map(|at| format!("{at:?}")));
            for table in ["dead_letters", "journal WHERE to_publish"] {
                let count = rows(table).await;
                if count > 0 {
                    left.push(format!("{count} of {table}"));
                }
            }
            if left.is_empty() {
                return;
            }
            if self.notes.now() >= end {
                self.complaints.push(format!("left over: {}", left.join(", ")));
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// The rows of the archive, held against what was placed.
    async fn rows(&self, namespace: &str) -> Vec<Row> {
        let postgres = self.postgres().await;
        let ids = format!("SELECT id FROM \"{namespace}\".archive ORDER BY id");
        let ids: Vec<uuid::Uuid> = postgres.query(&ids, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        let query = format!(
            "SELECT id, status, total, steps::text, content::text FROM \"{namespace}\".archive WHERE id = ANY($1)"
        );
        let mut rows = Vec::with_capacity(ids.len());
        for some in ids.chunks(1_000) {
            rows.extend(postgres.query(&query, &[&some]).await.unwrap().iter().map(|row| self.row(row)));
        }
        rows
    }

    fn row(&self, row: &tokio_postgres::Row) -> Row {
        let json = |column: usize| serde_json::from_str::<Value>(row.get(column)).unwrap_or_default();
        let mut shown = json(4);
        let mut steps = json(3);
        for step in steps.as_array_mut().into_iter().flatten() {
            // The archive counts milliseconds where readers are shown the date.
            if let Some(ms) = step["finished_at"].as_i64() {
                step["finished_at"] = Value::from(Timestamp::from_millis(ms).to_string());
            }
        }
        if let Some(shown) = shown.as_object_mut() {
            shown.insert("steps".to_owned(), steps);
            shown.insert("status".to_owned(), Value::from(row.get::<_, String>(1)));
            shown.insert("total".to_owned(), Value::from(row.get::<_, String>(2)));
        }
        let number = shown["metadata"]["number"].as_u64().and_then(|number| usize::try_from(number).ok());
        let view = self.notes.view(number.unwrap_or(0), &shown);
        Row { id: row.get::<_, uuid::Uuid>(0).to_string(), number, view }
    }
}

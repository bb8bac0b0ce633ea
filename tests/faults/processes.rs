//! The processes of the program: two apis, and two workers for each stage.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::liar;
use super::log::ATTEMPTS_MAX;
use super::network::Network;
use super::system::{http, ordering};

/// How long a process may take to begin or to end.
const DEADLINE: Duration = Duration::from_secs(60);
const STAGES: [&str; 4] = ["scheduling", "pre-processing", "processing", "post-processing"];
/// What is done at a stage.
enum Work {
    /// So slow that readers find orders at work.
    Simulated { delay: &'static str, failure_rate: f64 },
    /// By a service that cannot be relied on ([`liar`]).
    Service,
}

const WORK: [Work; 4] = [
    Work::Simulated { delay: "50ms", failure_rate: 0.01 },
    Work::Service,
    Work::Simulated { delay: "800ms", failure_rate: 0.02 },
    Work::Simulated { delay: "0s", failure_rate: 0.01 },
];

impl Work {
    /// The settings of the stage; `service` is where its service is.
    fn settings(&self, service: &str) -> Vec<String> {
        match self {
            Work::Simulated { delay, failure_rate } => {
                vec!["handler=simulated".to_owned(), format!("delay={delay}"), format!("failure_rate={failure_rate}")]
            }
            Work::Service => vec![
                "handler=http".to_owned(),
                format!("url={service}"),
                format!("timeout={}", liar::PATIENCE),
                format!("attempts_max={ATTEMPTS_MAX}"),
                "backoff_base=200ms".to_owned(),
                "breaker_pause_cap=2s".to_owned(),
            ],
        }
    }
}

/// One process that is there unless it was told to end.
pub struct Process {
    pub name: String,
    arguments: Vec<String>,
    log: PathBuf,
    running: Mutex<Option<Child>>,
    /// Where it listens, or did last.
    url: Mutex<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    fn new(name: String, arguments: Vec<String>, logs: &Path) -> Process {
        let log = logs.join(format!("{name}.log"));
        let process = Process { name, arguments, log, running: Mutex::new(None), url: Mutex::new(String::new()) };
        process.start();
        process
    }

    /// Starts it, and waits until it listens.
    pub fn start(&self) {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command: Command = ordering();
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (first, told) = mpsc::channel();
        // It reads on to the end, so that the process never waits for its reader.
        std::thread::spawn(move || {
            let _ = first.send(lines.next());
            lines.map_while(Result::ok).for_each(drop);
        });
        *locked(&self.running) = Some(child);
        let line = told.recv_timeout(DEADLINE).ok().flatten().and_then(Result::ok).unwrap_or_default();
        let url = line.strip_prefix("listening on ");
        *locked(&self.url) = url.unwrap_or_else(|| panic!("{} says {line:?} first", self.name)).to_owned();
    }

    pub fn url(&self) -> String {
        locked(&self.url).clone()
    }

    fn signal(&self, signal: &str) {
        let pid = locked(&self.running).as_ref().map(Child::id);
        let Some(pid) = pid else { return };
        let done = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap();
        assert!(done.success(), "kill -{signal} of {}", self.name);
    }

    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) {
        if let Some(mut child) = locked(&self.running).take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits for its end; what is wrong with that.
    pub fn terminate(&self) -> Result<(), String> {
        self.signal("TERM");
        let end = Instant::now() + DEADLINE;
        let Some(mut child) = locked(&self.running).take() else { return Ok(()) };
        loop {
            match child.try_wait().unwrap() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("{} ended with {status} after SIGTERM", self.name)),
                None if Instant::now() >= end => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    return Err(format!("{} did not end {DEADLINE:?} after SIGTERM", self.name));
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Says so if it ended by itself.
    fn ended(&self) -> Option<String> {
        let status = locked(&self.running).as_mut()?.try_wait().unwrap()?;
        Some(format!("{} ended by itself with {status}", self.name))
    }

    /// Every panic in its log, with its place.
    fn panics(&self) -> Vec<String> {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let panics = log.lines().filter(|line| line.contains("panicked at"));
        panics.map(|line| format!("{}: {line}", self.name)).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// All processes of the program.
pub struct Fleet {
    pub apis: Vec<Process>,
    pub workers: Vec<Process>,
}

impl Fleet {
    /// Starts them, their logs in `logs`; `service` is where the work of one stage is done.
    pub fn start(network: &Network, namespace: &str, service: &str, logs: &Path) -> Fleet {
        let common = |side: usize, name: &str| {
            let mut arguments = network.arguments(side);
            arguments.extend(["--backend", "servers", "--namespace", namespace].map(str::to_owned));
            // Silent peers are given up sooner than by default, so that short faults show it; records of ended orders go
            // soon, so that readers come to the archive; and orders that stand still are looked for soon.
            let settings = [
                "rabbitmq.heartbeat=4s",
                "rabbitmq.connect_timeout=2s",
                "postgres.statement_timeout=3s",
                "redis.ended_ttl=10s",
                "reconcile_after=15s",
            ];
            for setting in settings.map(str::to_owned).into_iter().chain([format!("worker_name={name}")]) {
                arguments.extend(["--set".to_owned(), setting]);
            }
            arguments
        };
        let api = |n: usize| {
            let name = format!("api-{}", n + 1);
            let mut arguments = vec!["api".to_owned(), "--listen".to_owned(), "127.0.0.1:0".to_owned()];
            arguments.extend(common(n, &name));
            Process::new(name, arguments, logs)
        };
        let worker = |n: usize| {
            let (stage, group) = (STAGES[n % STAGES.len()], n / STAGES.len());
            let name = format!("worker-{stage}-{}", group + 1);
            let mut arguments: Vec<String> =
                ["worker", "--stage", stage, "--health-listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
            arguments.extend(common(2 + group, &name));
            for setting in WORK[n % STAGES.len()].settings(service) {
                arguments.extend(["--set".to_owned(), format!("stages.{stage}.{setting}")]);
            }
            Process::new(name, arguments, logs)
        };
        Fleet { apis: (0..2).map(api).collect(), workers: (0..8).map(worker).collect() }
    }

    pub fn all(&self) -> impl Iterator<Item = &Process> {
        self.apis.iter().chain(&self.workers)
    }

    /// Which of them do not say that they are ready.
    pub async fn unready(&self) -> Vec<String> {
        let client = http();
        let asked = self.all().map(async |process| {
            let url = format!("{}/readyz", process.url());
            let answer = client.get(url).timeout(Duration::from_secs(3)).send().await;
            let Ok(answer) = answer else { return Some(process.name.clone()) };
            let body: serde_json::Value = answer.json().await.unwrap_or_default();
            (body["status"] != "ready").then(|| format!("{} ({})", process.name, reasons(&body)))
        });
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// What is wrong with them that no order shows: they ended by themselves, or their own code panicked.
    pub fn complaints(&self) -> Vec<String> {
        let panics = self.panics().into_iter().filter(|panic| !is_elsewhere(panic));
        self.all().filter_map(Process::ended).chain(panics).collect()
    }

    /// Panics of libraries, in tasks of their own: the program is to get over them.
    pub fn panics_of_libraries(&self) -> usize {
        self.panics().iter().filter(|panic| is_elsewhere(panic)).count()
    }

    fn panics(&self) -> Vec<String> {
        self.all().flat_map(Process::panics).collect()
    }
}

/// Whether a panic happened in the code of a dependency.
fn is_elsewhere(panic: &str) -> bool {
    panic.contains("/registry/src/")
}

fn reasons(readiness: &serde_json::Value) -> String {
    let parts = readiness["parts"].as_array().into_iter().flatten();
    let down: Vec<String> = parts
        .filter(|part| part["status"] != "up")
        .map(|part| format!("{}: {}", part["name"].as_str().unwrap_or("?"), part["reason"].as_str().unwrap_or("?")))
        .collect();
    down.join("; ")
}

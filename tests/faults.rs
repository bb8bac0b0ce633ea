//! Tries to break everything at once, and holds what comes out against what was promised.
//!
//! A cluster of three RabbitMQ nodes, Redis, Postgres with a standby, two apis, two workers for each stage, a service behind
//! one of the stages that lies and dies (`faults/liar.rs`); customers who place real orders at a steady pace and read them; and faults, one or two at a time, as a seed says. In the end
//! everything is healed, and the checker (`faults/checker.rs`) compares the 202s, the answers to readers and the rows of
//! the archive. It knows nothing of the program but its HTTP interface and its table.
//!
//! Where no servers are promised (`ORDERING_TEST_SERVERS=1`) only the checker itself is tested. `scripts/faults` runs it
//! for longer, with other seeds, or with some kinds of faults only:
//!
//! | variable | default | |
//! |---|---|---|
//! | `ORDERING_TEST_FAULTS_SEED` | 1 | decides which faults come, when, and whom they strike |
//! | `ORDERING_TEST_FAULTS_MINUTES` | until every kind has come once | how long there are faults; past 10 they last up to 40 s instead of 4 s |
//! | `ORDERING_TEST_FAULTS_ONLY` | all | kinds, or how their names begin, comma separated |
//! | `ORDERING_TEST_FAULTS_RATE` | 40 | orders per second |
//! | `ORDERING_TEST_FAULTS_DIR` | a temporary folder | where the servers live |
//! | `ORDERING_TEST_FAULTS_KEEP` | | if set, logs are kept even if all is well |

#[path = "faults/checker.rs"]
mod checker;
#[path = "faults/checker_tests.rs"]
mod checker_tests;
#[path = "faults/customers.rs"]
mod customers;
#[path = "faults/inject.rs"]
mod inject;
#[path = "faults/kinds.rs"]
mod kinds;
#[path = "faults/liar.rs"]
mod liar;
#[path = "faults/log.rs"]
mod log;
#[path = "faults/network.rs"]
mod network;
#[path = "faults/notes.rs"]
mod notes;
#[path = "faults/processes.rs"]
mod processes;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "faults/report.rs"]
mod report;
#[path = "faults/run.rs"]
mod run;
#[path = "faults/schedule.rs"]
mod schedule;
#[path = "faults/servers.rs"]
mod servers;
#[path = "handlers/service.rs"]
mod service;
#[path = "support/system.rs"]
mod system;

use tokio::signal::unix::{SignalKind, signal};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_and_nothing_is_done_twice_whatever_dies() {
    if std::env::var("ORDERING_TEST_SERVERS").as_deref() != Ok("1") {
        eprintln!("skipped: no servers");
        return;
    }
    let options = run::Options::from_env();
    let mut interrupted = signal(SignalKind::interrupt()).unwrap();
    let mut terminated = signal(SignalKind::terminate()).unwrap();
    // When it is interrupted, the run is dropped, and with it all that it started.
    tokio::select! {
        is_good = run::run(&options) => assert!(is_good, "seed {}: see above", options.seed),
        _ = interrupted.recv() => std::process::exit(130),
        _ = terminated.recv() => std::process::exit(143),
    }
}

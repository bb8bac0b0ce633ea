//! The program while its servers are down: at its start, in the middle of its work, killed, frozen and wiped; and how
//! a process begins and ends.
//!
//! The servers are this program's own, started by `scripts/servers`. Where none are promised these tests are skipped.

#[path = "outages/process.rs"]
mod process;
#[path = "outages/servers.rs"]
mod servers;
#[path = "support/system.rs"]
mod system;
#[path = "outages/traffic.rs"]
mod traffic;

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use servers::{STAGES, Servers, readiness, until_down, until_ready};
use system::{System, all_ended, assert_completed, http, place_all, valid_orders};
use traffic::{Seen, Traffic};

const ALL_PARTS: [&str; 3] = ["RabbitMQ", "Redis", "Postgres"];
/// An answer takes no longer than this, whatever is down. (The limits inside are 0.5 s and 1 s; machines are busy.)
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Orders to see in each phase.
const SOME: usize = 50;

/// Processor time a process has used.
fn cpu_time(system: &System) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", system.pid())).unwrap();
    // The second field may hold spaces; utime and stime are the 14th and 15th, in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = [fields[11], fields[12]].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

async fn healthz(url: &str) -> u16 {
    http().get(format!("{url}/healthz")).send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_while_all_servers_are_down_and_works_when_they_come() {
    let Some(servers) = Servers::take() else { return };
    servers.kill(&["rabbitmq", "redis", "postgres"]);
    let logs = tempfile::tempdir().unwrap();
    let (api_log, worker_log) = (logs.path().join("api"), logs.path().join("worker"));
    let log_to = |path| Stdio::from(std::fs::File::create(path).unwrap());
    let api = servers.api(log_to(&api_log));
    let worker = servers.worker(&STAGES, &[], log_to(&worker_log));
    for url in [&api.url, &worker.url] {
        assert_eq!(healthz(url).await, 200);
        until_down(url, &ALL_PARTS).await;
    }

    let client = http();
    let answer = client.post(format!("{}/v1/orders", api.url)).json(&valid_orders()[0]);
    let asked = Instant::now();
    let answer = answer.send().await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["type"], "urn:ordering:problem:overloaded");

    let (begun, before) = (Instant::now(), [cpu_time(&api), cpu_time(&worker)]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (system, before) in [&api, &worker].into_iter().zip(before) {
        let used = cpu_time(system) - before;
        assert!(used < begun.elapsed() / 4, "{used:?} of processor time in {:?}", begun.elapsed());
    }
    for log in [&api_log, &worker_log] {
        let log = std::fs::read_to_string(log).unwrap();
        for part in ALL_PARTS {
            assert!(log.contains(&format!("{part} is out of reach")), "{part} in:\n{log}");
        }
        // A line for each try would drown everything else.
        assert!(log.lines().count() < 30, "{log}");
    }

    servers.start(&[]);
    until_ready(&api.url).await;
    until_ready(&worker.url).await;
    let ids = place_all(&api.url, &valid_orders()[..SOME]).await;
    all_ended(&api.url, &ids).await.iter().for_each(assert_completed);
    assert_eq!(servers.archived().await.len(), SOME);
    assert!(api.terminate().success());
    assert!(worker.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_orders_are_taken_and_carried_to_their_end() {
    let Some(servers) = Servers::take() else { return };
    let (api, _worker) = servers.api_and_worker("200ms");
    until_ready(&api.url).await;
    let traffic = Traffic::start(&api.url);
    traffic.accepted(SOME).await;

    servers.kill(&["redis"]);
    until_down(&api.url, &["Redis"]).await;
    let before = traffic.seen();
    traffic.accepted(SOME).await;
    let killed = traffic.seen();
    all_ended(&api.url, &killed.accepted).await.iter().for_each(assert_completed);
    servers.start(&["redis"]);
    until_ready(&api.url).await;
    traffic.accepted(SOME).await;

    servers.pause("redis");
    until_down(&api.url, &["Redis"]).await;
    let back = traffic.seen();
    traffic.accepted(SOME).await;
    let frozen = traffic.seen();
    all_ended(&api.url, &frozen.accepted).await.iter().for_each(assert_completed);
    servers.resume("redis");
    until_ready(&api.url).await;
    traffic.accepted(SOME).await;
    let resumed = traffic.seen();

    servers.wipe("redis");
    until_ready(&api.url).await;
    traffic.accepted(SOME).await;
    let wiped = traffic.seen();
    for (what, seen) in [
        ("before", before),
        ("killed", killed),
        ("back", back),
        ("frozen", frozen),
        ("resumed", resumed),
        ("wiped", wiped),
    ] {
        seen.report(what);
        assert_eq!(seen.refused, []);
        assert!(seen.slowest_post < ANSWER_MAX && seen.slowest_read < ANSWER_MAX, "{what}: {seen:?}");
        // What was taken without it, or lost by it, cannot be told until a worker has it in its hands again: 503.
        assert_eq!(seen.missed, Vec::<String>::new(), "{what}");
    }
    traffic.check(&servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_ended_orders_wait_and_are_archived_when_it_is_back() {
    let Some(servers) = Servers::take() else { return };
    let (api, worker) = servers.api_and_worker("20ms");
    until_ready(&api.url).await;
    let traffic = Traffic::start(&api.url);
    traffic.accepted(SOME).await;

    servers.kill(&["postgres"]);
    for url in [&api.url, &worker.url] {
        until_down(url, &["Postgres"]).await;
    }
    traffic.accepted(SOME).await;
    let end = Instant::now() + servers::DEADLINE;
    while servers.waiting_in("ending").await == 0 {
        assert!(Instant::now() < end, "no ended order waits");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    servers.start(&["postgres"]);
    for url in [&api.url, &worker.url] {
        until_ready(url).await;
    }
    traffic.accepted(SOME).await;
    let killed = traffic.seen();

    servers.pause("postgres");
    // Long enough for statements to run into their limits.
    tokio::time::sleep(Duration::from_secs(4)).await;
    until_down(&api.url, &["Postgres"]).await;
    servers.resume("postgres");
    for url in [&api.url, &worker.url] {
        until_ready(url).await;
    }
    traffic.accepted(SOME).await;
    for (what, seen) in [("killed", killed), ("frozen", traffic.seen())] {
        seen.report(what);
        assert!(seen.slowest_post < ANSWER_MAX && seen.slowest_read < ANSWER_MAX, "{what}: {seen:?}");
        assert_eq!((seen.refused, seen.missed), (vec![], vec![]));
    }
    traffic.check(&servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rabbitmq_orders_wait_in_the_outbox_and_go_on_when_it_is_back() {
    let Some(servers) = Servers::take() else { return };
    let (api, worker) = servers.api_and_worker("200ms");
    until_ready(&api.url).await;
    let traffic = Traffic::start(&api.url);
    traffic.accepted(SOME).await;

    servers.kill(&["rabbitmq"]);
    for url in [&api.url, &worker.url] {
        until_down(url, &["RabbitMQ"]).await;
    }
    let before = traffic.seen();
    traffic.accepted(SOME).await;
    traffic.rises("answers to readers", SOME, Seen::found).await;
    assert!(servers.waiting_in_outbox().await >= SOME as i64);
    let killed = traffic.seen();
    let is_ready = async |url| readiness(url).await.status == "ready";
    servers.start_rabbitmq_after_kill(async || is_ready(&api.url).await && is_ready(&worker.url).await).await;
    for url in [&api.url, &worker.url] {
        until_ready(url).await;
    }
    let end = Instant::now() + servers::DEADLINE;
    while servers.waiting_in_outbox().await > 0 {
        assert!(Instant::now() < end, "the outbox is not published");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    traffic.accepted(SOME).await;
    let back = traffic.seen();

    servers.pause("rabbitmq");
    tokio::time::sleep(Duration::from_secs(8)).await;
    until_down(&api.url, &["RabbitMQ"]).await;
    traffic.accepted(SOME).await;
    traffic.rises("answers to readers", SOME, Seen::found).await;
    let frozen = traffic.seen();
    servers.resume("rabbitmq");
    for url in [&api.url, &worker.url] {
        until_ready(url).await;
    }
    traffic.accepted(SOME).await;
    let resumed = traffic.seen();
    for (what, seen) in
        [("before", before), ("killed", killed), ("back", back), ("frozen", frozen), ("resumed", resumed)]
    {
        seen.report(what);
        assert_eq!(seen.refused, [], "{what}");
        assert!(seen.slowest_post < ANSWER_MAX && seen.slowest_read < ANSWER_MAX, "{what}: {seen:?}");
        // Redis and Postgres were up all the time: no excuse for any other answer.
        assert_eq!(seen.found(), seen.reads.values().sum::<usize>(), "{what}: {seen:?}");
    }
    traffic.check(&servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_say_that_it_takes_orders_before_the_outbox_is_made() {
    let Some(servers) = Servers::take() else { return };
    servers.kill(&["rabbitmq"]);
    let migrating = servers.hold_migrations().await;
    let api = servers.api(Stdio::null());
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let found = readiness(&api.url).await;
        assert_eq!((found.code, found.status.as_str()), (503, "unavailable"), "{found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(migrating);
    until_down(&api.url, &["RabbitMQ"]).await;
    for order in &valid_orders()[..SOME] {
        system::place(&http(), &api.url, order).await.expect("the outbox takes it");
    }
    let is_ready = async || readiness(&api.url).await.status == "ready";
    servers.start_rabbitmq_after_kill(is_ready).await;
    until_ready(&api.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_alarm_of_rabbitmq_sends_orders_to_the_outbox() {
    let Some(servers) = Servers::take() else { return };
    let (api, _worker) = servers.api_and_worker("20ms");
    until_ready(&api.url).await;
    let traffic = Traffic::start(&api.url);
    traffic.accepted(SOME).await;

    servers.rabbitmqctl(&["set_vm_memory_high_watermark", "0.0000001"]);
    // More than one confirm deadline can hold up: they wait for no broker.
    traffic.accepted(2 * SOME).await;
    assert!(servers.waiting_in_outbox().await > 0);
    let blocked = traffic.seen();
    servers.rabbitmqctl(&["set_vm_memory_high_watermark", "0.6"]);
    let end = Instant::now() + servers::DEADLINE;
    while servers.waiting_in_outbox().await > 0 {
        assert!(Instant::now() < end, "the outbox is not published");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    blocked.report("blocked");
    assert_eq!(blocked.refused, []);
    assert!(blocked.slowest_post < ANSWER_MAX, "{blocked:?}");
    traffic.check(&servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wiped_rabbitmq_held_is_published_again() {
    let Some(servers) = Servers::take() else { return };
    let api = servers.api(Stdio::null());
    until_ready(&api.url).await;
    // Nobody works on them, so the queue holds them all.
    let ids = place_all(&api.url, &valid_orders()[..SOME]).await;
    servers.wipe("rabbitmq");
    let worker = servers.worker(&STAGES, &["--set", "reconcile_after=20s"], Stdio::null());
    for url in [&api.url, &worker.url] {
        until_ready(url).await;
    }
    all_ended(&api.url, &ids).await.iter().for_each(assert_completed);
    assert_eq!(servers.archived().await.len(), SOME);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_end_is_not_shown_while_the_order_is_tried_again_and_redis_has_lost_it() {
    let Some(servers) = Servers::take() else { return };
    let api = servers.api(Stdio::null());
    let failing = ["--set", "stages.processing.handler=simulated", "--set", "stages.processing.failure_rate=1"];
    let worker = servers.worker(&STAGES, &failing, Stdio::null());
    for url in [&api.url, &worker.url] {
        until_ready(url).await;
    }
    let ids = place_all(&api.url, &valid_orders()[..1]).await;
    assert_eq!(all_ended(&api.url, &ids).await[0]["status"], "failed");
    assert!(worker.terminate().success());
    let url = format!("{}/v1/orders/{}", api.url, ids[0]);
    let retry = http().post(format!("{url}/retry")).send().await.unwrap();
    assert_eq!(retry.status(), 202);
    servers.wipe("redis");
    until_ready(&api.url).await;
    for _ in 0..50 {
        let answer = http().get(&url).send().await.unwrap();
        if answer.status() == 200 {
            // Published, and its record written, after the wipe.
            assert_eq!(answer.json::<Value>().await.unwrap()["passage"], 2);
        } else {
            assert_eq!(answer.status(), 503, "nobody can say how far it has come");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _worker = servers.worker(&STAGES, &[], Stdio::null());
    let end = Instant::now() + servers::DEADLINE;
    let shown = loop {
        let answer = http().get(&url).send().await.unwrap();
        if answer.status() == 200 {
            let shown: Value = answer.json().await.unwrap();
            assert_ne!(shown["status"], "failed", "{shown}");
            if shown["status"] == "completed" {
                break shown;
            }
        }
        assert!(Instant::now() < end, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(shown["passage"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_was_deleted_while_nobody_looked_is_made_good_in_the_end() {
    let Some(servers) = Servers::take() else { return };
    let api = servers.api(Stdio::null());
    until_ready(&api.url).await;
    let ids = place_all(&api.url, &valid_orders()[..SOME]).await;
    assert!(api.terminate().success());
    servers.delete_queue("scheduling").await;
    let (api, _worker) = servers.api_and_worker("0s");
    all_ended(&api.url, &ids).await.iter().for_each(assert_completed);
    assert_eq!(servers.archived().await.len(), SOME);
}

/// Memory that a process holds, in MiB.
fn resident_mib(system: &System) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", system.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Part of `scripts/test --full`: `ORDERING_TEST_BACKLOG` says how many orders wait (200,000).
#[tokio::test(flavor = "multi_thread")]
async fn a_long_backlog_costs_the_processes_no_memory() {
    if std::env::var_os("ORDERING_TEST_FULL").is_none() {
        return;
    }
    let Some(servers) = Servers::take() else { return };
    let backlog: usize = std::env::var("ORDERING_TEST_BACKLOG").map_or(200_000, |text| text.parse().unwrap());
    let api = servers.api(Stdio::null());
    until_ready(&api.url).await;
    let (client, order) = (http(), valid_orders()[0].clone());
    let place_some = async |count: usize| {
        for some in (0..count).collect::<Vec<_>>().chunks(128) {
            let placed = some.iter().map(|_| system::place(&client, &api.url, &order));
            futures_util::future::join_all(placed).await.into_iter().for_each(|id| drop(id.unwrap()));
        }
    };
    place_some(backlog / 4).await;
    let early = resident_mib(&api);
    place_some(backlog - backlog / 4).await;
    let late = resident_mib(&api);

    let slow = ["--set", "stages.scheduling.handler=simulated", "--set", "stages.scheduling.delay=20s"];
    let worker = servers.worker(&["scheduling"], &slow, Stdio::null());
    until_ready(&worker.url).await;
    let (end, mut peak) = (Instant::now() + Duration::from_secs(30), 0);
    while Instant::now() < end {
        peak = peak.max(resident_mib(&worker));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    eprintln!("{backlog} orders wait: api {early} MiB, then {late} MiB; worker at most {peak} MiB");
    assert!(late < early + early / 2 + 16, "the api grew from {early} to {late} MiB");
    assert!(peak < 200, "the worker took {peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_processes_that_start_at_once_make_the_schema_once() {
    let Some(servers) = Servers::take() else { return };
    let workers: Vec<System> = std::thread::scope(|scope| {
        let start = |n: usize| servers.worker(&[STAGES[n % STAGES.len()]], &[], Stdio::null());
        let starting: Vec<_> = (0..10).map(|n| scope.spawn(move || start(n))).collect();
        starting.into_iter().map(|started| started.join().unwrap()).collect()
    });
    for worker in &workers {
        until_ready(&worker.url).await;
    }
    let applied = servers.migrations().await;
    assert!(!applied.is_empty() && applied.iter().all(|times| *times == 1), "{applied:?}");
    let api = servers.api(Stdio::null());
    until_ready(&api.url).await;
    let ids = place_all(&api.url, &valid_orders()[..SOME]).await;
    all_ended(&api.url, &ids).await.iter().for_each(assert_completed);
    assert_eq!(servers.archived().await.len(), SOME);
}

//! How a process begins, ends, and tells others of it. On the embedded back end: no servers are needed.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::servers::DEADLINE;
use crate::system::{System, assert_completed, ended, http, ordering, place, valid_orders};

fn all(folder: &Path, more: &[&str]) -> Command {
    let mut command = ordering();
    command.args(["all", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder.join("data")).args(more);
    command.stderr(File::create(folder.join("log")).unwrap());
    command
}

/// Waits until the log says so.
async fn logged(folder: &Path, text: &str) {
    let end = Instant::now() + DEADLINE;
    loop {
        let log = std::fs::read_to_string(folder.join("log")).unwrap();
        if log.contains(text) {
            return;
        }
        assert!(Instant::now() < end, "{text:?} is not in:\n{log}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Places an order and waits until the handler has it.
async fn at_work(url: &str) -> String {
    let client = http();
    let id = place(&client, url, &valid_orders()[0]).await.unwrap();
    let end = Instant::now() + DEADLINE;
    loop {
        let order: serde_json::Value =
            client.get(format!("{url}/v1/orders/{id}")).send().await.unwrap().json().await.unwrap();
        if order["status"] == "scheduling" {
            return id;
        }
        assert!(Instant::now() < end, "{order}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const BUSY: [&str; 4] = ["--set", "stages.scheduling.handler=simulated", "--set", "stages.scheduling.delay=30s"];

#[tokio::test(flavor = "multi_thread")]
async fn the_first_signal_ends_it_in_time_and_the_second_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let system = System::start_command(all(folder.path(), &[&BUSY[..], &["--set", "stop_timeout=60s"]].concat()));
    let first = at_work(&system.url).await;
    let asked = Instant::now();
    system.signal("TERM");
    // Two signals that arrive together are one.
    logged(folder.path(), "stopping").await;
    assert_eq!(system.terminate().code(), Some(1));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());

    let system = System::start_command(all(folder.path(), &[&BUSY[..], &["--set", "stop_timeout=1s"]].concat()));
    let second = at_work(&system.url).await;
    let asked = Instant::now();
    assert_eq!(system.terminate().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());

    // Neither lost what was at work.
    let system = System::start_command(all(folder.path(), &[]));
    for id in [first, second] {
        assert_completed(&ended(&http(), &system.url, &id).await);
    }
}

#[test]
fn systemd_is_told_that_it_is_ready_that_it_lives_and_that_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let told = || {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).expect("systemd is told something");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut command = all(folder.path(), &[]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000").env_remove("WATCHDOG_PID");
    let system = System::start_command(command);
    assert_eq!(told().trim_end(), "READY=1");
    let first = Instant::now();
    for _ in 0..4 {
        assert_eq!(told().trim_end(), "WATCHDOG=1");
    }
    // Four at half the limit are 0.8 s; a busy machine may be late.
    assert!(first.elapsed() < Duration::from_secs(4), "{:?}", first.elapsed());
    system.signal("TERM");
    let last = std::iter::repeat_with(told).find(|text| text.trim_end() != "WATCHDOG=1").unwrap();
    assert_eq!(last.trim_end(), "STOPPING=1");
    assert!(system.ended().success());
}

fn run(args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = ordering().args(args).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&stdout), "", "it does not listen");
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_start_that_cannot_be_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let system = System::start_command(all(folder.path(), &[]));

    let (code, why) = run(&["all", "--listen", "127.0.0.1:0", "--data-dir", data]);
    assert_eq!(code, Some(1), "{why}");
    assert!(why.contains(&system.pid().to_string()) && why.contains(data), "{why}");

    let address = system.url.strip_prefix("http://").unwrap();
    let elsewhere = folder.path().join("elsewhere");
    let (code, why) = run(&["all", "--listen", address, "--data-dir", elsewhere.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{why}");
    assert!(why.contains(address) && why.contains("in use"), "{why}");
    assert!(!elsewhere.exists(), "nothing was begun");

    for args in [&["api"][..], &["worker", "--stage", "processing"]] {
        let (code, why) = run(args);
        assert_eq!(code, Some(2), "{why}");
        assert!(why.contains(&format!("`ordering {}` needs the back end `servers`", args[0])), "{why}");
    }
}

//! `submit` and `get` against a server that does what servers do on bad days.

mod fake_server;

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake_server::{Answer, FakeServer, ID, id};
use serde_json::json;

fn command(server: &str, args: &[&str]) -> Command {
    // A client that hangs fails its test; signals are passed on.
    let mut command = Command::new("timeout");
    command
        .args(["60", env!("CARGO_BIN_EXE_ordering")])
        .args(args)
        .env("ORDERING_SERVER", server)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for proxy in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(proxy);
    }
    command
}

/// What a process said, and its exit code.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn run(server: &str, args: &[&str]) -> Said {
    command(server, args).output().unwrap().into()
}

/// Runs `submit -` with `input` on stdin.
fn submit(server: &str, input: &str, flags: &[&str]) -> Said {
    let args = [&["submit", "-"], flags].concat();
    let mut child = command(server, &args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may stop reading before the end.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap().into()
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn every_line_is_sent_once_with_a_key_of_its_own() {
    let server = FakeServer::start(|seen, _| {
        let number: usize = seen.body.trim_start_matches("{\"n\":").trim_end_matches('}').parse().unwrap();
        Some(Answer::accepted(&id(number)))
    });
    let said = submit(&server.url, "\u{feff}{\"n\":1}\r\n\n{\"n\":3}\n{\"n\":4}", &[]);
    assert_eq!(said.code, 0, "{}", said.err);
    let expected = [1, 3, 4].map(|n| format!("line {n}: {}", id(n)));
    assert_eq!(sorted(&said.out), expected);
    assert!(said.err.starts_with("3 accepted, 0 refused, 0 not sent in "), "{}", said.err);
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.method == "POST" && seen.path == "/v1/orders"));
    let keys: HashSet<String> = seen.into_iter().map(|seen| seen.key.unwrap()).collect();
    assert_eq!(keys.len(), 3);
}

#[test]
fn a_pretty_printed_file_is_one_order() {
    let server = FakeServer::start(|_, _| Some(Answer::accepted(ID)));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\n  \"customer_id\": \"7\"\n}\n").unwrap();
    let said = run(&server.url, &["submit", file.path().to_str().unwrap(), "--json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let told: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(told, json!({ "line": 1, "id": ID, "status": "accepted" }));
    assert_eq!(server.seen()[0].body, "{\n  \"customer_id\": \"7\"\n}");
}

#[test]
fn refusals_are_told_with_line_and_pointer_and_never_with_the_order() {
    let server = FakeServer::start(|seen, _| match seen.body.contains("good") {
        true => Some(Answer::accepted(ID)),
        false => Some(Answer::problem(
            422,
            json!({
                "type": "about:blank", "title": "invalid", "status": 422, "detail": "the order is not valid",
                "errors": [
                    { "pointer": "/items/3/quantity", "detail": "must be at least 1" },
                    { "pointer": "", "detail": "\u{1b}[31mred" },
                ],
            }),
        )),
    });
    let said = submit(&server.url, "\"good\"\n\"hunter2\"\n", &["--at-once", "1"]);
    assert_eq!(said.code, 1);
    assert_eq!(said.out, format!("line 1: {ID}\n"));
    let lines: Vec<&str> = said.err.lines().collect();
    assert_eq!(
        lines[..3],
        [
            "line 2: refused: the order is not valid",
            "line 2:   /items/3/quantity: must be at least 1",
            "line 2:   the whole order:  [31mred",
        ]
    );
    assert!(lines[3].starts_with("1 accepted, 1 refused, 0 not sent in "), "{}", lines[3]);
    assert!(!said.err.contains("hunter2"));
}

#[test]
fn an_overloaded_server_gets_the_same_key_again_after_the_wait_it_asked_for() {
    let server = FakeServer::start(|_, before| match before {
        0 => Some(Answer::overloaded(1)),
        1 => Some(Answer::json(502, "<html>")),
        _ => Some(Answer::accepted(ID)),
    });
    let began = Instant::now();
    let said = submit(&server.url, "{}", &[]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(began.elapsed() >= Duration::from_secs(1));
    let keys: HashSet<_> = server.seen().into_iter().map(|seen| seen.key.unwrap()).collect();
    assert_eq!((server.seen().len(), keys.len()), (3, 1));
    let notes = said.err.matches("503 Service Unavailable: come back later; trying again").count();
    assert_eq!((notes, said.err.matches("trying again").count()), (1, 1), "{}", said.err);
}

#[test]
fn an_order_whose_answer_got_lost_is_sent_again_with_its_key() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut keys = Vec::new();
        for answer in ["", "HTTP/1.1 202 Accepted\r\ncontent-length: 9999\r\n\r\n{\"id\":", "whole"] {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            while !request.ends_with(b"{}") {
                let len = connection.read(&mut chunk).unwrap();
                request.extend_from_slice(&chunk[..len]);
            }
            let request = String::from_utf8(request).unwrap().to_lowercase();
            let key = request.lines().find(|line| line.starts_with("idempotency-key:"));
            keys.push(key.unwrap().to_owned());
            let body = format!("{{\"id\":\"{ID}\",\"status\":\"accepted\"}}");
            let whole = format!("HTTP/1.1 202 Accepted\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let answer = if answer == "whole" { &whole } else { answer };
            connection.write_all(answer.as_bytes()).unwrap();
        }
        keys
    });
    let said = submit(&url, "{}", &[]);
    assert_eq!((said.code, said.out), (0, format!("line 1: {ID}\n")), "{}", said.err);
    let keys = server.join().unwrap();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[test]
fn many_orders_are_under_way_at_once_but_no_more_than_asked_for() {
    static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Each connection is answered only once eight requests are there: with fewer at once nothing would ever end.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                while connection.read(&mut chunk).unwrap_or(0) > 0 {
                    let now = UNDER_WAY.fetch_add(1, Ordering::SeqCst) + 1;
                    MOST.fetch_max(now, Ordering::SeqCst);
                    while MOST.load(Ordering::SeqCst) < 8 {
                        std::thread::yield_now();
                    }
                    UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
                    let body = format!("{{\"id\":\"{ID}\",\"status\":\"accepted\"}}");
                    let head = format!("HTTP/1.1 202 Accepted\r\ncontent-length: {}\r\n\r\n", body.len());
                    connection.write_all((head + &body).as_bytes()).unwrap();
                }
            });
        }
    });
    let said = submit(&url, &"{}\n".repeat(200), &["--at-once", "8", "--quiet"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "", ""));
    assert_eq!(MOST.load(Ordering::SeqCst), 8);
}

#[test]
fn a_server_that_is_not_there_is_named_with_what_to_do() {
    // Bound and dropped: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{address}");
    let said = run(&url, &["get", ID]);
    assert_eq!(said.code, 1);
    assert_eq!(
        said.err,
        format!(
            "error: cannot reach {url}: Connection refused (os error 111)\nis it running? start one with `ordering \
             all`, or name another with --server or ORDERING_SERVER\n"
        )
    );
    let said = submit(&url, "{}\n{}\n", &["--give-up-after", "250ms", "--at-once", "1"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    let lines: Vec<&str> = said.err.lines().collect();
    assert_eq!(lines[0], format!("cannot reach {url}: Connection refused (os error 111); trying again"));
    assert!(lines[1].starts_with("line 1: not sent: cannot reach "), "{}", said.err);
    assert_eq!(lines[2], "error: giving up: what follows is not sent");
    assert!(lines[3].starts_with("is it running?"), "{}", said.err);
    assert!(lines[4].starts_with("0 accepted, 0 refused, 1 not sent in "), "{}", said.err);
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let server = FakeServer::start(|_, _| None);
    let said = submit(&server.url, "{}", &["--give-up-after", "200ms"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("line 1: not sent: http://127.0.0.1:"), "{}", said.err);
    assert!(said.err.contains(" does not answer in time"), "{}", said.err);
}

#[test]
fn answers_of_another_kind_of_server_are_not_taken_for_success() {
    for (status, body) in [
        (200, "<html>welcome</html>"),
        (202, "{\"id\":\"7\",\"status\":\"accepted\"}"),
        (404, "no such page"),
        (301, ""),
    ] {
        let server = FakeServer::start(move |_, _| Some(Answer::json(status, body)));
        let said = submit(&server.url, &"{}\n".repeat(50), &["--at-once", "1"]);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{status}");
        assert!(said.err.contains("is it the right address?"), "{status}: {}", said.err);
        assert_eq!(server.seen().len(), 10, "it goes on for ever");

        let said = run(&server.url, &["get", ID]);
        assert_eq!(said.code, 1, "{status}");
        assert!(said.err.contains("is it the right address?"), "{status}: {}", said.err);
    }
    let server = FakeServer::start(|_, _| Some(Answer::problem(500, json!({ "detail": "a defect" }))));
    let said = submit(&server.url, "{}", &[]);
    assert!(said.err.contains("500 Internal Server Error: a defect"), "{}", said.err);
}

#[test]
fn nothing_to_send_is_a_failure() {
    let said = submit("http://127.0.0.1:1", "\n \n", &[]);
    assert_eq!(said.code, 1);
    assert!(said.err.ends_with("error: there is no order in -\n"), "{}", said.err);
    let said = run("http://127.0.0.1:1", &["submit", "/nowhere/orders.json"]);
    assert_eq!(said.code, 1);
    assert!(said.err.starts_with("error: cannot read /nowhere/orders.json: No such file"), "{}", said.err);
    let said = submit("http://127.0.0.1:1", "[\n{}\n]", &[]);
    assert_eq!(said.code, 1);
    assert!(said.err.starts_with("line 1: not sent: an array; write one order in each line"), "{}", said.err);
}

/// Answers each POST with a new id, and each GET with the next of the statuses planned for the order.
fn server_with_plan(plan: &'static [&'static [&'static str]]) -> FakeServer {
    let asked: Mutex<BTreeMap<String, usize>> = Mutex::default();
    FakeServer::start(move |seen, _| {
        let mut asked = asked.lock().unwrap();
        if seen.method == "POST" {
            let number = asked.len();
            asked.insert(id(number), 0);
            return Some(Answer::accepted(&id(number)));
        }
        let id = seen.path.rsplit('/').next().unwrap();
        let number: usize = id[24..].parse().unwrap();
        let times = asked.get_mut(id).unwrap();
        let status = plan[number][(*times).min(plan[number].len() - 1)];
        *times += 1;
        Some(match status {
            "404" => Answer::problem(404, json!({ "title": "no such order" })),
            "503" => Answer::overloaded(0),
            status => Answer::order(id, status),
        })
    })
}

#[test]
fn waiting_ends_when_every_order_has_ended() {
    let server = server_with_plan(&[
        &["accepted", "503", "scheduling", "completed"],
        &["completed"],
        &["503", "503", "processing", "completed"],
    ]);
    let said = submit(&server.url, "{}\n{}\n{}\n", &["--wait", "--at-once", "1"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let expected: Vec<String> = (0..3)
        .flat_map(|n| {
            let line = format!("line {}: {}", n + 1, id(n));
            [line.clone(), line + " completed"]
        })
        .collect();
    assert_eq!(sorted(&said.out), expected);
    let summary = said.err.lines().last().unwrap();
    let start = "3 accepted, 0 refused, 0 not sent; 3 completed, 0 failed, 0 cancelled, 0 not ended in ";
    assert!(summary.starts_with(start), "{summary}");
}

#[test]
fn waiting_fails_when_an_order_does_not_complete() {
    let server = server_with_plan(&[&["completed"], &["processing", "failed"], &["cancelled"], &["404"]]);
    let said = submit(&server.url, "{}\n{}\n{}\n{}\n", &["--wait", "--at-once", "1", "--json"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains(&format!("line 2: order {} failed at processing: out of stock", id(1))));
    assert!(said.err.contains(&format!("line 4: the server knows no order {}", id(3))));
    assert!(said.err.contains("; 1 completed, 1 failed, 1 cancelled, 1 not ended in "), "{}", said.err);
    assert!(said.out.contains(&json!({ "line": 3, "id": id(2), "status": "cancelled" }).to_string()));
}

#[test]
fn waiting_has_an_end() {
    let server = server_with_plan(&[&["completed"], &["processing"]]);
    let said = submit(&server.url, "{}\n{}\n", &["--wait", "--wait-timeout", "300ms", "--at-once", "1"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("; 1 completed, 0 failed, 0 cancelled, 1 not ended in "), "{}", said.err);
}

#[test]
fn ctrl_c_stops_sending_and_tells_what_was_done() {
    let server = FakeServer::start(|seen, _| (seen.body == "1").then(|| Answer::accepted(ID)));
    let mut child = command(&server.url, &["submit", "-", "--at-once", "2"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n2\n3\n4\n5\n").unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert_eq!(first, format!("line 1: {ID}\n"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.seen().len() < 3 {
        assert!(Instant::now() < deadline, "{:?}", server.seen());
        std::thread::yield_now();
    }
    // stdin stays open: a reader that waits for more must not hold up the end.
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let said: Said = child.wait_with_output().unwrap().into();
    drop(stdin);
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("2 orders were under way and have no answer: they may have been accepted"),
        "{}",
        said.err
    );
    let summary = said.err.lines().last().unwrap();
    let start = "1 accepted, 0 refused, 2 not sent in ";
    assert!(summary.starts_with(start), "{summary}");
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn an_order_is_shown_to_people_and_to_programs() {
    let server = FakeServer::start(|seen, _| {
        let id = seen.path.strip_prefix("/v1/orders/").unwrap();
        Some(match id == ID {
            true => Answer::order(id, "failed"),
            false => Answer::problem(404, json!({ "title": "no such order" })),
        })
    });
    let said = run(&server.url, &["get", ID]);
    assert_eq!(said.code, 0, "{}", said.err);
    for part in
        [ID, "failed", "at processing: out of stock", "17850", "15.30 GBP for 2 items", "scheduling", "40ms", "host-1"]
    {
        assert!(said.out.contains(part), "{part} is missing in {}", said.out);
    }
    let said = run(&server.url, &["get", ID, "--json"]);
    let order: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(order["total"], "15.30");
    let said = run(&server.url, &["get", &id(7)]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert_eq!(said.err, format!("error: {} knows no order {}\n", server.url, id(7)));
}

#[test]
fn a_server_below_a_path_is_found() {
    let server = FakeServer::start(|seen, _| {
        assert_eq!(seen.path, format!("/shop/v1/orders/{ID}"));
        Some(Answer::order(ID, "completed"))
    });
    let said = run(&format!("{}/shop/", server.url), &["get", ID]);
    assert_eq!(said.code, 0, "{}", said.err);
}

#[test]
fn watching_tells_each_change_until_the_end() {
    let plan = ["accepted", "accepted", "503", "scheduling", "processing", "processing", "completed"];
    let server = FakeServer::start(move |_, before| {
        Some(match plan[before] {
            "503" => Answer::overloaded(0),
            status => Answer::order(ID, status),
        })
    });
    let said = run(&server.url, &["get", ID, "--watch"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let told: Vec<&str> = said.out.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(told, ["accepted", "scheduling", "processing", "completed"]);
}

//! `ordering dead` as its users run it.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::fake_server::{Answer, FakeServer};
use crate::system::ordering;
use crate::{Embedded, id, ids};

/// What a command said, and its exit code.
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn command(server: &str, args: &[&str]) -> Command {
    let mut command = ordering();
    command.arg("dead").args(args).env("ORDERING_SERVER", server).env("NO_PROXY", "*").stdin(Stdio::null());
    command
}

fn output(server: &str, args: &[&str]) -> Output {
    command(server, args).output().unwrap()
}

fn run(server: &str, args: &[&str]) -> Said {
    let output = output(server, args);
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a command at a terminal, with `typed` on it; what the terminal showed, and the exit code.
fn at_terminal(server: &str, args: &str, typed: &str) -> (String, i32) {
    let line = format!("{} dead {args}", env!("CARGO_BIN_EXE_ordering"));
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("ORDERING_SERVER", server);
    let mut child = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_and_shown() {
    let system =
        Embedded::start(&[("pre-processing", b"\x00\xff \x1b[31mnot ours"), ("ending", b"{\"v\":1,\n\"oops\"")]);
    let (asked, url) = (&system.asked, system.asked.url.as_str());
    let letters = asked.letters_when("two are given up", |letters| letters.len() == 2).await;
    let of = |queue: &str| letters.iter().find(|letter| letter["queue"] == queue).unwrap().clone();
    let (binary, text) = (of("pre_processing"), of("ending"));

    let said = run(url, &["list"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["ID", "WHEN", "QUEUE", "BYTES", "REASON"]);
    assert_eq!(lines.len(), 3);
    let row = lines.iter().find(|line| line.contains("pre_processing")).unwrap();
    for part in [&id(&binary), binary["at"].as_str().unwrap(), "16", "it is no JSON, at line 1 column 1"] {
        assert!(row.contains(part), "{part} is missing in {row}");
    }
    let said = run(url, &["list", "--queue", "pre_processing", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&said.out).unwrap(), binary);
    let said = run(url, &["list", "--queue", "scheduling"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "", "there are no dead letters of scheduling\n"));
    let said = run(url, &["list", "--limit", "1", "--json"]);
    assert_eq!(said.out.lines().count(), 1);
    assert_eq!(said.err, "there are more than 1: see them with a larger --limit\n");

    let said = run(url, &["show", &id(&binary)]);
    assert_eq!(said.code, 0, "{}", said.err);
    for part in
        ["queue      pre_processing", "16 bytes", "none that the server could read", "\n\\x00\\xff \\x1b[31mnot ours\n"]
    {
        assert!(said.out.contains(part), "{part} is missing in {}", said.out);
    }
    assert!(run(url, &["show", &id(&text)]).out.ends_with("\n\n{\"v\":1,\n\"oops\"\n"));
    let shown: Value = serde_json::from_str(&run(url, &["show", &id(&text), "--json"]).out).unwrap();
    assert_eq!(shown["text"], "{\"v\":1,\n\"oops\"");
    assert_eq!(output(url, &["show", &id(&binary), "--raw"]).stdout, b"\x00\xff \x1b[31mnot ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_replayed_and_dropped_by_id() {
    let system = Embedded::with_letters("processing", 3).await;
    let (asked, url) = (&system.asked, system.asked.url.as_str());
    let letters = ids(&asked.letters("").await);
    let said = run(url, &["drop", &letters[0]]);
    assert_eq!((said.code, said.out), (0, format!("dropped {}\n", letters[0])), "{}", said.err);
    // One that is not there keeps none of the others from it.
    let said = run(url, &["replay", &letters[0], &letters[1]]);
    assert_eq!((said.code, said.out), (1, format!("replayed {}\n", letters[1])));
    let expected =
        format!("error: {} was not replayed: {url} answered 404 Not Found: there is no dead letter", letters[0]);
    assert!(said.err.starts_with(&expected), "{}", said.err);
    let left = asked.letters_when("it is given up again", |left| left.len() == 2).await;
    assert!(ids(&left).contains(&letters[2]) && !ids(&left).contains(&letters[1]));
    let said = run(url, &["show", &letters[0]]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("it was replayed or dropped, or it never was"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_them_are_meant_only_by_somebody_who_says_so() {
    let system = Embedded::with_letters("processing", 3).await;
    let (asked, url) = (&system.asked, system.asked.url.as_str());
    system.put_letter("0193f0a1-7c3e-7b11-8f00-000000000017", "ending", b"another");
    for deed in ["replay", "drop"] {
        let said = run(url, &[deed, "--all"]);
        assert_eq!((said.code, said.out.as_str()), (2, ""));
        assert!(said.err.starts_with("error: --all needs --yes where there is no terminal"), "{}", said.err);
    }
    for answer in ["n\n", "\n", "yesterday\n", "\u{4}"] {
        let (shown, code) = at_terminal(url, "drop --all --queue processing", answer);
        assert_eq!(code, 1, "{shown}");
        assert!(shown.contains(&format!("drop 3 dead letters of processing at {url}? [y/N]")), "{shown}");
        assert!(shown.contains("nothing was done"), "{shown}");
    }
    assert_eq!(asked.letters("").await.len(), 4);
    let (shown, code) = at_terminal(url, "drop --all --queue processing", "y\n");
    assert!(code == 0 && shown.contains("3 dead letters of processing dropped"), "{shown}");
    assert_eq!(asked.letters("").await.len(), 1);
    let (shown, code) = at_terminal(url, "drop --all --queue processing", "");
    assert!(code == 0 && shown.contains("0 dead letters of processing dropped"), "{shown}");

    let said = run(url, &["replay", "--all", "--yes"]);
    assert_eq!((said.code, said.out.as_str()), (0, "1 dead letter replayed\n"), "{}", said.err);
    asked.letters_when("it is given up again", |letters| letters.len() == 1).await;
    let said = run(url, &["drop", "--all", "--yes"]);
    assert_eq!((said.code, said.out.as_str()), (0, "1 dead letter dropped\n"), "{}", said.err);
}

#[test]
fn a_long_sweep_is_carried_on_to_its_end_and_its_sum_is_told() {
    let server = FakeServer::start(|_, before| {
        let (dropped, cursor) = [(1_024, Some("c1")), (1_000, Some("c2")), (7, None)][before];
        Some(Answer::json(200, json!({"dropped": dropped, "cursor": cursor})))
    });
    let said = run(&server.url, &["drop", "--all", "--queue", "pre-processing", "--yes"]);
    assert_eq!((said.code, said.out.as_str()), (0, "2031 dead letters of pre-processing dropped\n"), "{}", said.err);
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.method == "DELETE" && seen.path == "/v1/dead-letters"));
    let queries: Vec<&str> = seen.iter().map(|seen| seen.query.as_str()).collect();
    let queue = "queue=pre-processing";
    assert_eq!(queries, [queue.to_owned(), format!("{queue}&cursor=c1"), format!("{queue}&cursor=c2")]);
}

#[test]
fn a_sweep_that_stops_says_how_far_it_came() {
    let stopped = json!({"title": "x", "detail": "5 are replayed, then it stopped at one: it was not put back"});
    let server = FakeServer::start(move |_, before| {
        Some(match before {
            0 => Answer::json(200, json!({"replayed": 1_024, "cursor": "c1"})),
            _ => Answer { retry_after: Some(1), ..Answer::problem(503, stopped.clone()) },
        })
    });
    let said = run(&server.url, &["replay", "--all", "--yes"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("5 are replayed, then it stopped"), "{}", said.err);
    assert!(said.err.ends_with("\n1024 dead letters were replayed before that\n"), "{}", said.err);
    assert_eq!(server.seen()[0].query, "all=true");
}

#[test]
fn a_list_longer_than_a_page_is_asked_for_page_by_page() {
    let server = FakeServer::start(|_, before| {
        let letter = |n: usize| json!({"id": format!("{n}"), "queue": "ending", "reason": "\u{1b}[31mred", "at": "then", "size_bytes": n, "new": 1});
        let letters: Vec<Value> = match before {
            0 => (0..1_000).map(letter).collect(),
            _ => (1_000..1_500).map(letter).collect(),
        };
        Some(Answer::json(200, json!({"dead_letters": letters, "cursor": format!("c{}", before + 1)})))
    });
    let said = run(&server.url, &["list", "--limit", "1500"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(said.out.lines().count(), 1_501);
    assert!(!said.out.contains('\u{1b}'));
    assert_eq!(said.err, "there are more than 1500: see them with a larger --limit\n");
    let queries: Vec<String> = server.seen().into_iter().map(|seen| seen.query).collect();
    assert_eq!(queries, ["limit=1000", "limit=500&cursor=c1"]);
}

#[test]
fn a_server_that_is_not_there_or_is_another_is_told_with_what_to_do() {
    let port = crate::support::closed_port();
    let url = format!("http://127.0.0.1:{port}");
    const ID: &str = "0193f0a1-7c3e-7b11-8f00-0123456789ab";
    for args in [&["list"][..], &["show", ID], &["replay", ID], &["drop", ID, ID], &["drop", "--all", "--yes"]] {
        let said = run(&url, args);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{args:?}");
        assert!(said.err.contains("cannot reach") && said.err.contains("is it running?"), "{args:?}: {}", said.err);
        assert_eq!(said.err.matches("cannot reach").count(), 1, "{args:?}");
    }
    let server = FakeServer::start(|_, _| Some(Answer::json(200, "<html>welcome</html>")));
    for args in [&["list"][..], &["show", ID], &["drop", ID]] {
        let said = run(&server.url, args);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{args:?}");
        assert!(said.err.contains("is it the right address?"), "{args:?}: {}", said.err);
    }
}

#[test]
fn what_cannot_be_meant_is_misuse() {
    for (args, hint) in [
        (&["list", "--queue", "packing"][..], "pre-processing"),
        (&["list", "--limit", "0"], "1.."),
        (&["show"], "<ID>"),
        (&["show", "17"], "no dead letter's id"),
        (&["show", "0193f0a1-7c3e-7b11-8f00-0123456789ab", "--raw", "--json"], "cannot be used with"),
        (&["replay"], "<ID|--all>"),
        (&["drop"], "<ID|--all>"),
        (&["drop", "--queue", "ending"], "--all"),
        (&["drop", "--all", "0193f0a1-7c3e-7b11-8f00-0123456789ab"], "cannot be used with"),
        (&["drop", "0193f0a1-7c3e-7b11-8f00-0123456789ab", "--queue", "ending"], "cannot be used with"),
        (&["drop", "all"], "no dead letter's id"),
        (&["list", "--server", "127.0.0.1:8080"], "http://HOST:PORT"),
    ] {
        let said = run("http://127.0.0.1:1", args);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{args:?}: {}", said.err);
        assert!(said.err.contains(hint), "{args:?}: {}", said.err);
    }
}

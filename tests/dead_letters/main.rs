//! Dead letters as people meet them: over HTTP, at the command line, and with real servers.

mod commands;
#[path = "../fake_server/mod.rs"]
mod fake_server;
mod http;
mod servers;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/system.rs"]
mod system;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::{Client, Method, Response};
use serde_json::Value;

/// How long a test waits for something that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

/// The server to ask, and how.
struct Asked {
    client: Client,
    url: String,
}

impl Asked {
    fn at(url: &str) -> Asked {
        Asked { client: system::http(), url: url.to_owned() }
    }

    async fn ask(&self, method: Method, path: &str) -> Response {
        self.client.request(method, format!("{}{path}", self.url)).send().await.unwrap()
    }

    /// What a request comes to that must succeed.
    async fn done(&self, method: Method, path: &str) -> Value {
        let answer = self.ask(method.clone(), path).await;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body: Value = answer.json().await.unwrap();
        assert_eq!(status, 200, "{method} {path}: {body}");
        assert_eq!(headers["cache-control"], "no-store");
        body
    }

    async fn letters(&self, query: &str) -> Vec<Value> {
        let listed = self.done(Method::GET, &format!("/v1/dead-letters{query}")).await;
        listed["dead_letters"].as_array().unwrap().clone()
    }

    /// The list, as soon as it `is` what is waited for.
    async fn letters_when(&self, what: &str, is: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let end = Instant::now() + DEADLINE;
        loop {
            let letters = self.letters("?limit=1000").await;
            if is(&letters) {
                return letters;
            }
            assert!(Instant::now() < end, "{what}: there are {letters:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The problem an answer carries, after checks that hold for every problem.
async fn problem(answer: Response, status: u16, name: &str) -> Value {
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let headers = answer.headers().clone();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["status"], status, "{body}");
    assert_eq!(headers.contains_key("retry-after"), status == 503, "Retry-After");
    assert_eq!(body["type"], format!("urn:ordering:problem:{name}"));
    let documented = include_str!("../../doc/http-api.md");
    assert!(documented.contains(&format!("| `{name}` | {status} |")), "{name} is not in doc/http-api.md");
    body
}

fn id(letter: &Value) -> String {
    letter["id"].as_str().unwrap().to_owned()
}

fn ids(letters: &[Value]) -> Vec<String> {
    letters.iter().map(id).collect()
}

/// The embedded back end with messages in its queues that somebody else put there.
struct Embedded {
    asked: Asked,
    // It ends before its folder goes.
    _system: system::System,
    folder: tempfile::TempDir,
}

impl Embedded {
    fn start(messages: &[(&str, &[u8])]) -> Embedded {
        let folder = tempfile::tempdir().unwrap();
        let start = || system::System::start(&["all", "--data-dir", folder.path().to_str().unwrap()]);
        // The first start makes the file.
        assert!(start().terminate().success());
        let database = rusqlite::Connection::open(folder.path().join("ordering.db")).unwrap();
        for (queue, body) in messages {
            let sql = "INSERT INTO messages (source, orders, body) VALUES (?1, 1, ?2)";
            database.execute(sql, (queue, *body)).unwrap();
        }
        drop(database);
        let system = start();
        Embedded { asked: Asked::at(&system.url), _system: system, folder }
    }

    /// One with the message of an order that was accepted among the dead letters, as if it had been given up there.
    async fn with_order_given_up(letter: &str) -> (Embedded, String) {
        let folder = tempfile::tempdir().unwrap();
        let args = ["all", "--data-dir", folder.path().to_str().unwrap()];
        let slow = ["--set", "stages.scheduling.handler=simulated", "--set", "stages.scheduling.delay=60s"];
        let system = system::System::start(&[&args[..], &slow].concat());
        let order = system::place(&system::http(), &system.url, &system::valid_orders()[0]).await.unwrap();
        system.kill();
        let database = rusqlite::Connection::open(folder.path().join("ordering.db")).unwrap();
        let sql = "INSERT INTO dead_letters (id, source, reason, at, bytes)
                   SELECT ?1, source, 'by hand', 1764000000007, body FROM messages";
        assert_eq!(database.execute(sql, [letter]).unwrap(), 1);
        database.execute("DELETE FROM messages", []).unwrap();
        drop(database);
        let system = system::System::start(&args);
        (Embedded { asked: Asked::at(&system.url), _system: system, folder }, order)
    }

    /// One with `count` messages that nobody can read in the queue `queue`, when all of them were given up.
    async fn with_letters(queue: &str, count: usize) -> Embedded {
        let bodies: Vec<Vec<u8>> = (0..count).map(|n| format!("garbage {n}").into_bytes()).collect();
        let messages: Vec<(&str, &[u8])> = bodies.iter().map(|body| (queue, &body[..])).collect();
        let embedded = Embedded::start(&messages);
        embedded.asked.letters_when("all are given up", |letters| letters.len() == count).await;
        embedded
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ordering.db")
    }

    /// Does something to the database behind the program's back.
    fn sql(&self, sql: &str) {
        let database = rusqlite::Connection::open(self.file()).unwrap();
        database.busy_timeout(Duration::from_secs(10)).unwrap();
        database.execute_batch(sql).unwrap();
    }

    /// Puts a letter where the program keeps them.
    fn put_letter(&self, id: &str, queue: &str, bytes: &[u8]) {
        let database = rusqlite::Connection::open(self.file()).unwrap();
        database.busy_timeout(Duration::from_secs(10)).unwrap();
        let sql =
            "INSERT INTO dead_letters (id, source, reason, at, bytes) VALUES (?1, ?2, 'by hand', 1764000000007, ?3)";
        database.execute(sql, (id, queue, bytes)).unwrap();
    }

    /// Waits until so many messages are left: what is settled is deleted a little later.
    async fn messages_left(&self, count: i64) {
        let end = Instant::now() + DEADLINE;
        while self.count("messages") != count {
            assert!(Instant::now() < end, "{} messages are left", self.count("messages"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn count(&self, table: &str) -> i64 {
        let database = rusqlite::Connection::open(self.file()).unwrap();
        database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }
}

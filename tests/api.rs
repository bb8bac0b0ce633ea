//! The HTTP interface as its clients meet it: what is taken, and how every kind of mistake is answered.

#[path = "support/system.rs"]
mod system;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use system::{System, assert_completed, ended, http, place};

/// How long a test waits for something that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

struct Running {
    system: System,
    _folder: tempfile::TempDir,
    client: Client,
}

fn start(more: &[&str]) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let args = [&["all", "--data-dir", folder.path().to_str().unwrap()], more].concat();
    Running { system: System::start(&args), _folder: folder, client: http() }
}

impl Running {
    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.system.url)
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    async fn post(&self, body: impl Into<reqwest::Body>) -> Response {
        let request = self.client.post(self.url("/v1/orders")).header("content-type", "application/json");
        request.body(body).send().await.unwrap()
    }

    /// Sends bytes as they are, and gives what comes back until the connection closes or `wait` has passed.
    fn raw(&self, bytes: &[u8], wait: Duration) -> String {
        let mut stream = TcpStream::connect(self.system.url.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(wait)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let mut some = [0; 4_096];
        while let Ok(n @ 1..) = stream.read(&mut some) {
            answer.extend_from_slice(&some[..n]);
            if answer.ends_with(b"}") {
                break;
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn order() -> Value {
    json!({"customer_id": "17850", "currency": "EUR", "items": [{"sku": "s", "quantity": 1, "unit_price": "1.00"}]})
}

/// The problem an answer carries, after checks that hold for every problem.
async fn problem(answer: Response, status: u16, name: &str) -> Value {
    assert_eq!(answer.status(), StatusCode::from_u16(status).unwrap());
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let has_retry_after = answer.headers().contains_key("retry-after");
    assert_eq!(has_retry_after, status == 503, "Retry-After");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["type"], format!("urn:ordering:problem:{name}"));
    assert_eq!(body["status"], status);
    assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    let documented = include_str!("../doc/http-api.md");
    assert!(documented.contains(&format!("| `{name}` | {status} |")), "{name} is not in doc/http-api.md");
    body
}

#[tokio::test]
async fn an_order_is_taken_and_shown() {
    let running = start(&[]);
    let id = place(&running.client, &running.system.url, &order()).await.unwrap();
    let shown = ended(&running.client, &running.system.url, &id).await;
    assert_completed(&shown);
    assert_eq!(shown["id"], id);
    let head = running.client.head(running.url(&format!("/v1/orders/{id}"))).send().await.unwrap();
    assert_eq!(head.status(), 200);
    let upper_case = running.get(&format!("/v1/orders/{}", id.to_uppercase())).await;
    assert_eq!(upper_case.json::<Value>().await.unwrap()["id"], id);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(running.get(path).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let running = start(&[]);
    let malformed = problem(running.post("{\"customer_id\": \n  oops}").await, 400, "malformed-json").await;
    assert_eq!((&malformed["line"], &malformed["column"]), (&json!(2), &json!(3)));
    problem(running.post("").await, 400, "malformed-json").await;
    problem(running.post(b"\xff\xfe".to_vec()).await, 400, "malformed-json").await;

    let invalid =
        json!({"customer_id": "", "currency": "eur", "colour": 1, "items": [{"sku": "s", "unit_price": 1.5}]});
    let invalid = problem(running.post(invalid.to_string()).await, 422, "invalid-order").await;
    let pointers: Vec<&str> =
        invalid["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/colour", "/customer_id", "/currency", "/items/0/quantity", "/items/0/unit_price"]);
    assert!(invalid["errors"].as_array().unwrap().iter().all(|error| error["detail"].is_string()));

    problem(running.get("/v1/orders/17").await, 400, "not-an-id").await;
    problem(running.get("/v1/orders/0193f0a17c3e7b118f000123456789ab").await, 400, "not-an-id").await;
    problem(running.get("/v1/orders/0193f0a1-7c3e-7b11-8f00-0123456789ab").await, 404, "no-such-order").await;
    problem(running.get("/v1/order").await, 404, "no-such-path").await;
    problem(running.get("/").await, 404, "no-such-path").await;

    let wrong_method = running.client.delete(running.url("/v1/orders")).send().await.unwrap();
    assert_eq!(wrong_method.headers()["allow"], "POST");
    problem(wrong_method, 405, "method-not-allowed").await;
    let wrong_method = running.client.post(running.url("/healthz")).send().await.unwrap();
    assert_eq!(wrong_method.headers()["allow"], "GET, HEAD");
    problem(wrong_method, 405, "method-not-allowed").await;
}

#[tokio::test]
async fn the_same_key_means_the_same_order() {
    let running = start(&[]);
    let place = |key: &'static str, order: Value| {
        let request = running.client.post(running.url("/v1/orders")).header("idempotency-key", key).json(&order);
        async { request.send().await.unwrap() }
    };
    let id = |answer: Value| answer["id"].as_str().unwrap().to_owned();
    let first = place("\"17\"", order()).await;
    assert_eq!(first.status(), 202);
    let first = id(first.json().await.unwrap());
    // At once, many times, written otherwise, and after its end.
    let again = futures_util::future::join_all((0..20).map(|_| place("17", order()))).await;
    ended(&running.client, &running.system.url, &first).await;
    for answer in again.into_iter().chain([place("17", order()).await]) {
        assert_eq!(answer.status(), 202);
        assert_eq!(answer.headers()["location"], format!("/v1/orders/{first}"));
        assert_eq!(id(answer.json().await.unwrap()), first);
    }
    let mut other = order();
    other["reference"] = json!("another");
    problem(place("17", other.clone()).await, 422, "key-reused").await;
    assert_ne!(id(place("18", other).await.json().await.unwrap()), first);
    problem(place("", order()).await, 400, "wrong-key").await;
    let shown = ended(&running.client, &running.system.url, &first).await;
    assert_completed(&shown);
    assert_eq!(shown["reference"], Value::Null);
}

#[tokio::test]
async fn only_json_is_read() {
    let running = start(&[]);
    for (content_type, status) in [
        (Some("application/json"), 202),
        (Some("Application/JSON; charset=utf-8"), 202),
        (Some("application/x-www-form-urlencoded"), 415),
        (Some("text/json"), 415),
        (None, 415),
    ] {
        let mut request = running.client.post(running.url("/v1/orders")).body(order().to_string());
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let answer = request.send().await.unwrap();
        if status == 202 {
            assert_eq!(answer.status(), 202, "{content_type:?}");
        } else {
            problem(answer, status, "wrong-content-type").await;
        }
    }
}

#[tokio::test]
async fn large_orders_are_taken_up_to_the_limit_and_refused_above() {
    let running = start(&[]);
    let with_description = |n: usize| {
        let item = json!({"sku": "s", "description": "x".repeat(200), "quantity": 1, "unit_price": "1.00"});
        json!({"customer_id": "c", "currency": "EUR", "items": vec![item; n]}).to_string()
    };
    let (largest, too_large) = (with_description(1_000), with_description(1_100));
    assert!(largest.len() < 256 * 1024 && too_large.len() > 256 * 1024);
    assert_eq!(running.post(largest).await.status(), 202);
    let refused = problem(running.post(too_large.clone()).await, 413, "too-large").await;
    assert_eq!(refused["bytes_max"], 262_144);
    // Without a Content-Length the size shows only while it is read.
    let chunks =
        too_large.into_bytes().chunks(10_000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>();
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    problem(running.post(stream).await, 413, "too-large").await;
}

#[tokio::test]
async fn a_client_that_stalls_is_told_so_and_costs_nobody_else_anything() {
    let running = start(&["--set", "api.request_timeout=1s"]);
    let head = "POST /v1/orders HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n";
    let stalled = running.raw(format!("{head}{{\"customer").as_bytes(), Duration::from_secs(20));
    assert!(stalled.starts_with("HTTP/1.1 408"), "{stalled}");
    assert!(stalled.contains("urn:ordering:problem:too-slow"), "{stalled}");
    place(&running.client, &running.system.url, &order()).await.unwrap();
}

#[tokio::test]
async fn many_orders_at_once_are_all_answered() {
    let running = start(&["--set", "api.requests_max=20000"]);
    let (client, url, order) = (&running.client, &running.system.url, order());
    let placed = futures_util::future::join_all((0..2_000).map(|_| place(client, url, &order))).await;
    let mut ids: Vec<String> = placed.into_iter().map(|id| id.expect("taken")).collect();
    for id in &ids {
        assert_completed(&ended(client, url, id).await);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 2_000);
}

#[tokio::test]
async fn more_than_may_wait_is_refused_at_once_and_the_rest_is_taken() {
    let running = start(&["--set", "api.requests_max=4"]);
    let body = order().to_string();
    let answers = futures_util::future::join_all((0..500).map(|_| running.post(body.clone()))).await;
    let (mut taken, mut refused) = (0, 0);
    for answer in answers {
        if answer.status() == 202 {
            taken += 1;
        } else {
            problem(answer, 503, "overloaded").await;
            refused += 1;
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}

#[tokio::test]
async fn past_its_bound_the_backlog_refuses_new_orders_until_it_is_worked_off() {
    const SLOW: [&str; 5] = [
        "stages.scheduling.handler=simulated",
        "stages.scheduling.delay=100ms",
        "stages.scheduling.at_once=1",
        "stages.scheduling.prefetch=1",
        "batch.orders_max=1",
    ];
    let settings = SLOW.into_iter().chain(["api.backlog_max=5"]).flat_map(|setting| ["--set", setting]);
    let running = start(&settings.collect::<Vec<_>>());
    let (body, end) = (order().to_string(), Instant::now() + DEADLINE);
    let mut taken = 0;
    let refused = loop {
        let answer = running.post(body.clone()).await;
        if answer.status() != 202 {
            break answer;
        }
        taken += 1;
        assert!(Instant::now() < end, "{taken} orders taken, and none refused");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(taken > 5, "{taken} orders are no backlog");
    assert!(refused.headers().contains_key("retry-after"));
    problem(refused, 503, "overloaded").await;
    while running.post(body.clone()).await.status() != 202 {
        assert!(Instant::now() < end, "no order is taken again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let metrics = running.get("/metrics").await;
    assert!(metrics.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let metrics = metrics.text().await.unwrap();
    let count = |name: &str| -> usize {
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} in\n{metrics}")).parse().unwrap()
    };
    assert_eq!(count("ordering_orders_accepted_total"), taken + 1);
    assert!(count("ordering_orders_refused_total{reason=\"overloaded\"}") >= 1);
    assert!(count("ordering_orders_ended_total{status=\"completed\"}") >= 1);
}

#[tokio::test]
async fn a_stopping_server_answers_what_it_has_begun() {
    let running = start(&["--set", "stages.scheduling.handler=simulated", "--set", "stages.scheduling.delay=300ms"]);
    let (client, url, order) = (&running.client, &running.system.url, order());
    place(client, url, &order).await.unwrap();
    running.system.signal("TERM");
    // Until the process is gone every answer is whole: taken, or not connected at all.
    for _ in 0..200 {
        match place(client, url, &order).await {
            Ok(_) => {}
            Err(refused) => assert!(!refused.contains("500"), "{refused}"),
        }
    }
    let Running { system, _folder, .. } = running;
    assert!(system.ended().success());
}

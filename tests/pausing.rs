//! Pausing a stage and resuming it, over HTTP and from the command line. `tests/end_to_end.rs` has what workers make of it.

#[path = "support/system.rs"]
mod system;

use std::time::{Duration, Instant};

use reqwest::{Client, Response};
use serde_json::{Value, json};
use system::{System, assert_completed, ended, http, ordering, place};

/// How long a test waits for something that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

struct Running {
    system: System,
    folder: tempfile::TempDir,
    client: Client,
}

fn start_on(folder: tempfile::TempDir, more: &[&str]) -> Running {
    let args = [&["all", "--data-dir", folder.path().to_str().unwrap()], more].concat();
    Running { system: System::start(&args), folder, client: http() }
}

fn start() -> Running {
    start_on(tempfile::tempdir().unwrap(), &[])
}

fn order() -> Value {
    json!({"customer_id": "17850", "currency": "EUR", "items": [{"sku": "s", "quantity": 1, "unit_price": "1.00"}]})
}

impl Running {
    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.system.url)).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        self.get(path).await.json().await.unwrap()
    }

    async fn post(&self, path: &str, body: Option<Value>) -> Response {
        let request = self.client.post(format!("{}{path}", self.system.url));
        match body {
            Some(body) => request.json(&body),
            None => request,
        }
        .send()
        .await
        .unwrap()
    }

    /// What `/v1/stages` says of `stage`.
    async fn stage(&self, stage: &str) -> Value {
        let stages = self.json("/v1/stages").await["stages"].as_array().unwrap().clone();
        assert_eq!(stages.len(), 4);
        stages.into_iter().find(|shown| shown["stage"] == stage).unwrap()
    }

    /// Waits until the process obeys: it says so in `/readyz`.
    async fn obeys(&self, paused: Value) {
        let end = Instant::now() + DEADLINE;
        loop {
            let answer = self.get("/readyz").await;
            assert_eq!(answer.status(), 200);
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["status"], "ready", "a pause is no fault");
            if body["paused"] == paused {
                return;
            }
            assert!(Instant::now() < end, "{body}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn status(&self, id: &str) -> Value {
        self.json(&format!("/v1/orders/{id}")).await["status"].clone()
    }

    async fn comes_to(&self, id: &str, status: &str) {
        let end = Instant::now() + DEADLINE;
        while self.status(id).await != status {
            assert!(Instant::now() < end, "{id} does not come to {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn problem(answer: Response, status: u16, name: &str) -> Value {
    assert_eq!(answer.status().as_u16(), status);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["type"], format!("urn:ordering:problem:{name}"));
    let documented = include_str!("../doc/http-api.md");
    assert!(documented.contains(&format!("| `{name}` | {status} |")), "{name} is not in doc/http-api.md");
    body
}

#[tokio::test]
async fn a_paused_stage_holds_its_orders_until_it_is_resumed() {
    let running = start();
    let untouched = json!({"stage": "processing", "paused": false, "since": null, "reason": null});
    assert_eq!(running.stage("processing").await, untouched);
    let answer = running.post("/v1/stages/processing/pause", Some(json!({"reason": "the service moves"}))).await;
    assert_eq!(answer.status(), 200);
    let paused: Value = answer.json().await.unwrap();
    assert_eq!(running.stage("processing").await, paused);
    assert_eq!((&paused["paused"], &paused["reason"]), (&json!(true), &json!("the service moves")));
    assert!(paused["since"].as_str().unwrap().ends_with('Z'));
    running.obeys(json!(["processing"])).await;
    let metrics = running.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("ordering_stage_paused{stage=\"processing\"} 1"), "{metrics}");
    assert!(metrics.contains("ordering_stage_paused{stage=\"scheduling\"} 0"), "{metrics}");

    let id = place(&running.client, &running.system.url, &order()).await.unwrap();
    running.comes_to(&id, "pre_processing").await;
    let again: Value = running.post("/v1/stages/processing/pause", None).await.json().await.unwrap();
    assert_eq!(again, paused, "pausing it again changes nothing");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running.status(&id).await, "pre_processing");

    for _ in 0..2 {
        let resumed: Value = running.post("/v1/stages/processing/resume", None).await.json().await.unwrap();
        assert_eq!(resumed, untouched);
    }
    assert_completed(&ended(&running.client, &running.system.url, &id).await);
    running.obeys(json!([])).await;
}

#[tokio::test]
async fn a_pause_outlives_the_process_and_a_process_that_starts_paused_waits_to_be_resumed() {
    let running = start();
    assert_eq!(running.post("/v1/stages/pre_processing/pause", None).await.status(), 200);
    running.obeys(json!(["pre_processing"])).await;
    let id = place(&running.client, &running.system.url, &order()).await.unwrap();
    running.comes_to(&id, "scheduling").await;
    let Running { system, folder, .. } = running;
    system.kill();

    let running = start_on(folder, &["--set", "start_paused=post-processing"]);
    running.obeys(json!(["pre_processing", "post_processing"])).await;
    let since = running.stage("post_processing").await;
    assert!(since["reason"].as_str().unwrap().starts_with("start_paused of "), "{since}");
    assert_eq!(running.status(&id).await, "scheduling");
    assert_eq!(running.post("/v1/stages/pre-processing/resume", None).await.status(), 200);
    running.comes_to(&id, "processing").await;
    assert_eq!(running.post("/v1/stages/post-processing/resume", None).await.status(), 200);
    assert_completed(&ended(&running.client, &running.system.url, &id).await);
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let running = start();
    let detail = problem(running.post("/v1/stages/packing/pause", None).await, 404, "no-such-stage").await;
    assert!(detail["detail"].as_str().unwrap().contains("post-processing"), "{detail}");
    problem(running.post("/v1/stages/ending/resume", None).await, 404, "no-such-stage").await;
    let pause = "/v1/stages/scheduling/pause";
    for body in [json!({"why": "x"}), json!({"reason": 7}), json!("x"), json!({"reason": "x".repeat(501)})] {
        let invalid = problem(running.post(pause, Some(body)).await, 422, "invalid-request").await;
        assert!(invalid["errors"][0]["detail"].is_string(), "{invalid}");
    }
    let url = format!("{}{pause}", running.system.url);
    let send = |content_type: &str, body: &str| {
        running.client.post(&url).header("content-type", content_type).body(body.to_owned()).send()
    };
    problem(send("application/json", "{").await.unwrap(), 400, "malformed-json").await;
    problem(send("text/plain", "{}").await.unwrap(), 415, "wrong-content-type").await;
    problem(send("application/json", &" ".repeat(20_000)).await.unwrap(), 413, "too-large").await;
    problem(running.post(&format!("{pause}?why=x"), None).await, 400, "wrong-parameter").await;
    problem(running.get(pause).await, 405, "method-not-allowed").await;
    problem(running.post("/v1/stages", None).await, 405, "method-not-allowed").await;
    assert_eq!(running.stage("scheduling").await["paused"], false, "none of these paused it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_say_what_they_did() {
    let running = start();
    let run = |args: &[&str]| {
        let mut command = ordering();
        let output = command.args(args).env("ORDERING_SERVER", &running.system.url).env("NO_PROXY", "*").output();
        let output = output.unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (code, said) = run(&["pause", "pre-processing", "--reason", "it moves"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("pre-processing is paused since 20") && said.ends_with("Z: it moves\n"), "{said}");
    let (code, said) = run(&["stages"]);
    assert_eq!(code, 0, "{said}");
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["STAGE", "STATE", "SINCE", "REASON"]);
    assert_eq!(rows[1], ["scheduling", "at", "work", "-", "-"]);
    assert_eq!(rows[2][..2], ["pre-processing", "paused"]);
    let (_, said) = run(&["stages", "--json"]);
    let listed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(listed["stages"][1]["reason"], "it moves");
    assert_eq!(run(&["resume", "pre_processing"]), (0, "pre-processing is at work\n".to_owned()));
    assert_eq!(run(&["pause", "packing"]).0, 2);
    let (code, said) = run(&["stages", "--server", "http://127.0.0.1:1"]);
    assert!(code == 1 && said.contains("is it running?"), "{said}");
}

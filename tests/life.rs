//! People change their minds: orders are placed for later, cancelled, and tried again. On both back ends, through HTTP and
//! the command line.

#[path = "support/back_end.rs"]
mod back_end;
#[path = "support/system.rs"]
mod system;

use std::process::Stdio;
use std::time::{Duration, Instant};

use back_end::BackEnd;
use ordering::domain::Timestamp;
use ordering::ports::{Clock, SystemClock};
use reqwest::Client;
use serde_json::{Value, json};
use system::{assert_completed, ended, http, ordering, place, ready};

/// How long a test waits for something that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

macro_rules! on_both_back_ends {
    ($($name:ident),* $(,)?) => {
        mod embedded { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::BackEnd::embedded()).await;
            }
        )* }
        mod servers { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if let Some(back_end) = super::BackEnd::servers() {
                    super::$name(back_end).await;
                }
            }
        )* }
    };
}

on_both_back_ends!(
    an_order_waits_for_its_time,
    an_order_that_waits_for_its_time_survives_a_kill,
    an_order_that_waits_is_cancelled_at_once,
    an_order_at_work_is_cancelled_when_its_handler_returns,
    what_has_ended_is_not_cancelled,
    a_failed_order_is_tried_again_and_keeps_both_passages,
    many_failed_orders_are_tried_again_by_what_they_have_in_common,
    wrong_requests_are_told_what_is_wrong,
);

fn order() -> Value {
    json!({"customer_id": "17850", "currency": "EUR", "items": [{"sku": "s", "quantity": 1, "unit_price": "1.00"}]})
}

fn order_for(at: Timestamp) -> Value {
    let mut order = order();
    order["not_before"] = at.to_string().into();
    order
}

async fn post(client: &Client, url: &str, path: &str, body: &Value) -> (u16, Value) {
    let answer = client.post(format!("{url}/v1/orders/{path}")).json(body).send().await.unwrap();
    let status = answer.status().as_u16();
    let is_problem = answer.headers()["content-type"] == "application/problem+json";
    assert_eq!(is_problem, status >= 400);
    (status, answer.json().await.unwrap())
}

async fn get(client: &Client, url: &str, id: &str) -> Value {
    let end = Instant::now() + DEADLINE;
    loop {
        let answer = client.get(format!("{url}/v1/orders/{id}")).send().await.unwrap();
        assert_ne!(answer.status(), 404);
        if answer.status() == 200 {
            return answer.json().await.unwrap();
        }
        assert!(Instant::now() < end, "{id} cannot be read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_status(client: &Client, url: &str, id: &str, status: &str) {
    let end = Instant::now() + DEADLINE;
    while get(client, url, id).await["status"] != status {
        assert!(Instant::now() < end, "{id} does not come to {status}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn problem(answer: &(u16, Value), status: u16, name: &str) {
    let (found, body) = answer;
    assert_eq!((*found, body["type"].as_str()), (status, Some(&*format!("urn:ordering:problem:{name}"))), "{body}");
    let documented = include_str!("../doc/http-api.md");
    assert!(documented.contains(&format!("| `{name}` | {status} |")), "{name} is not in doc/http-api.md");
}

async fn an_order_waits_for_its_time(back_end: BackEnd) {
    let (api, _workers) = back_end.start_roles(&[]);
    let client = http();
    ready(&client, &api.url).await;
    let at = SystemClock.now().after(Duration::from_millis(2_500));
    let id = place(&client, &api.url, &order_for(at)).await.unwrap();
    let past = place(&client, &api.url, &order_for(Timestamp::from_millis(0))).await.unwrap();
    assert_completed(&ended(&client, &api.url, &past).await);
    let shown = get(&client, &api.url, &id).await;
    assert_eq!((&shown["status"], shown["not_before"].as_str()), (&json!("accepted"), Some(&*at.to_string())));
    assert!(SystemClock.now() < at, "the order before it took too long to tell");
    let shown = ended(&client, &api.url, &id).await;
    assert_completed(&shown);
    assert!(shown["steps"][0]["entered_at"].as_str().unwrap() >= &*at.to_string(), "{shown}");
    // The same order, sent again with its key, is the same.
    let keyed = || {
        let request = client.post(format!("{}/v1/orders", api.url)).header("idempotency-key", "later");
        request.json(&order_for(at.after(Duration::from_secs(3_600)))).send()
    };
    let first: Value = keyed().await.unwrap().json().await.unwrap();
    let second: Value = keyed().await.unwrap().json().await.unwrap();
    assert_eq!(first, second);
    assert_eq!(get(&client, &api.url, first["id"].as_str().unwrap()).await["status"], "accepted");
    // A year is the most.
    let too_late = order_for(SystemClock.now().after(Duration::from_secs(367 * 24 * 3_600)));
    let refused = client.post(format!("{}/v1/orders", api.url)).json(&too_late).send().await.unwrap();
    assert_eq!(refused.status(), 422);
    assert_eq!(refused.json::<Value>().await.unwrap()["errors"][0]["pointer"], "/not_before");
    let latest = order_for(SystemClock.now().after(Duration::from_secs(365 * 24 * 3_600)));
    place(&client, &api.url, &latest).await.unwrap();
}

async fn an_order_that_waits_for_its_time_survives_a_kill(back_end: BackEnd) {
    let client = http();
    let api = back_end.start("all", &[]);
    ready(&client, &api.url).await;
    let at = SystemClock.now().after(Duration::from_secs(2));
    let id = place(&client, &api.url, &order_for(at)).await.unwrap();
    api.kill();
    let api = back_end.start("all", &[]);
    let shown = ended(&client, &api.url, &id).await;
    assert_completed(&shown);
    assert!(shown["steps"][0]["entered_at"].as_str().unwrap() >= &*at.to_string(), "{shown}");
    assert_eq!(back_end.archived().await, 1);
}

async fn an_order_that_waits_is_cancelled_at_once(back_end: BackEnd) {
    // It waits in a queue behind another order, to be tried again, and for its time.
    let slow = ["--set", "stages.scheduling.handler=simulated", "--set", "stages.scheduling.delay=3s"];
    let alone = ["--set", "stages.scheduling.at_once=1", "--set", "stages.scheduling.prefetch=1"];
    let (api, _workers) = back_end.start_roles(&[&slow[..], &alone].concat());
    let client = http();
    ready(&client, &api.url).await;
    let first = place(&client, &api.url, &order()).await.unwrap();
    until_status(&client, &api.url, &first, "scheduling").await;
    let second = place(&client, &api.url, &order()).await.unwrap();
    let tomorrow = SystemClock.now().after(Duration::from_secs(24 * 3_600));
    let later = place(&client, &api.url, &order_for(tomorrow)).await.unwrap();
    for id in [&second, &later] {
        let reason = json!({"reason": "ordered \"twice\""});
        let answer = post(&client, &api.url, &format!("{id}/cancel"), &reason).await;
        assert_eq!(answer, (202, json!({"id": id, "status": "cancelled"})));
        // To repeat it changes nothing.
        let again = post(&client, &api.url, &format!("{id}/cancel"), &json!({"reason": "other"})).await;
        assert_eq!(again, answer);
        let shown = get(&client, &api.url, id).await;
        assert_eq!(
            (&shown["status"], &shown["failure"], &shown["steps"]),
            (&json!("cancelled"), &json!(null), &json!([]))
        );
        assert_eq!(shown["cancellation"]["reason"], "ordered \"twice\"");
        assert_eq!(shown["finished_at"], shown["cancellation"]["at"]);
    }
    assert_completed(&ended(&client, &api.url, &first).await);
    // Its message came, and changed nothing.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(get(&client, &api.url, &second).await["status"], "cancelled");
    assert_eq!(back_end.archived().await, 3);
}

async fn an_order_at_work_is_cancelled_when_its_handler_returns(back_end: BackEnd) {
    let slow = ["--set", "stages.processing.handler=simulated", "--set", "stages.processing.delay=2s"];
    let (api, _workers) = back_end.start_roles(&slow);
    let client = http();
    ready(&client, &api.url).await;
    let id = place(&client, &api.url, &order()).await.unwrap();
    until_status(&client, &api.url, &id, "processing").await;
    let said = ordering().args(["cancel", &id, "--server", &api.url]).stdin(Stdio::null()).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8(said.stdout).unwrap();
    assert_eq!(text, format!("{id} is at work (processing): it ends when that returns\n"));
    assert_eq!(get(&client, &api.url, &id).await["status"], "processing");
    let shown = ended(&client, &api.url, &id).await;
    assert_eq!(shown["status"], "cancelled");
    assert_eq!(shown["cancellation"]["reason"], json!(null));
    let steps: Vec<_> =
        shown["steps"].as_array().unwrap().iter().map(|step| (&step["stage"], &step["outcome"])).collect();
    let done = json!("done");
    let stages = [json!("scheduling"), json!("pre_processing"), json!("processing")];
    assert_eq!(steps, stages.iter().map(|stage| (stage, &done)).collect::<Vec<_>>());
    let text = ordering().args(["get", &id, "--server", &api.url]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("cancelled"), "{text}");
}

async fn what_has_ended_is_not_cancelled(back_end: BackEnd) {
    let (api, _workers) = back_end.start_roles(&[]);
    let client = http();
    ready(&client, &api.url).await;
    let id = place(&client, &api.url, &order()).await.unwrap();
    assert_completed(&ended(&client, &api.url, &id).await);
    let refused = post(&client, &api.url, &format!("{id}/cancel"), &json!({})).await;
    problem(&refused, 409, "has-ended");
    assert_eq!(refused.1["order_status"], "completed");
    let refused = post(&client, &api.url, &format!("{id}/retry"), &json!({})).await;
    problem(&refused, 409, "not-failed");
    for args in [["cancel", &id], ["retry", &id]] {
        let said = ordering().args(args).args(["--server", &api.url]).output().unwrap();
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        assert!(String::from_utf8(said.stderr).unwrap().contains("completed"));
    }
}

/// Fails every order at one stage.
const FAILING: [&str; 4] =
    ["--set", "stages.processing.handler=simulated", "--set", "stages.processing.failure_rate=1"];

async fn a_failed_order_is_tried_again_and_keeps_both_passages(back_end: BackEnd) {
    let client = http();
    let system = back_end.start("all", &FAILING);
    ready(&client, &system.url).await;
    let (one, other) =
        (place(&client, &system.url, &order()).await.unwrap(), place(&client, &system.url, &order()).await.unwrap());
    for id in [&one, &other] {
        assert_eq!(ended(&client, &system.url, id).await["status"], "failed");
    }
    let refused = post(&client, &system.url, &format!("{one}/retry"), &json!({"stage": "post-processing"})).await;
    problem(&refused, 409, "not-reached");
    assert_eq!(refused.1["failed_at"], "processing");
    // It fails again.
    let answer = post(&client, &system.url, &format!("{one}/retry"), &json!({"stage": "pre_processing"})).await;
    assert_eq!(answer, (202, json!({"id": one, "status": "scheduling", "passage": 2})));
    let shown = ended(&client, &system.url, &one).await;
    assert_eq!((&shown["status"], &shown["passage"]), (&json!("failed"), &json!(2)));
    assert!(system.terminate().success());

    let system = back_end.start("all", &[]);
    ready(&client, &system.url).await;
    let said = ordering().args(["retry", &one, &other, "--server", &system.url]).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8(said.stdout).unwrap();
    assert_eq!(text, format!("{one} is tried again, in passage 3\n{other} is tried again, in passage 2\n"));
    for (id, passages) in [(&one, 2), (&other, 1)] {
        let end = Instant::now() + DEADLINE;
        while get(&client, &system.url, id).await["status"] != "completed" {
            assert!(Instant::now() < end, "{id} does not complete");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let shown = get(&client, &system.url, id).await;
        assert_completed(&shown);
        let earlier = shown["earlier_passages"].as_array().unwrap();
        assert_eq!(earlier.len(), passages, "{shown}");
        for (n, passage) in earlier.iter().enumerate() {
            assert_eq!(passage["passage"], n + 1);
            assert_eq!(passage["steps"].as_array().unwrap().last().unwrap()["outcome"], "rejected");
        }
        // What was done before the stage is not done again.
        assert_eq!(shown["steps"][0], earlier[0]["steps"][0]);
    }
    assert_eq!(back_end.archived().await, 2);
}

async fn many_failed_orders_are_tried_again_by_what_they_have_in_common(back_end: BackEnd) {
    let client = http();
    let system = back_end.start("all", &FAILING);
    ready(&client, &system.url).await;
    let mut ids = Vec::new();
    for n in 0..300 {
        let mut order = order();
        order["customer_id"] = format!("customer-{}", n % 3).into();
        ids.push(place(&client, &system.url, &order).await.unwrap());
    }
    for id in &ids {
        assert_eq!(ended(&client, &system.url, id).await["status"], "failed");
    }
    assert!(system.terminate().success());
    let system = back_end.start("all", &[]);
    ready(&client, &system.url).await;
    let ask = async |filter: Value, dry_run: bool| {
        let body = json!({"filter": filter, "dry_run": dry_run});
        let (status, answer) = post(&client, &system.url, "retry", &body).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["dry_run"], dry_run);
        answer["retried"].as_u64().unwrap()
    };
    assert_eq!(ask(json!({"stage": "scheduling"}), false).await, 0);
    assert_eq!(ask(json!({"reason": "simulated", "stage": "processing"}), true).await, 300);
    assert_eq!(ask(json!({"customer_id": "customer-1"}), false).await, 100);
    let cli = |args: &[&str]| {
        let args = [&["retry", "--all-failed", "--server", &system.url], args].concat();
        ordering().args(args).stdin(Stdio::null()).output().unwrap()
    };
    assert_eq!(cli(&[]).status.code(), Some(2), "it asks nobody");
    let said = cli(&["--failed-at", "processing", "--to", "2000-01-01T00:00:00Z", "--dry-run"]);
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "0 orders would be tried again\n");
    let said = cli(&["--yes"]);
    let text = String::from_utf8(said.stdout).unwrap();
    let tried: u64 = text.split(' ').next().unwrap().parse().unwrap();
    assert!((200..=300).contains(&tried), "{text}");
    for id in &ids {
        until_status(&client, &system.url, id, "completed").await;
    }
    assert_eq!(back_end.archived().await, 300);
}

async fn wrong_requests_are_told_what_is_wrong(back_end: BackEnd) {
    let system = back_end.start("all", &[]);
    let client = http();
    ready(&client, &system.url).await;
    // Of an order it could be unknown whether there is one: no order has an id of this version.
    let nobody = "5b482697-193f-4fe3-b6d0-f9585601bbef";
    for path in ["cancel", "retry"] {
        problem(&post(&client, &system.url, &format!("{nobody}/{path}"), &json!({})).await, 404, "no-such-order");
        problem(&post(&client, &system.url, &format!("7/{path}"), &json!({})).await, 400, "not-an-id");
        problem(
            &post(&client, &system.url, &format!("{nobody}/{path}"), &json!({"why": 1})).await,
            422,
            "invalid-request",
        );
    }
    for (path, body) in [
        ("retry", json!({})),
        ("retry", json!({"filter": {"stag": "processing"}})),
        ("retry", json!({"filter": {"stage": "packing"}})),
        ("retry", json!({"filter": {"from": "yesterday"}})),
        (&*format!("{nobody}/retry"), json!({"stage": "packing"})),
        (&*format!("{nobody}/cancel"), json!({"reason": "x".repeat(501)})),
    ] {
        problem(&post(&client, &system.url, path, &body).await, 422, "invalid-request");
    }
    let empty = client.post(format!("{}/v1/orders/{nobody}/cancel", system.url)).send().await.unwrap();
    assert_eq!(empty.status(), 404, "a body is not needed");
    let broken = client.post(format!("{}/v1/orders/retry", system.url)).header("content-type", "application/json");
    let broken = broken.body("{\"filter\":").send().await.unwrap();
    assert_eq!(broken.status(), 400);
    let plain = client.post(format!("{}/v1/orders/retry", system.url)).body("filter").send().await.unwrap();
    assert_eq!(plain.status(), 415);
}

/// The worker that had it in hand is gone: whoever gets it next does not call the handler again.
#[tokio::test(flavor = "multi_thread")]
async fn servers_a_cancelled_order_that_is_delivered_again_is_not_worked_on() {
    let Some(back_end) = BackEnd::servers() else { return };
    let slow = ["--set", "stages.processing.handler=simulated", "--set", "stages.processing.delay=50s"];
    let (api, mut workers) = back_end.start_roles(&slow);
    let client = http();
    ready(&client, &api.url).await;
    let id = place(&client, &api.url, &order()).await.unwrap();
    until_status(&client, &api.url, &id, "processing").await;
    workers.remove(2).kill();
    let answer = post(&client, &api.url, &format!("{id}/cancel"), &json!({})).await;
    assert_eq!(answer, (202, json!({"id": id, "status": "processing"})));
    let begun = Instant::now();
    let _again =
        system::System::start_silent(&back_end.role("worker", &[&["--stage", "processing"], &slow[..]].concat()));
    let shown = ended(&client, &api.url, &id).await;
    assert!(begun.elapsed() < Duration::from_secs(45), "it was worked on again");
    assert_eq!(shown["status"], "cancelled");
    assert_eq!(shown["steps"].as_array().unwrap().len(), 2, "{shown}");
}

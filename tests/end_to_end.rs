//! Real orders through the whole program, on both back ends, the roles in processes of their own, and killed in the
//! middle of their work.

#[path = "support/back_end.rs"]
mod back_end;
#[path = "support/system.rs"]
mod system;

use std::time::{Duration, Instant};

use back_end::BackEnd;
use ordering::domain::{Order, OrderId, OrderRecord, Stage, Timestamp};
use ordering::ports::{Place, Queues};
use serde_json::Value;
use system::{System, all_ended, assert_completed, assert_same, http, place, place_all, returned_orders, valid_orders};

/// The settings of a slow stage, so that there is a middle to be killed in.
const SLOW: [&str; 4] = ["--set", "stages.processing.handler=simulated", "--set", "stages.processing.delay=300ms"];

/// How long a test waits for something that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

async fn real_orders_come_back_completed_and_returns_are_refused(back_end: BackEnd) {
    let (api, _workers) = back_end.start_roles(&[]);
    let orders = valid_orders();
    let ids = place_all(&api.url, &orders).await;
    for (placed, shown) in orders.iter().zip(all_ended(&api.url, &ids).await) {
        assert_same(placed, &shown);
        assert_completed(&shown);
    }
    let client = http();
    for order in returned_orders() {
        let answer = client.post(format!("{}/v1/orders", api.url)).json(&order).send().await.unwrap();
        assert_eq!(answer.status(), 422);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.unwrap();
        let named: Vec<&str> =
            problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
        let wrong: Vec<String> = order["items"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .filter(|(_, item)| item["quantity"].as_i64().unwrap() < 1)
            .map(|(n, _)| format!("/items/{n}/quantity"))
            .collect();
        assert!(!wrong.is_empty());
        assert_eq!(named, wrong);
    }
    assert_eq!(back_end.archived().await, orders.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_real_orders_come_back_completed_and_returns_are_refused() {
    real_orders_come_back_completed_and_returns_are_refused(BackEnd::embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_real_orders_come_back_completed_and_returns_are_refused() {
    if let Some(back_end) = BackEnd::servers() {
        real_orders_come_back_completed_and_returns_are_refused(back_end).await;
    }
}

async fn with_failures_the_sums_match(back_end: BackEnd) {
    let settings: Vec<String> = ["scheduling", "pre-processing", "processing", "post-processing"]
        .iter()
        .flat_map(|stage| {
            [
                format!("stages.{stage}.handler=simulated"),
                format!("stages.{stage}.delay=5ms"),
                format!("stages.{stage}.failure_rate=0.05"),
            ]
        })
        .collect();
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting.as_str()]).collect();
    let (api, _workers) = back_end.start_roles(&settings);
    let orders = valid_orders();
    let ids = place_all(&api.url, &orders).await;
    let (mut completed, mut failed) = (0, 0);
    for (placed, shown) in orders.iter().zip(all_ended(&api.url, &ids).await) {
        assert_same(placed, &shown);
        if shown["status"] == "completed" {
            assert_completed(&shown);
            completed += 1;
            continue;
        }
        assert_eq!(shown["status"], "failed");
        let last = shown["steps"].as_array().unwrap().last().unwrap();
        assert_eq!(last["outcome"], "rejected");
        assert_eq!(shown["failure"]["stage"], last["stage"]);
        assert_eq!(shown["failure"]["reason"], "simulated failure");
        assert_eq!(shown["finished_at"], last["finished_at"]);
        failed += 1;
    }
    assert_eq!(completed + failed, orders.len());
    // 1 - 0.95^4 = 18.5 % of 438 are 81; five standard deviations of 8 on either side.
    assert!((41..=121).contains(&failed), "{failed} failed");
    assert_eq!(back_end.archived().await, orders.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_with_failures_the_sums_match() {
    with_failures_the_sums_match(BackEnd::embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_with_failures_the_sums_match() {
    if let Some(back_end) = BackEnd::servers() {
        with_failures_the_sums_match(back_end).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_survives_kills_in_the_middle_of_its_work() {
    let back_end = BackEnd::embedded();
    let orders = valid_orders();
    let (first, second) = orders.split_at(orders.len() / 2);
    let mut system = back_end.start("all", &SLOW);
    let mut ids = place_all(&system.url, first).await;
    for _ in 0..3 {
        system.kill();
        system = back_end.start("all", &SLOW);
    }
    ids.extend(place_all(&system.url, second).await);
    system.kill();
    let system = back_end.start("all", &SLOW);
    for (placed, shown) in orders.iter().zip(all_ended(&system.url, &ids).await) {
        assert_same(placed, &shown);
        assert_completed(&shown);
    }
    assert_eq!(back_end.archived().await, orders.len());
}

/// Those that were answered are there; those whose answer was lost may be.
#[tokio::test(flavor = "multi_thread")]
async fn embedded_keeps_what_it_accepted_when_it_is_killed_while_taking_orders() {
    let back_end = BackEnd::embedded();
    let orders = valid_orders();
    let system = back_end.start("all", &[]);
    let (client, url) = (http(), system.url.clone());
    let placing = tokio::spawn(async move {
        let mut accepted = Vec::new();
        for some in orders.chunks(16) {
            let placed = futures_util::future::join_all(some.iter().map(|order| place(&client, &url, order))).await;
            let gone = placed.iter().all(Result::is_err);
            accepted.extend(placed.into_iter().flatten());
            if gone {
                break;
            }
        }
        accepted
    });
    while back_end.archived().await < 40 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    system.kill();
    let accepted = placing.await.unwrap();
    let system = back_end.start("all", &[]);
    for shown in all_ended(&system.url, &accepted).await {
        assert_completed(&shown);
    }
    let archived = back_end.archived().await;
    assert!((accepted.len()..=accepted.len() + 16).contains(&archived), "{archived} of {}", accepted.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_survive_kills_of_workers_in_the_middle_of_their_work() {
    let Some(back_end) = BackEnd::servers() else { return };
    let (api, mut workers) = back_end.start_roles(&SLOW);
    let orders = valid_orders();
    let (first, second) = orders.split_at(orders.len() / 2);
    let mut ids = place_all(&api.url, first).await;
    for (n, stage) in ["scheduling", "pre-processing", "processing", "post-processing"].into_iter().enumerate() {
        let again = System::start_silent(&back_end.role("worker", &[&["--stage", stage], &SLOW[..]].concat()));
        std::mem::replace(&mut workers[n], again).kill();
    }
    ids.extend(place_all(&api.url, second).await);
    for (placed, shown) in orders.iter().zip(all_ended(&api.url, &ids).await) {
        assert_same(placed, &shown);
        assert_completed(&shown);
    }
    assert_eq!(back_end.archived().await, orders.len());
}

async fn a_stop_loses_nothing_and_a_start_goes_on(back_end: BackEnd) {
    let slow = ["--set", "stages.scheduling.handler=simulated", "--set", "stages.scheduling.delay=2s"];
    let short = ["--set", "stop_timeout=1s"];
    let orders = &valid_orders()[..50];
    let system = back_end.start("all", &[&slow[..], &short].concat());
    let ids = place_all(&system.url, orders).await;
    // In the middle of the handlers' work, which takes longer than the stop may.
    assert!(system.terminate().success(), "a stop is no failure");
    let system = back_end.start("all", &[]);
    for shown in all_ended(&system.url, &ids).await {
        assert_completed(&shown);
    }
    assert!(system.terminate().success());
    assert_eq!(back_end.archived().await, orders.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_a_stop_loses_nothing_and_a_start_goes_on() {
    a_stop_loses_nothing_and_a_start_goes_on(BackEnd::embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_a_stop_loses_nothing_and_a_start_goes_on() {
    if let Some(back_end) = BackEnd::servers() {
        a_stop_loses_nothing_and_a_start_goes_on(back_end).await;
    }
}

/// Pauses `processing` or resumes it, and waits as long as workers may take to obey.
async fn switch(url: &str, to: &str) {
    let answer = http().post(format!("{url}/v1/stages/processing/{to}")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// Those of `ids` that entered `processing`.
async fn entered(url: &str, ids: &[String]) -> usize {
    let client = http();
    let mut entered = 0;
    for id in ids {
        let shown: Value = client.get(format!("{url}/v1/orders/{id}")).send().await.unwrap().json().await.unwrap();
        entered += usize::from(shown["steps"].as_array().unwrap().iter().any(|step| step["stage"] == "processing"));
    }
    entered
}

async fn a_paused_stage_piles_up_in_its_queue_over_restarts_and_completes_when_resumed(back_end: BackEnd) {
    // Two workers at the stage, where the back end has any.
    let start = || {
        let (api, mut workers) = back_end.start_roles(&SLOW);
        if !workers.is_empty() {
            let args = [&["--stage", "processing"], &SLOW[..]].concat();
            workers.push(System::start_silent(&back_end.role("worker", &args)));
        }
        (api, workers)
    };
    let (api, workers) = start();
    let orders = &valid_orders()[..60];
    // In the middle of the work: what is at work is finished, and the rest given back.
    let mut ids = place_all(&api.url, &orders[..30]).await;
    switch(&api.url, "pause").await;
    ids.extend(place_all(&api.url, &orders[30..]).await);
    let end = Instant::now() + DEADLINE;
    while back_end.waiting("processing").await == 0 {
        assert!(Instant::now() < end, "no order waits");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let before = entered(&api.url, &ids).await;
    assert!(before <= 30, "{before} orders entered the stage, 30 of them were placed before it was paused");

    api.kill();
    workers.into_iter().for_each(System::kill);
    let (api, _workers) = start();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(entered(&api.url, &ids).await, before, "an order entered a paused stage");
    assert!(back_end.waiting("processing").await > 0);

    switch(&api.url, "resume").await;
    for shown in all_ended(&api.url, &ids).await {
        assert_completed(&shown);
    }
    assert_eq!(back_end.archived().await, orders.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_a_paused_stage_piles_up_in_its_queue_over_restarts_and_completes_when_resumed() {
    let back_end = BackEnd::embedded();
    a_paused_stage_piles_up_in_its_queue_over_restarts_and_completes_when_resumed(back_end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_a_paused_stage_piles_up_in_its_queue_over_restarts_and_completes_when_resumed() {
    if let Some(back_end) = BackEnd::servers() {
        a_paused_stage_piles_up_in_its_queue_over_restarts_and_completes_when_resumed(back_end).await;
    }
}

/// What a broker delivers again long after it was worked on, as after a lost connection.
#[tokio::test(flavor = "multi_thread")]
async fn servers_late_duplicates_are_dropped_and_counted() {
    let Some(back_end) = BackEnd::servers() else { return };
    let system = back_end.start("all", &[]);
    let orders = valid_orders();
    let placed = &orders[..32];
    let ids = place_all(&system.url, placed).await;
    let first_end = all_ended(&system.url, &ids).await;
    let copies: Vec<OrderRecord> = ids
        .iter()
        .zip(placed)
        .zip(&first_end)
        .map(|((id, placed), shown)| {
            let placed_at = Timestamp::parse(shown["placed_at"].as_str().unwrap()).unwrap();
            let order = Order::from_json(placed.to_string().as_bytes()).unwrap();
            OrderRecord::new(OrderId::parse(id).unwrap(), placed_at, order)
        })
        .collect();
    let queues = back_end.queues().expect("there are servers");
    let end = Instant::now() + DEADLINE;
    while queues.publish(Place::Stage(Stage::FIRST), &copies).await.is_err() {
        assert!(Instant::now() < end, "the copies are not taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let dropped = async || -> u64 {
        let metrics = http().get(format!("{}/metrics", system.url)).send().await.unwrap().text().await.unwrap();
        let name = "ordering_duplicates_dropped_total{stage=\"scheduling\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |count| count.parse().unwrap())
    };
    while dropped().await < 32 {
        assert!(Instant::now() < end, "{} of 32 duplicates are counted", dropped().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(all_ended(&system.url, &ids).await, first_end);
    assert_eq!(back_end.archived().await, 32);
    queues.close().await;
}

//! The same with RabbitMQ, Redis and Postgres, and the roles in processes of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::proxy::Proxy;
use crate::service::{Reply, Service};
use crate::sse::{Sse, ask};
use crate::system::{System, all_ended, http, place, ready};
use crate::webhooks::{add, assert_signed, kinds, taken, until, until_workers_know};
use crate::{ALL_KINDS, SMOOTH, an_order};

/// An installation of its own on the servers of the environment.
struct Servers {
    namespace: String,
    urls: [String; 3],
}

impl Servers {
    /// `None` where there are no servers and none were promised.
    fn find() -> Option<Servers> {
        let names = ["ORDERING_AMQP_URLS", "ORDERING_REDIS_URL", "ORDERING_POSTGRES_URL"];
        let [Some(amqp), Some(redis), Some(postgres)] = names.map(|name| std::env::var(name).ok()) else {
            assert_ne!(std::env::var("ORDERING_TEST_SERVERS").as_deref(), Ok("1"), "servers were promised");
            eprintln!("skipped: no servers");
            return None;
        };
        let namespace = format!("events_{}", uuid::Uuid::now_v7().simple());
        Some(Servers { namespace, urls: [amqp, redis, postgres] })
    }

    fn args<'a>(&'a self, role: &'a str, settings: &[&'a str]) -> Vec<&'a str> {
        let [amqp, redis, postgres] = &self.urls;
        let mut args = vec![role, "--backend", "servers", "--namespace", &self.namespace];
        args.extend(["--amqp-urls", amqp, "--redis-url", redis, "--postgres-url", postgres]);
        settings.iter().for_each(|setting| args.extend(["--set", setting]));
        args
    }

    fn api(&self) -> System {
        System::start(&self.args("api", &FAST))
    }

    fn worker(&self) -> System {
        let stages = ["scheduling", "pre-processing", "processing", "post-processing"];
        let stages: Vec<&str> = stages.into_iter().flat_map(|stage| ["--stage", stage]).collect();
        System::start_silent(&[self.args("worker", &[&FAST[..], &SLOW[..]].concat()), stages].concat())
    }
}

const FAST: [&str; 2] = ["webhooks.retry_base=50ms", "webhooks.retry_cap=200ms"];
const SLOW: [&str; 2] = ["stages.processing.handler=simulated", "stages.processing.delay=300ms"];

/// The tables of a first start are there.
async fn is_migrated(api: &System) {
    ready(&http(), &api.url).await;
    until("webhooks can be listed", async || ask(&format!("{}/v1/webhooks", api.url), None).await.status() == 200)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_every_event_is_sent_signed_and_in_order() {
    let Some(servers) = Servers::find() else { return };
    let mut apis = [servers.api(), servers.api()];
    is_migrated(&apis[0]).await;
    is_migrated(&apis[1]).await;
    let status = Arc::new(AtomicU16::new(500));
    let answered = status.clone();
    let receiver = Service::start(move |_| Reply::status(answered.load(Ordering::SeqCst))).await;
    let webhook = add(&apis[0].url, &receiver.url, &ALL_KINDS).await;
    let mut workers = [servers.worker(), servers.worker()];
    let mut ids = Vec::new();
    for round in 0..4 {
        for _ in 0..15 {
            ids.push(place(&http(), &apis[0].url, &an_order()).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        // The one that sends may be any of them.
        let killed = std::mem::replace(&mut workers[round % 2], servers.worker());
        killed.kill();
        if round == 2 {
            std::mem::replace(&mut apis[1], servers.api()).kill();
        }
    }
    all_ended(&apis[0].url, &ids).await;
    let before = receiver.calls().len();
    status.store(200, Ordering::SeqCst);
    let calls = || receiver.calls()[before..].to_vec();
    let complete = || {
        let taken = taken(&calls(), |_| true);
        ids.iter().all(|id| taken.get(id).is_some_and(|events| events.len() == SMOOTH.len()))
    };
    until("all is sent", async || complete()).await;
    for (order, events) in taken(&calls(), |_| true) {
        assert_eq!(kinds(&events), SMOOTH, "{order}");
    }
    receiver.calls().iter().for_each(|call| assert_signed(call, webhook["secret"].as_str().unwrap()));
    let list: Value = ask(&format!("{}/v1/webhooks", apis[0].url), None).await.json().await.unwrap();
    assert_eq!(list["webhooks"][0]["given_up"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_of_every_process_are_told_of_all_orders() {
    let Some(servers) = Servers::find() else { return };
    let apis = [servers.api(), servers.api()];
    let _worker = servers.worker();
    is_migrated(&apis[0]).await;
    is_migrated(&apis[1]).await;
    let mut streams = Vec::new();
    for api in &apis {
        let url = format!("{}/v1/events?type=order.accepted,order.completed", api.url);
        streams.push(Sse::open(&url, None).await);
    }
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(place(&http(), &apis[0].url, &an_order()).await.unwrap());
    }
    let mut last = None;
    for stream in &mut streams {
        let mut expected: Vec<(String, &str)> =
            ids.iter().flat_map(|id| [(id.clone(), "order.accepted"), (id.clone(), "order.completed")]).collect();
        while !expected.is_empty() {
            let sent = stream.next().await.unwrap();
            assert_ne!(sent.kind, "gap");
            let order = sent.data["order_id"].as_str().unwrap().to_owned();
            expected.retain(|(id, kind)| (id, *kind) != (&order, &sent.kind));
            last = Some(sent.id);
        }
    }
    // Who comes back goes on at any of the processes.
    let id = place(&http(), &apis[1].url, &an_order()).await.unwrap();
    let mut again = Sse::open(&format!("{}/v1/events", apis[0].url), last.as_deref()).await;
    loop {
        let sent = again.next().await.unwrap();
        if sent.data["order_id"] == *id && sent.kind == "order.completed" {
            break;
        }
    }
    // An order is followed as it goes, wherever it was placed.
    let id = place(&http(), &apis[1].url, &an_order()).await.unwrap();
    let events = Sse::open(&format!("{}/v1/orders/{id}/events", apis[0].url), None).await.rest().await;
    assert_eq!(events.iter().map(|sent| sent.kind.as_str()).collect::<Vec<_>>(), SMOOTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_of_ends_is_told_of_ends_alone() {
    let Some(servers) = Servers::find() else { return };
    let api = servers.api();
    is_migrated(&api).await;
    let receiver = Service::start(|_| Reply::status(200)).await;
    add(&api.url, &receiver.url, &["order.completed"]).await;
    let _worker = servers.worker();
    until_workers_know().await;
    let id = place(&http(), &api.url, &an_order()).await.unwrap();
    until("it is told", async || !receiver.calls().is_empty()).await;
    let call = &receiver.calls()[0].json;
    assert_eq!((&call["order_id"], &call["type"]), (&json!(id), &json!("order.completed")));
    assert_eq!(receiver.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgres_is_away_events_wait_and_then_come_in_order() {
    let Some(mut servers) = Servers::find() else { return };
    let url = servers.urls[2].clone();
    let (start, end) = (url.find('@').expect("a user") + 1, url.rfind('/').expect("a database"));
    let proxy = Proxy::start(&url[start..end]).await;
    servers.urls[2] = format!("{}{}{}", &url[..start], proxy.addr(), &url[end..]);
    let api = servers.api();
    is_migrated(&api).await;
    let receiver = Service::start(|_| Reply::status(200)).await;
    add(&api.url, &receiver.url, &ALL_KINDS).await;
    let worker = servers.worker();
    until_workers_know().await;
    proxy.freeze();
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(place(&http(), &api.url, &an_order()).await.unwrap());
    }
    // All stages are passed without Postgres; then the worker dies, and what it had told must not die with it.
    for id in &ids {
        until("it is at the last stage", async || {
            let answer = http().get(format!("{}/v1/orders/{id}", api.url)).send().await.unwrap();
            answer.json::<Value>().await.is_ok_and(|order| order["status"] == "post_processing")
        })
        .await;
    }
    worker.kill();
    assert_eq!(receiver.calls().len(), 0);
    proxy.resume();
    let _worker = servers.worker();
    let complete = || {
        let taken = taken(&receiver.calls(), |_| true);
        ids.iter().all(|id| taken.get(id).is_some_and(|events| events.len() == SMOOTH.len()))
    };
    until("all is sent", async || complete()).await;
    for (order, events) in taken(&receiver.calls(), |_| true) {
        assert_eq!(kinds(&events), SMOOTH, "{order}");
    }
}

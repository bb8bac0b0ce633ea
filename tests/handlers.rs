//! Stages whose work is done by others: services called over HTTP, well-behaved and not, and a handler in Rust. All of it
//! with the whole program, on the embedded back end unless a test says otherwise.

#[path = "handlers/programs.rs"]
mod programs;
#[path = "handlers/service.rs"]
mod service;
#[path = "support/system.rs"]
mod system;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use programs::{Program, build_example, python, standard_webhooks};
use serde_json::{Value, json};
use service::{Call, Reply, Service};
use system::{System, all_ended, ended, http, place, place_all, ready};

const SECRETS: [&str; 2] =
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="];

/// `ordering all` over a store of its own.
struct Shop {
    system: System,
    _data: tempfile::TempDir,
}

impl Shop {
    /// With `stage` done by the service at `url`, and more settings, each `KEY=VALUE`; those of the stage begin with a dot.
    fn start(stage: &str, url: &str, settings: &[&str]) -> Shop {
        let data = tempfile::tempdir().unwrap();
        let settings = handler_settings(stage, url, settings);
        let mut args = vec!["all", "--data-dir", data.path().to_str().unwrap()];
        args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let system = System::start(&args);
        Shop { system, _data: data }
    }

    /// Places an order for each reference; as they ended.
    async fn outcomes(&self, references: &[&str]) -> Vec<Value> {
        let orders: Vec<Value> = references.iter().map(|reference| order(reference)).collect();
        let ids = place_all(&self.system.url, &orders).await;
        all_ended(&self.system.url, &ids).await
    }
}

fn handler_settings(stage: &str, url: &str, more: &[&str]) -> Vec<String> {
    let own = [".handler=http".to_owned(), format!(".url={url}"), ".backoff_base=0s".to_owned()];
    own.into_iter()
        .chain(more.iter().map(|setting| (*setting).to_owned()))
        .map(|setting| match setting.strip_prefix('.') {
            Some(of_stage) => format!("stages.{stage}.{of_stage}"),
            None => setting,
        })
        .collect()
}

fn order(reference: &str) -> Value {
    json!({"customer_id": "c-1", "reference": reference, "currency": "EUR",
           "items": [{"sku": "TEA-100", "quantity": 2, "unit_price": "6.40"}], "metadata": {"n": 1.50}})
}

/// The step of an order at `stage`, in snake case.
fn step<'a>(order: &'a Value, stage: &str) -> &'a Value {
    order["steps"].as_array().unwrap().iter().find(|step| step["stage"] == stage).unwrap_or(&Value::Null)
}

/// Waits until `holds`.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_its_meaning() {
    let large = || json!({"result": "x".repeat(1 << 20)});
    let service = Service::start(move |call| match call.reference() {
        "200" => Reply::json(200, json!({"note": "charged\n", "result": {"id": 7}})),
        "201" => Reply::json(201, json!({"more": true})),
        "204" => Reply::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        "200 page" => Reply::text(200, "<html>OK"),
        "200 large" => Reply::json(200, large()),
        "200 endless" => Reply::Hang([b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 1 << 20]].concat()),
        "200 twice" => Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 500 No\r\n\r\n".to_vec()),
        "400" => Reply::text(400, "what is this?"),
        "404" => Reply::status(404),
        "409" => Reply::json(409, json!({"error": "exists"})),
        "410" => Reply::json(410, json!({"title": "Gone"})),
        "422" => Reply::json(422, json!({"title": "Declined", "detail": "card expired", "status": 422})),
        "401" => Reply::text(401, "who are you?"),
        "302" => Reply::status(302).with("Location", "/elsewhere"),
        other => panic!("{other}"),
    })
    .await;
    let shop = Shop::start("processing", &service.url, &[".attempts_max=1"]);

    let done = ["200", "201", "204", "200 page", "200 large", "200 endless", "200 twice"];
    let orders = shop.outcomes(&done).await;
    for (reference, order) in done.iter().zip(&orders) {
        assert_eq!(order["status"], "completed", "{reference}: {order}");
        assert_eq!(step(order, "processing")["retries"], json!([]));
    }
    let kept: Vec<_> =
        orders.iter().map(|order| step(order, "processing")).map(|s| (&s["note"], &s["result"])).collect();
    assert_eq!(kept[0], (&json!("charged"), &json!({"id": 7})));
    for nothing in [kept[1], kept[2], kept[6]] {
        assert_eq!(nothing, (&Value::Null, &Value::Null));
    }
    assert_eq!(kept[3].0, "the body of the answer was not kept: it is no object of note and result");
    for large in [kept[4], kept[5]] {
        assert_eq!(large, (&json!("the body of the answer was not kept: it is larger than 16 KiB"), &Value::Null));
    }

    let rejected = [
        ("400", "what is this?"),
        ("404", "answered 404"),
        ("409", "exists"),
        ("410", "Gone"),
        ("422", "card expired"),
        ("401", "answered 401, which means nothing here"),
        ("302", "answered 302, which means nothing here"),
    ];
    for ((reference, reason), order) in
        rejected.iter().zip(shop.outcomes(&rejected.map(|(reference, _)| reference)).await)
    {
        assert_eq!(order["failure"], json!({"stage": "processing", "reason": reason}), "{order}");
        assert_eq!(service.calls_for(reference).len(), 1);
    }
    assert!(service.calls().iter().all(|call| call.path == "/work"), "a redirect was followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again_and_every_reason_is_kept() {
    let service = Service::start(|call| match (call.attempt(), call.reference()) {
        (2, _) => Reply::status(200),
        (1, "408") => Reply::status(408),
        (1, "425") => Reply::status(425),
        (1, "429") => Reply::text(429, "slow down"),
        (1, "500") => Reply::json(500, json!({"detail": "oh no"})),
        (1, "503") => Reply::text(503, "<html>"),
        (1, "hangs") => Reply::Hang(Vec::new()),
        (1, "hangs in its head") => Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-".to_vec()),
        (1, "hangs in its body") => Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"note\":".to_vec()),
        (1, "lies in Content-Length") => Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}".to_vec()),
        (1, "has two lengths") => {
            Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ".to_vec())
        }
        (1, "cuts a chunk") => Reply::Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}".to_vec()),
        (1, "closes") => Reply::Bytes(Vec::new()),
        (1, "resets") => Reply::Reset(Vec::new()),
        (1, "resets in its body") => Reply::Reset(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{".to_vec()),
        (1, "talks garbage") => Reply::Bytes(b"\x00\xff\r\n\r\nSSH-2.0".to_vec()),
        other => panic!("{other:?}"),
    })
    .await;
    let settings = [".attempts_max=2", ".timeout=1s", ".breaker_failures=0"];
    let shop = Shop::start("processing", &service.url, &settings);
    let troubles = [
        ("408", "answered 408"),
        ("425", "answered 425"),
        ("429", "answered 429: slow down"),
        ("500", "answered 500: oh no"),
        ("503", "answered 503: <html>"),
        ("hangs", "no answer within 1s"),
        ("hangs in its head", "no answer within 1s"),
        ("hangs in its body", "no answer within 1s"),
        ("lies in Content-Length", "the answer broke off"),
        ("has two lengths", "no answer"),
        ("cuts a chunk", "the answer broke off"),
        ("closes", "no answer"),
        ("resets", "no answer"),
        ("resets in its body", "the answer broke off"),
        ("talks garbage", "no answer"),
    ];
    let orders = shop.outcomes(&troubles.map(|(reference, _)| reference)).await;
    for ((reference, reason), order) in troubles.iter().zip(orders) {
        assert_eq!(order["status"], "completed", "{reference}: {order}");
        let step = step(&order, "processing");
        let [retried] = &step["retries"].as_array().unwrap()[..] else { panic!("{reference}: {step}") };
        assert!(retried["reason"].as_str().unwrap().starts_with(reason), "{reference}: {retried}");
        assert_eq!((&step["attempts"], &retried["attempt"], &retried["counted"]), (&json!(2), &json!(1), &json!(true)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_attempts_an_order_fails_with_every_reason() {
    let service = Service::start(|call| Reply::text(429, format!("no {}", call.attempt()))).await;
    let shop = Shop::start("pre-processing", &service.url, &[".attempts_max=3"]);
    let [order] = &shop.outcomes(&["a"]).await[..] else { panic!("one order") };
    assert_eq!(order["failure"]["reason"], "retries exhausted: answered 429: no 3");
    let step = step(order, "pre_processing");
    assert_eq!((&step["attempts"], &step["outcome"]), (&json!(3), &json!("rejected")));
    let reasons: Vec<&str> =
        step["retries"].as_array().unwrap().iter().map(|retried| retried["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["answered 429: no 1", "answered 429: no 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_does_not_come_back_before_it_was_asked_to() {
    let service = Service::start(|call| match (call.attempt(), call.reference()) {
        (1, "seconds") => Reply::status(503).with("Retry-After", "3"),
        (1, "date") => {
            Reply::status(429).with("Retry-After", httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(4)))
        }
        _ => Reply::status(200),
    })
    .await;
    let shop = Shop::start("processing", &service.url, &[]);
    shop.outcomes(&["seconds", "date", "neither"]).await;
    for reference in ["seconds", "date"] {
        let [first, second] = &service.calls_for(reference)[..] else { panic!("{reference}: two calls") };
        let wait = second.at - first.at;
        assert!(wait >= Duration::from_secs(3), "{reference}: came back after {wait:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_tells_all_there_is_to_know_and_is_signed() {
    let verifier = standard_webhooks();
    let service = Service::start(|call| match (call.json["stage"].as_str().unwrap(), call.attempt()) {
        ("pre_processing", 1) => Reply::json(200, json!({"note": "ok", "result": {"shelf": "B"}})),
        ("processing", 1) => Reply::status(503),
        _ => Reply::status(200),
    })
    .await;
    let secrets = format!(".signing_secret={}", SECRETS.join(" "));
    let first = handler_settings("pre-processing", &service.url, &[]);
    let mut settings: Vec<&str> = first.iter().map(String::as_str).collect();
    settings.extend([&*secrets, ".headers=X-Team: payments\nAuthorization: Bearer t", "worker_name=w-1"]);
    let shop = Shop::start("processing", &service.url, &settings);
    let [shown] = &shop.outcomes(&["a \"ref\" ✓"]).await[..] else { panic!("one order") };
    let [unsigned, one, two] = &service.calls()[..] else { panic!("{:?}", service.calls()) };

    let id = shown["id"].as_str().unwrap();
    assert_eq!(unsigned.json["key"], format!("{id}:pre-processing"));
    assert_eq!((&unsigned.json["stage"], &unsigned.json["attempt"]), (&json!("pre_processing"), &json!(1)));
    assert_eq!(unsigned.json["history"], json!([shown["steps"][0]]));
    assert!(!unsigned.headers.contains_key("webhook-signature"));
    let members =
        ["id", "customer_id", "reference", "currency", "items", "metadata", "not_before", "total", "placed_at"];
    let order = members.iter().map(|member| ((*member).to_owned(), shown[member].clone())).collect();
    assert_eq!(unsigned.json["order"], Value::Object(order));

    for (call, attempt) in [(one, 1), (two, 2)] {
        assert_eq!(call.json["key"], format!("{id}:processing"));
        assert_eq!((call.attempt(), &call.headers["idempotency-key"]), (attempt, &format!("{id}:processing")));
        assert_eq!(call.headers["content-type"], "application/json");
        assert_eq!((&*call.headers["x-team"], &*call.headers["authorization"]), ("payments", "Bearer t"));
        // What an earlier stage had to say is there for this one.
        assert_eq!(call.json["history"][1]["result"], json!({"shelf": "B"}));
        assert_eq!(call.json["history"][1]["note"], "ok");
    }
    assert_eq!(two.json["history"][2]["retries"][0]["reason"], "answered 503");

    let Some(verifier) = verifier else { return };
    for call in [one, two] {
        for secret in SECRETS {
            verifier.verifies(secret, call).unwrap();
        }
        let mut tampered = call.clone();
        tampered.body = tampered.body.replace("EUR", "USD");
        verifier.verifies(SECRETS[0], &tampered).unwrap_err();
        verifier.verifies("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", call).unwrap_err();
    }
}

/// A service with an outage: it answers 500 until it is told to be well.
async fn service_with_an_outage() -> (Service, Arc<AtomicBool>) {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = is_well.clone();
    let service = Service::start(move |_| Reply::status(if well.load(Ordering::SeqCst) { 200 } else { 500 })).await;
    (service, is_well)
}

const BREAKER: [&str; 4] =
    [".attempts_max=3", ".breaker_failures=3", ".breaker_pause_base=100ms", ".breaker_pause_cap=400ms"];

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_for_and_costs_no_order_its_attempts() {
    let (service, is_well) = service_with_an_outage().await;
    // An order that was begun and not called more than twice would end as one that kills its workers.
    let shop = Shop::start("processing", &service.url, &[&BREAKER[..], &["max_deliveries=2", ".at_once=4"]].concat());
    let references: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let orders: Vec<Value> = references.iter().map(|reference| order(reference)).collect();
    let ids = place_all(&shop.system.url, &orders).await;
    // Far more probes than anything is allowed of attempts or deliveries.
    until("a probe", || service.calls().len() >= 12).await;
    let calls = service.calls();
    let probes = &calls[7..];
    for pair in probes.windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_millis(90), "a probe came without a pause");
    }
    is_well.store(true, Ordering::SeqCst);
    let shown = all_ended(&shop.system.url, &ids).await;
    assert!(shown.iter().all(|shown| shown["status"] == "completed"), "{shown:?}");
    let retries: Vec<&Value> =
        shown.iter().flat_map(|shown| step(shown, "processing")["retries"].as_array().unwrap()).collect();
    let counted = retries.iter().filter(|retried| retried["counted"] == true).count();
    assert!(counted <= 2, "{counted} attempts were held against orders: only those before the circuit opened may be");
    let begun = retries.iter().filter(|retried| retried["reason"] != "answered 500").count();
    assert!(
        begun <= 4,
        "{begun} orders were begun in vain: only as many as were in hand when the circuit opened may be"
    );
    let mut calls: Vec<_> = service.calls().iter().map(|call| (call.json["key"].to_string(), call.attempt())).collect();
    calls.sort();
    assert!(calls.windows(2).all(|pair| pair[0] != pair[1]), "an attempt was made twice, and nothing had crashed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_alone_outlives_an_outage_longer_than_its_attempts() {
    let (service, is_well) = service_with_an_outage().await;
    let shop = Shop::start("processing", &service.url, &BREAKER);
    let client = http();
    let id = place(&client, &shop.system.url, &order("alone")).await.unwrap();
    until("a probe", || service.calls().len() >= 6).await;
    is_well.store(true, Ordering::SeqCst);
    let shown = ended(&client, &shop.system.url, &id).await;
    assert_eq!(shown["status"], "completed", "{shown}");
    let step = step(&shown, "processing");
    let counted: Vec<bool> =
        step["retries"].as_array().unwrap().iter().map(|retried| retried["counted"].as_bool().unwrap()).collect();
    assert_eq!(counted[..5], [true, true, false, false, false], "{step}");
    let keys: Vec<_> = service.calls().iter().map(|call| call.json["key"].clone()).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "the key changed: {keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_is_waited_for_until_it_comes() {
    let port = {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.local_addr().unwrap().port()
    };
    let shop = Shop::start("processing", &format!("http://127.0.0.1:{port}/"), &BREAKER);
    let client = http();
    let id = place(&client, &shop.system.url, &order("early")).await.unwrap();
    let shown = loop {
        let shown: Value =
            client.get(format!("{}/v1/orders/{id}", shop.system.url)).send().await.unwrap().json().await.unwrap();
        if step(&shown, "processing")["retries"].as_array().is_some_and(|retries| retries.len() >= 4) {
            break shown;
        }
        assert_ne!(shown["status"], "failed", "{shown}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let reason = step(&shown, "processing")["retries"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("cannot connect: "), "{reason}");
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut connection in listener.incoming().map_while(Result::ok) {
            let _ = connection.read(&mut [0; 8_192]);
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    assert_eq!(ended(&client, &shop.system.url, &id).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_an_outage_loses_nothing() {
    let (service, is_well) = service_with_an_outage().await;
    let data = tempfile::tempdir().unwrap();
    let settings = handler_settings("processing", &service.url, &BREAKER);
    let mut args = vec!["all", "--data-dir", data.path().to_str().unwrap()];
    args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let system = System::start(&args);
    let orders: Vec<Value> = (0..20).map(|n| order(&n.to_string())).collect();
    let ids = place_all(&system.url, &orders).await;
    until("a probe", || service.calls().len() >= 4).await;
    assert!(system.terminate().success());
    is_well.store(true, Ordering::SeqCst);
    let system = System::start(&args);
    for shown in all_ended(&system.url, &ids).await {
        assert_eq!(shown["status"], "completed", "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_keep_to_their_rate() {
    let service = Service::start(|_| Reply::status(200)).await;
    let shop = Shop::start("processing", &service.url, &[".calls_per_second=10"]);
    let orders: Vec<Value> = (0..15).map(|n| order(&n.to_string())).collect();
    let ids = place_all(&shop.system.url, &orders).await;
    all_ended(&shop.system.url, &ids).await;
    let calls = service.calls();
    let took = calls[14].at - calls[0].at;
    // 14 intervals of 100 ms, and a little for a call that was on its way for longer than its follower.
    assert!(took >= Duration::from_millis(1_300), "15 calls took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_an_outage_is_waited_for_by_workers_of_their_own() {
    let urls =
        ["ORDERING_AMQP_URLS", "ORDERING_REDIS_URL", "ORDERING_POSTGRES_URL"].map(|name| std::env::var(name).ok());
    let [Some(amqp), Some(redis), Some(postgres)] = &urls else {
        assert_ne!(std::env::var("ORDERING_TEST_SERVERS").as_deref(), Ok("1"), "servers were promised");
        return eprintln!("skipped: no servers");
    };
    let (service, is_well) = service_with_an_outage().await;
    let namespace = format!("handlers_{}", uuid::Uuid::now_v7().simple());
    let common = ["--backend", "servers", "--namespace", &namespace, "--amqp-urls", amqp, "--redis-url", redis];
    let common = [&common[..], &["--postgres-url", postgres]].concat();
    let settings = handler_settings("processing", &service.url, &[&BREAKER[..], &["max_deliveries=2"]].concat());
    let api = System::start(&[&["api"][..], &common].concat());
    let mut of_worker = [&["worker"][..], &common].concat();
    for stage in ["scheduling", "pre-processing", "processing", "post-processing"] {
        of_worker.extend(["--stage", stage]);
    }
    of_worker.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let _workers = [System::start_silent(&of_worker), System::start_silent(&of_worker)];
    let client = http();
    ready(&client, &api.url).await;
    let mut ids = Vec::new();
    for n in 0..40 {
        // Servers that share a small machine may not confirm in time; what was not taken is sent again.
        let end = Instant::now() + Duration::from_secs(60);
        ids.push(loop {
            match place(&client, &api.url, &order(&n.to_string())).await {
                Ok(id) => break id,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        });
    }
    until("a probe", || service.calls().len() >= 16).await;
    is_well.store(true, Ordering::SeqCst);
    let mut counted = 0;
    for shown in all_ended(&api.url, &ids).await {
        assert_eq!(shown["status"], "completed", "{shown}");
        let retries = step(&shown, "processing")["retries"].as_array().unwrap().clone();
        counted += retries.iter().filter(|retried| retried["counted"] == true).count();
    }
    assert!(counted <= 4, "{counted} attempts were held against orders: each worker may find out with two");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_payment_service_of_the_examples_charges_once_and_believes_only_its_caller() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("payments.db");
    let script = format!("{}/examples/payment_service.py", env!("CARGO_MANIFEST_DIR"));
    let arguments = [&*script, "--port", "0", "--quiet", "--database", database.to_str().unwrap()];
    let payments = Program::start(&python, &arguments, &[("PAYMENT_SECRET", SECRETS[0])]);
    let url = format!("{}/charge", payments.url);
    let secret = format!(".signing_secret={}", SECRETS[0]);
    let shop = Shop::start("processing", &url, &[&secret]);
    let with_card = |card: &str| {
        let mut order = order(card);
        order["metadata"] = json!({"card": card});
        order
    };
    let orders = [with_card("good"), with_card("declined"), with_card("busy")];
    let ids = place_all(&shop.system.url, &orders).await;
    let [good, declined, busy] = &all_ended(&shop.system.url, &ids).await[..] else { panic!("three orders") };
    assert_eq!(step(good, "processing")["note"], "charged 12.80 EUR");
    assert!(step(good, "processing")["result"]["payment"].is_u64());
    assert_eq!(declined["failure"]["reason"], "the card was declined");
    assert_eq!(step(busy, "processing")["retries"][0]["reason"], "answered 503: the bank is busy");
    assert_eq!(busy["status"], "completed");

    // The same key again, as after a lost reply: nothing is charged a second time.
    let charged = || -> i64 {
        let payments = rusqlite::Connection::open(&database).unwrap();
        payments.query_row("SELECT count(*) FROM payments", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(charged(), 2);
    let call = json!({"key": format!("{}:processing", good["id"].as_str().unwrap()), "order": good, "attempt": 2});
    let body = call.to_string();
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let sent = async |secret: &str, at: i64| {
        let secret = ordering::handlers::signature::Secret::parse(secret).unwrap();
        let signature = ordering::handlers::signature::sign(&[secret], "id", at, body.as_bytes());
        let request = http().post(&url).header("webhook-id", "id").header("webhook-timestamp", at.to_string());
        let answer = request.header("webhook-signature", signature).body(body.clone()).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, answer) = sent(SECRETS[0], at).await;
    assert_eq!((status, &answer["result"]), (200, &step(good, "processing")["result"]));
    assert_eq!(charged(), 2);
    assert_eq!(sent(SECRETS[1], at).await.0, 503);
    assert_eq!(sent(SECRETS[0], at - 301).await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_its_own_can_bring_a_handler() {
    let example = build_example("own_handler");
    let data = tempfile::tempdir().unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--data-dir", data.path().to_str().unwrap()];
    let shop = Program::start(&example, &arguments, &[]);
    let too_many = json!({"customer_id": "c-1", "currency": "EUR",
        "items": [{"sku": "MUG-7", "quantity": 2, "unit_price": "1"}, {"sku": "MUG-7", "quantity": 2, "unit_price": "1"}]});
    let ids = place_all(&shop.url, &[order("a"), too_many]).await;
    let [good, refused] = &all_ended(&shop.url, &ids).await[..] else { panic!("two orders") };
    assert_eq!(step(good, "pre_processing")["result"], json!({"pieces": 2}), "{good}");
    assert_eq!(good["status"], "completed");
    assert_eq!(refused["failure"], json!({"stage": "pre_processing", "reason": "only 3 of MUG-7 are left"}));

    let twice = std::process::Command::new(&example)
        .args(["--data-dir", data.path().to_str().unwrap(), "--set", "stages.pre-processing.handler=simulated"])
        .output()
        .unwrap();
    assert_eq!(twice.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("a handler of its own"), "{twice:?}");
}

async fn say(shop: &Shop, stage: &str, to: &str) {
    let answer = http().post(format!("{}/v1/stages/{stage}/{to}", shop.system.url)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// Pauses `stage` or lets it work again, and waits until the process obeys.
async fn switch(shop: &Shop, stage: &str, to: &str) {
    let (client, url) = (http(), &shop.system.url);
    say(shop, stage, to).await;
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let body: Value = client.get(format!("{url}/readyz")).send().await.unwrap().json().await.unwrap();
        if body["paused"].as_array().unwrap().is_empty() == (to == "resume") {
            return;
        }
        assert!(Instant::now() < end, "{body}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The orders of each message that waits for `stage`.
fn messages(shop: &Shop, stage: &str) -> Vec<usize> {
    let database = rusqlite::Connection::open(shop._data.path().join("ordering.db")).unwrap();
    let mut select = database.prepare("SELECT orders FROM messages WHERE source = ?1").unwrap();
    let rows = select.query_map([stage], |row| row.get::<_, i64>(0)).unwrap();
    rows.map(|orders| usize::try_from(orders.unwrap()).unwrap()).collect()
}

/// Places many orders at a stage that is paused, and gives their ids when all of them wait there.
async fn pile_up(shop: &Shop, stage: &str, references: &[String]) -> Vec<String> {
    switch(shop, stage, "pause").await;
    let orders: Vec<Value> = references.iter().map(|reference| order(reference)).collect();
    let ids = place_all(&shop.system.url, &orders).await;
    until("all wait", || messages(shop, stage).iter().sum::<usize>() == references.len()).await;
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_gets_messages_of_as_many_orders_as_it_wants() {
    let service = Service::start(|_| Reply::status(200)).await;
    let references: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    for (settings, most) in [(&[][..], 1), (&[".batch_max=4"], 4)] {
        let shop = Shop::start("scheduling", &service.url, settings);
        let ids = pile_up(&shop, "scheduling", &references).await;
        let messages = messages(&shop, "scheduling");
        assert!(messages.iter().all(|orders| *orders <= most), "{messages:?}");
        switch(&shop, "scheduling", "resume").await;
        assert!(all_ended(&shop.system.url, &ids).await.iter().all(|order| order["status"] == "completed"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_are_decided_go_on_before_the_last_of_their_message() {
    let slow = Arc::new(AtomicBool::new(true));
    let is_slow = slow.clone();
    let service = Service::start(move |call| match call.reference() {
        "slow" if is_slow.load(Ordering::Relaxed) => Reply::Hang(Vec::new()),
        _ => Reply::status(200),
    })
    .await;
    let shop = Shop::start("processing", &service.url, &[".batch_max=256", ".timeout=5s"]);
    // Behind a stage that is resumed at once, many orders come together.
    let references: Vec<String> =
        (0..40).map(|n| if n == 20 { "slow".to_owned() } else { format!("quick {n}") }).collect();
    let mut ids = pile_up(&shop, "scheduling", &references).await;
    switch(&shop, "processing", "pause").await;
    say(&shop, "scheduling", "resume").await;
    until("all wait", || messages(&shop, "processing").iter().sum::<usize>() == references.len()).await;
    assert!(messages(&shop, "processing").iter().any(|orders| *orders > 1), "no orders came together");
    switch(&shop, "processing", "resume").await;
    let slow_id = ids.remove(20);
    let quick = all_ended(&shop.system.url, &ids).await;
    let finished = quick.iter().map(|order| order["finished_at"].as_str().unwrap().to_owned()).max().unwrap();
    slow.store(false, Ordering::Relaxed);
    let slow = ended(&http(), &shop.system.url, &slow_id).await;
    assert_eq!(slow["status"], "completed");
    let retries = step(&slow, "processing")["retries"].as_array().unwrap();
    assert!(finished.as_str() < retries[0]["at"].as_str().unwrap(), "{finished} is not before {retries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_that_an_order_was_placed_in_is_passed_on_with_every_call() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let service = Service::start(|call| Reply::status(if call.attempt() == 1 { 503 } else { 200 })).await;
    let shop = Shop::start("post-processing", &service.url, &[]);
    let client = http();
    let place = async |reference: &str, traces: &[&str]| {
        let mut request = client.post(format!("{}/v1/orders", shop.system.url)).json(&order(reference));
        for trace in traces {
            request = request.header("traceparent", *trace);
        }
        let accepted: Value = request.send().await.unwrap().json().await.unwrap();
        let ended = ended(&client, &shop.system.url, accepted["id"].as_str().unwrap()).await;
        assert_eq!(ended["status"], "completed");
        let calls = service.calls_for(reference);
        calls.iter().map(|call| call.headers.get("traceparent").cloned()).collect::<Vec<_>>()
    };
    assert_eq!(place("traced", &[TRACE]).await, [Some(TRACE.to_owned()), Some(TRACE.to_owned())]);
    assert_eq!(place("untraced", &[]).await, [None, None]);
    assert_eq!(place("no trace", &["00-what-01"]).await, [None, None]);
    assert_eq!(place("two traces", &[TRACE, TRACE]).await, [None, None]);
}

//! `/v1/dead-letters` on the embedded back end, with messages that somebody else put into its queues.

use std::collections::HashSet;
use std::time::Duration;

use ordering::domain::{OrderRecord, Timestamp};
use ordering::wire::encode_batch;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::support::accepted;
use crate::{Embedded, id, ids, problem, system};

/// An order as customers place them: one that comes through all stages.
fn order() -> OrderRecord {
    let mut order = accepted("null");
    let placed = r#"{"customer_id":"c","currency":"EUR","items":[{"sku":"s","quantity":1,"unit_price":"1.00"}]}"#;
    order.order = ordering::domain::Order::from_json(placed.as_bytes()).unwrap();
    order
}

const BY_HAND: &str = "0193f0a1-7c3e-7b11-8f00-000000000017";

#[tokio::test]
async fn what_no_worker_can_read_is_listed_with_its_queue_and_reason() {
    let astray = order();
    let system = Embedded::start(&[
        ("pre-processing", b"{\"v\":1,"),
        ("processing", b"\x00\xff not ours"),
        ("ending", &encode_batch(std::slice::from_ref(&astray))),
        // Of a release to come: parked for a worker that can read it.
        ("scheduling", b"{\"v\":999,\"orders\":[]}"),
    ]);
    let asked = &system.asked;
    let letters = asked.letters_when("three are given up", |letters| letters.len() == 3).await;
    let of = |queue: &str| letters.iter().find(|letter| letter["queue"] == queue).unwrap().clone();
    let torn = of("pre_processing");
    assert_eq!(torn["reason"], "it ends too early, at line 1 column 7");
    assert_eq!(torn["size_bytes"], 7);
    let at = Timestamp::parse(torn["at"].as_str().unwrap()).unwrap();
    assert!(at.as_millis() > 1_764_000_000_000);
    assert_eq!(torn.as_object().unwrap().len(), 5, "{torn}");
    assert_eq!(of("processing")["reason"], "it is no JSON, at line 1 column 1");
    assert_eq!(of("ending")["reason"], "an order that has no business in this queue");
    // Newest first.
    let moments: Vec<&str> = letters.iter().map(|letter| letter["at"].as_str().unwrap()).collect();
    assert!(moments.is_sorted_by(|newer, older| newer >= older), "{moments:?}");

    for spelling in ["pre-processing", "pre_processing"] {
        assert_eq!(asked.letters(&format!("?queue={spelling}")).await, std::slice::from_ref(&torn));
    }
    assert_eq!(asked.letters("?queue=scheduling").await, Vec::<Value>::new());
    let head = asked.ask(Method::HEAD, "/v1/dead-letters").await;
    assert_eq!(head.status(), 200);

    let shown = asked.done(Method::GET, &format!("/v1/dead-letters/{}", id(&torn))).await;
    for (name, value) in torn.as_object().unwrap() {
        assert_eq!(shown[name], *value, "{name}");
    }
    assert_eq!(shown["text"], "{\"v\":1,");
    assert_eq!(shown["base64"], "eyJ2IjoxLA==");
    assert_eq!(shown["orders"], Value::Null);
    assert_eq!(shown.as_object().unwrap().len(), 8, "{shown}");
    let shown = asked.done(Method::GET, &format!("/v1/dead-letters/{}", id(&of("processing")))).await;
    assert_eq!((&shown["text"], &shown["base64"]), (&Value::Null, &json!("AP8gbm90IG91cnM=")));
    let upper_case = id(&of("ending")).to_uppercase();
    let shown = asked.done(Method::GET, &format!("/v1/dead-letters/{upper_case}")).await;
    assert_eq!(shown["orders"], json!([astray.id.to_string()]));
    // The parked one is still where it was.
    system.messages_left(1).await;
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap_whatever_is_dropped_or_comes_in_between() {
    let system = Embedded::with_letters("processing", 103).await;
    let asked = &system.asked;
    assert_eq!(asked.letters("").await.len(), 100, "the limit is 100 where none is given");
    let all = ids(&asked.letters("?limit=1000").await);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 103);
    let (mut seen, mut query) = (Vec::new(), "?limit=40".to_owned());
    let mut sizes = Vec::new();
    loop {
        let page = asked.done(Method::GET, &format!("/v1/dead-letters{query}")).await;
        let letters = page["dead_letters"].as_array().unwrap();
        sizes.push(letters.len());
        seen.extend(ids(letters));
        let Some(cursor) = page["cursor"].as_str() else { break };
        query = format!("?limit=40&cursor={cursor}");
        // The last one of the page goes, and a new one comes before all: neither moves what follows.
        asked.done(Method::DELETE, &format!("/v1/dead-letters/{}", seen.last().unwrap())).await;
        let new = format!("0193f0a1-7c3e-7b11-8f00-{:012}", seen.len());
        system.put_letter(&new, "processing", b"new");
        system.sql(&format!("UPDATE dead_letters SET at = 9000000000000 WHERE id = '{new}'"));
    }
    assert_eq!((seen, sizes), (all, vec![40, 40, 23]));

    // A page that is exactly full and the last one leads nowhere.
    let left = asked.letters("?limit=1000").await.len();
    let page = asked.done(Method::GET, &format!("/v1/dead-letters?limit={left}")).await;
    assert_eq!(page["cursor"], Value::Null);
    let page = asked.done(Method::GET, &format!("/v1/dead-letters?limit={}", left - 1)).await;
    assert!(page["cursor"].is_string());
}

#[tokio::test]
async fn a_letter_that_still_cannot_be_read_is_given_up_again_under_another_id() {
    let system = Embedded::with_letters("ending", 1).await;
    let asked = &system.asked;
    let first = asked.letters("").await.remove(0);
    let replayed = asked.done(Method::POST, &format!("/v1/dead-letters/{}/replay", id(&first))).await;
    assert_eq!(replayed, json!({"replayed": 1}));
    problem(asked.ask(Method::GET, &format!("/v1/dead-letters/{}", id(&first))).await, 404, "no-such-dead-letter")
        .await;
    let again = asked.letters_when("it is given up again", |letters| !letters.is_empty()).await;
    assert_eq!(again.len(), 1);
    assert_ne!(id(&again[0]), id(&first));
    for name in ["queue", "reason", "size_bytes"] {
        assert_eq!(again[0][name], first[name], "{name}");
    }

    let path = format!("/v1/dead-letters/{}", id(&again[0]));
    assert_eq!(asked.done(Method::DELETE, &path).await, json!({"dropped": 1}));
    assert_eq!(asked.letters("").await, Vec::<Value>::new());
    for (method, path) in
        [(Method::GET, path.clone()), (Method::DELETE, path.clone()), (Method::POST, format!("{path}/replay"))]
    {
        problem(asked.ask(method, &path).await, 404, "no-such-dead-letter").await;
    }
}

#[tokio::test]
async fn a_letter_that_can_be_read_by_now_goes_on_to_its_end() {
    let (system, order) = Embedded::with_order_given_up(BY_HAND).await;
    let asked = &system.asked;
    let path = format!("/v1/dead-letters/{BY_HAND}");
    assert_eq!(asked.done(Method::GET, &path).await["orders"], json!([order]));
    asked.done(Method::POST, &format!("{path}/replay")).await;
    let shown = system::ended(&asked.client, &asked.url, &order).await;
    assert_eq!(shown["status"], "completed");
    assert_eq!(asked.letters("").await, Vec::<Value>::new());
}

/// As after a crash between the two effects of a replay: the message is back, and the letter is still there.
#[tokio::test]
async fn a_replay_that_is_cut_off_half_way_leaves_both_and_may_be_done_again() {
    let (system, order) = Embedded::with_order_given_up(BY_HAND).await;
    let asked = &system.asked;
    system.sql("CREATE TRIGGER cut BEFORE DELETE ON dead_letters BEGIN SELECT RAISE(ABORT, 'cut off'); END");
    let replay = format!("/v1/dead-letters/{BY_HAND}/replay");
    let cut = problem(asked.ask(Method::POST, &replay).await, 503, "out-of-reach").await;
    let detail = cut["detail"].as_str().unwrap();
    assert!(detail.starts_with("it was put back, but is still kept"), "{detail}");
    let ended = system::ended(&asked.client, &asked.url, &order).await;
    assert_eq!(ended["status"], "completed");
    assert_eq!(ids(&asked.letters("").await), [BY_HAND]);
    problem(asked.ask(Method::DELETE, &format!("/v1/dead-letters/{BY_HAND}")).await, 503, "out-of-reach").await;

    system.sql("DROP TRIGGER cut");
    asked.done(Method::POST, &replay).await;
    // Until the second copy is gone as well.
    system.messages_left(0).await;
    assert_eq!(asked.letters("").await, Vec::<Value>::new());
    assert_eq!(system.count("archive"), 1);
    assert_eq!(system::ended(&asked.client, &asked.url, &order).await, ended);
}

#[tokio::test]
async fn a_replay_is_finished_even_if_its_client_goes_away() {
    let system = Embedded::with_letters("processing", 1).await;
    let asked = &system.asked;
    let first = id(&asked.letters("").await[0]);
    // Nothing can be written while this transaction is open.
    let database = rusqlite::Connection::open(system.file()).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let address = asked.url.strip_prefix("http://").unwrap();
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("POST /v1/dead-letters/{first}/replay HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    // No answer can come: this is the time the server has to begin, and then to notice that nobody waits any more.
    timeout(Duration::from_millis(300), client.readable()).await.unwrap_err();
    // A reset, as when a client is killed: a mere end of what it sends would leave it waiting.
    client.set_zero_linger().unwrap();
    drop(client);
    tokio::time::sleep(Duration::from_millis(300)).await;
    database.execute_batch("ROLLBACK").unwrap();
    let replayed = |letters: &[Value]| letters.len() == 1 && ids(letters) != [first.clone()];
    asked.letters_when("it is given up again, and gone under its first id", replayed).await;
}

#[tokio::test]
async fn a_letter_that_its_queue_does_not_take_is_kept() {
    let system = Embedded::with_letters("processing", 3).await;
    let asked = &system.asked;
    let letters = asked.letters("").await;
    system.sql("CREATE TRIGGER full BEFORE INSERT ON messages BEGIN SELECT RAISE(ABORT, 'full'); END");
    let refused = asked.ask(Method::POST, &format!("/v1/dead-letters/{}/replay", id(&letters[0]))).await;
    let refused = problem(refused, 503, "out-of-reach").await;
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.starts_with("it was not put back, and is kept"), "{detail}");
    let refused = problem(asked.ask(Method::POST, "/v1/dead-letters/replay?all=true").await, 503, "out-of-reach").await;
    assert_eq!(refused["replayed"], 0);
    assert_eq!(asked.letters("").await, letters);
}

#[tokio::test]
async fn all_letters_of_a_queue_are_replayed_once_and_the_others_stay() {
    let system = Embedded::with_letters("pre-processing", 70).await;
    let asked = &system.asked;
    let before: HashSet<String> = ids(&asked.letters("").await).into_iter().collect();
    system.put_letter(BY_HAND, "ending", b"another");
    let replayed = asked.done(Method::POST, "/v1/dead-letters/replay?queue=pre_processing").await;
    // What is given up again meanwhile does not come round and round.
    assert_eq!(replayed, json!({"replayed": 70, "cursor": null}));
    let after = asked.letters_when("all are given up again", |letters| letters.len() == 71).await;
    assert!(ids(&after).contains(&BY_HAND.to_owned()));
    assert!(ids(&after).iter().all(|id| !before.contains(id)));

    let dropped = asked.done(Method::DELETE, "/v1/dead-letters?queue=pre-processing").await;
    assert_eq!(dropped, json!({"dropped": 70, "cursor": null}));
    assert_eq!(ids(&asked.letters("").await), [BY_HAND]);
    assert_eq!(asked.done(Method::DELETE, "/v1/dead-letters?queue=scheduling").await["dropped"], 0);
    assert_eq!(asked.done(Method::DELETE, "/v1/dead-letters?all=true").await["dropped"], 1);
    assert_eq!(asked.letters("").await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_request_does_no_more_than_it_can_answer_for_and_says_where_to_go_on() {
    let system = Embedded::start(&[]);
    let asked = &system.asked;
    let many = |n: u32| {
        format!(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {n})
             INSERT INTO dead_letters (id, source, reason, at, bytes)
             SELECT printf('0193f0a1-7c3e-7b11-8f00-%012d', n), 'ending', 'many', 1764000000000 + n, x'00' FROM n"
        )
    };
    system.sql(&many(1_100));
    let first = asked.done(Method::DELETE, "/v1/dead-letters?queue=ending").await;
    assert_eq!(first["dropped"], 1_024);
    let cursor = first["cursor"].as_str().unwrap();
    // One that came after the first request is none of those that were meant.
    system.put_letter(BY_HAND.replace("17", "99").as_str(), "ending", b"new");
    system.sql("UPDATE dead_letters SET at = 9000000000000 WHERE reason = 'by hand'");
    let rest = asked.done(Method::DELETE, &format!("/v1/dead-letters?queue=ending&cursor={cursor}")).await;
    assert_eq!(rest, json!({"dropped": 76, "cursor": null}));
    assert_eq!(asked.letters("").await.len(), 1);

    // It stops at one that cannot be dropped, and says what it has done.
    system.sql("DELETE FROM dead_letters");
    system.sql(&many(100));
    let stuck = "CREATE TRIGGER stuck BEFORE DELETE ON dead_letters WHEN OLD.id LIKE '%000050'
                 BEGIN SELECT RAISE(ABORT, 'stuck'); END";
    system.sql(stuck);
    let stopped = problem(asked.ask(Method::DELETE, "/v1/dead-letters?all=true").await, 503, "out-of-reach").await;
    // Letters 100 to 69, and of the next 32 all but one.
    assert_eq!(stopped["dropped"], 63, "{stopped}");
    assert_eq!(asked.letters("?limit=1000").await.len(), 37);
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong_and_do_nothing() {
    let system = Embedded::with_letters("processing", 1).await;
    let (asked, id) = (&system.asked, id(&system.asked.letters("").await[0]));
    let one = format!("/v1/dead-letters/{id}");
    for (method, path, parameter) in [
        (Method::GET, "/v1/dead-letters?limt=5".to_owned(), "limt"),
        (Method::GET, "/v1/dead-letters?limit=0".into(), "limit"),
        (Method::GET, "/v1/dead-letters?limit=1001".into(), "limit"),
        (Method::GET, "/v1/dead-letters?queue=packing".into(), "queue"),
        (Method::GET, "/v1/dead-letters?queue=ending&queue=ending".into(), "queue"),
        (Method::GET, "/v1/dead-letters?cursor=17".into(), "cursor"),
        (Method::GET, "/v1/dead-letters?all=true".into(), "all"),
        (Method::GET, format!("{one}?raw=1"), "raw"),
        // Nobody drops everything by accident.
        (Method::DELETE, "/v1/dead-letters".into(), "queue"),
        (Method::DELETE, "/v1/dead-letters?quue=ending".into(), "quue"),
        (Method::DELETE, "/v1/dead-letters?all=1".into(), "all"),
        (Method::DELETE, "/v1/dead-letters?all=true&queue=ending".into(), "all"),
        (Method::DELETE, "/v1/dead-letters?all=true&limit=1".into(), "limit"),
        (Method::DELETE, format!("{one}?queue=ending"), "queue"),
        (Method::POST, "/v1/dead-letters/replay".into(), "queue"),
        (Method::POST, format!("{one}/replay?queue=ending"), "queue"),
    ] {
        let refused = problem(asked.ask(method.clone(), &path).await, 400, "wrong-parameter").await;
        assert_eq!(refused["parameter"], parameter, "{method} {path}");
        assert!(refused["detail"].as_str().unwrap().contains(parameter), "{refused}");
    }
    for (method, path) in [
        (Method::GET, "/v1/dead-letters/17"),
        (Method::DELETE, "/v1/dead-letters/0193f0a17c3e7b118f000123456789ab"),
        (Method::POST, "/v1/dead-letters/all/replay"),
    ] {
        problem(asked.ask(method, path).await, 400, "not-an-id").await;
    }
    for (method, path, allow) in [
        (Method::POST, "/v1/dead-letters", "GET, HEAD, DELETE"),
        (Method::GET, "/v1/dead-letters/replay", "POST"),
        (Method::PUT, one.as_str(), "GET, HEAD, DELETE"),
        (Method::DELETE, &format!("{one}/replay"), "POST"),
    ] {
        let refused = asked.ask(method, path).await;
        assert_eq!(refused.headers()["allow"], allow);
        problem(refused, 405, "method-not-allowed").await;
    }
    assert_eq!(ids(&asked.letters("").await), [id]);
    system.messages_left(0).await;
}

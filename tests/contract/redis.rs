//! The in-flight store in Redis: the suite, and what only Redis can get wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::interfaces::LuaInterface;
use fred::prelude::{Builder, Client, ClientLike, Config, HashesInterface, KeysInterface};
use ordering::adapters::redis::{RedisInFlight, RedisOptions};
use ordering::domain::{OrderId, OrderRecord, Stage};
use ordering::ports::{Begun, Claim, InFlight, Recorded};

use super::in_flight::Subject;
use crate::support::{
    after, closed_port, completed, done, eventually, namespace, now, order, orders, server_url, worker,
};

const URL: &str = "ORDERING_REDIS_URL";

super::in_flight::suite!(super::redis::subject);
super::claims::suite!(super::redis::subject);
super::scan::suite!(super::redis::subject);
super::cancellations::marks_suite!(super::redis::subject);

/// A store of its own in the Redis of the environment.
pub async fn subject() -> Option<Subject> {
    let store = Store::start().await?;
    let (client, namespace) = (store.client.clone(), store.namespace.clone());
    Some(Subject {
        in_flight: store.in_flight,
        wipe: Some(Box::new(move || {
            let (client, namespace) = (client.clone(), namespace.clone());
            Box::pin(async move { wipe(&client, &namespace).await })
        })),
        holds: Box::new(()),
    })
}

/// The store, and a look at what is in Redis beside it.
struct Store {
    in_flight: Arc<RedisInFlight>,
    client: Client,
    namespace: String,
}

impl Store {
    async fn start() -> Option<Store> {
        let url = server_url(URL)?;
        let namespace = namespace();
        // Tests share two cores with servers and compilers: a slow answer is no failure here.
        let options = RedisOptions { timeout: Duration::from_secs(10), ..RedisOptions::new(&url, &namespace) };
        let in_flight = Arc::new(RedisInFlight::start(options).unwrap());
        eventually(async || in_flight.check().await.is_ok()).await;
        let client = Builder::from_config(Config::from_url(&url).unwrap()).build().unwrap();
        client.init().await.unwrap();
        Some(Store { in_flight, client, namespace })
    }

    fn key(&self, order: &OrderRecord) -> String {
        format!("{}:r:{}", self.namespace, order.id)
    }

    async fn time_to_live(&self, order: &OrderRecord) -> Duration {
        let ms: i64 = self.client.pttl(self.key(order)).await.unwrap();
        Duration::from_millis(u64::try_from(ms).expect("a time to live"))
    }

    async fn begin(&self, stage: Stage, order: &OrderRecord) -> Begun {
        let orders = std::slice::from_ref(order);
        self.in_flight.begin(stage, &worker("worker-1"), now(), orders).await.unwrap().remove(0)
    }

    async fn put(&self, order: &OrderRecord) {
        self.in_flight.put(std::slice::from_ref(order)).await.unwrap();
    }
}

async fn wipe(client: &Client, namespace: &str) {
    let script = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";
    let pattern = format!("{namespace}:*");
    client.eval::<(), _, _, _>(script, None, pattern).await.unwrap();
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn records_go_30_days_after_they_were_put_and_a_minute_after_their_end() {
    let Some(store) = Store::start().await else {
        return;
    };
    let order = order();
    store.put(&order).await;
    let in_flight = store.time_to_live(&order).await;
    assert!(in_flight > 29 * DAY && in_flight <= 30 * DAY, "{in_flight:?}");

    let ended = [completed(&order)];
    store.in_flight.end(&ended).await.unwrap();
    let ended = store.time_to_live(&order).await;
    assert!(ended > Duration::from_secs(50) && ended <= Duration::from_secs(60), "{ended:?}");

    let again = OrderRecord { passage: 2, ..order };
    store.put(&again).await;
    assert!(store.time_to_live(&again).await > 29 * DAY);
}

#[tokio::test]
async fn an_order_that_takes_long_has_its_record_renewed() {
    let Some(store) = Store::start().await else {
        return;
    };
    let (young, mut old) = (order(), order());
    old.placed_at = ordering::domain::Timestamp::from_millis(now().as_millis() - 2 * 86_400_000);
    for order in [&young, &old] {
        store.put(order).await;
        let _: bool = store.client.pexpire(store.key(order), 5 * 86_400_000, None).await.unwrap();
        store.begin(Stage::Scheduling, order).await;
    }
    assert!(store.time_to_live(&young).await <= 5 * DAY);
    assert!(store.time_to_live(&old).await > 29 * DAY);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_loaded_again() {
    let Some(store) = Store::start().await else {
        return;
    };
    let order = order();
    store.put(&order).await;
    store.client.script_flush(false).await.unwrap();
    assert_eq!(store.begin(Stage::Scheduling, &order).await, Begun::Fresh { deliveries: 1 });
}

#[tokio::test]
async fn a_key_of_another_type_harms_only_its_own_order() {
    let Some(store) = Store::start().await else {
        return;
    };
    let orders = orders(3);
    let _: () = store.client.hset(store.key(&orders[1]), ("field", "no text")).await.unwrap();
    store.in_flight.put(&orders[..1]).await.unwrap();
    store.in_flight.put(&orders[2..]).await.unwrap();

    let found = store.in_flight.find(orders[1].id).await.unwrap();
    assert_eq!(found, None);
    let begun = store.in_flight.begin(Stage::Scheduling, &worker("w"), now(), &orders).await.unwrap();
    let fresh = Begun::Fresh { deliveries: 1 };
    assert_eq!(begun, [fresh.clone(), Begun::Absent, fresh.clone()]);
    let outcomes: Vec<_> = orders.iter().map(|order| (order, done(Stage::Scheduling))).collect();
    let recorded = store.in_flight.record(Stage::Scheduling, &outcomes).await.unwrap();
    assert_eq!(recorded, [Recorded::First, Recorded::Absent, Recorded::First]);
    store.in_flight.end(&[completed(&orders[1])]).await.unwrap();

    store.put(&orders[1]).await;
    assert_eq!(store.begin(Stage::Scheduling, &orders[1]).await, fresh);
}

#[tokio::test]
async fn what_is_no_record_counts_as_absent() {
    let Some(store) = Store::start().await else {
        return;
    };
    for text in ["", "no record", "[\"put\",8e5]", "{}"] {
        let order = order();
        let _: () = store.client.set(store.key(&order), text, None, None, false).await.unwrap();
        assert_eq!(store.begin(Stage::Scheduling, &order).await, Begun::Absent, "{text}");
        let outcomes = [(&order, done(Stage::Scheduling))];
        assert_eq!(store.in_flight.record(Stage::Scheduling, &outcomes).await.unwrap(), [Recorded::Absent]);
        store.in_flight.end(&[completed(&order)]).await.unwrap();
        store.put(&order).await;
        assert_eq!(store.in_flight.find(order.id).await.unwrap().as_ref(), Some(&order));
        assert_eq!(store.begin(Stage::Scheduling, &order).await, Begun::Fresh { deliveries: 1 });

        let _: () = store.client.set(store.key(&order), text, None, None, false).await.unwrap();
        let derived = OrderRecord { id: OrderId::from_key(&store.key(&order)), ..order };
        let _: () = store.client.set(store.key(&derived), text, None, None, false).await.unwrap();
        assert_eq!(store.in_flight.claim(&[derived]).await.unwrap(), [Claim::New]);
    }
    // And what is no text at all.
    let derived = OrderRecord { id: OrderId::from_key(&store.namespace), ..order() };
    let _: () = store.client.hset(store.key(&derived), ("field", "no text")).await.unwrap();
    assert_eq!(store.in_flight.claim(&[derived]).await.unwrap(), [Claim::New]);
}

#[tokio::test]
async fn a_record_nobody_can_read_is_not_taken_for_none() {
    let Some(store) = Store::start().await else {
        return;
    };
    let order = order();
    store.put(&order).await;
    for text in ["{\"v\":9}[\"put\",800000]", "half a rec"] {
        let _: () = store.client.set(store.key(&order), text, None, None, false).await.unwrap();
        assert!(store.in_flight.find(order.id).await.is_err(), "{text}");
    }
    store.put(&order).await;
    let _: () = store.client.append(store.key(&order), "[1,2,\"pause\",800002]").await.unwrap();
    assert!(store.in_flight.find(order.id).await.is_err());
}

#[tokio::test]
async fn a_scan_passes_over_what_cannot_be_read_and_what_is_not_ours() {
    let Some(store) = Store::start().await else {
        return;
    };
    let orders = orders(4);
    store.in_flight.put(&orders).await.unwrap();
    let _: () = store.client.set(store.key(&orders[1]), "half a rec", None, None, false).await.unwrap();
    let _: () = store.client.del(store.key(&orders[2])).await.unwrap();
    let _: () = store.client.hset(store.key(&orders[2]), ("field", "no text")).await.unwrap();
    // Another installation, whose namespace this one's would match if it were a pattern.
    let neighbour = store.client.append(format!("{}x:r:{}", store.namespace, orders[0].id), "[]");
    let _: () = neighbour.await.unwrap();
    let (mut cursor, mut given) = (Some(0), Vec::new());
    while let Some(at) = cursor {
        let scan = store.in_flight.scan(at).await.unwrap();
        given.extend(scan.orders.into_iter().map(|unmoved| unmoved.order.id));
        cursor = scan.next;
    }
    given.sort();
    given.dedup();
    assert_eq!(given, [orders[0].id, orders[3].id]);
}

#[tokio::test]
async fn a_step_is_one_short_entry() {
    let Some(store) = Store::start().await else {
        return;
    };
    let order = order();
    store.put(&order).await;
    let length = async || store.client.strlen::<usize, _>(store.key(&order)).await.unwrap();
    let accepted = length().await;
    store.begin(Stage::Scheduling, &order).await;
    let outcomes = [(&order, done(Stage::Scheduling))];
    store.in_flight.record(Stage::Scheduling, &outcomes).await.unwrap();
    let added = length().await - accepted;
    assert!(added < 110, "{added} bytes");
}

#[tokio::test]
async fn a_store_that_lost_its_memory_says_since_when_it_knows() {
    let Some(store) = Store::start().await else {
        return;
    };
    let moment = ordering::domain::Timestamp::from_millis;
    assert_eq!(store.in_flight.whole_since(moment(1_000)).await.unwrap(), moment(1_000));
    assert_eq!(store.in_flight.whole_since(moment(2_000)).await.unwrap(), moment(1_000));
    let marker = format!("{}:whole", store.namespace);
    let _: () = store.client.del(&marker).await.unwrap();
    assert_eq!(store.in_flight.whole_since(moment(3_000)).await.unwrap(), moment(3_000), "it was wiped");
    let _: () = store.client.hset(&marker, ("run_id", "of before")).await.unwrap();
    assert_eq!(store.in_flight.whole_since(moment(4_000)).await.unwrap(), moment(4_000), "it was started anew");
    assert_eq!(store.in_flight.whole_since(moment(5_000)).await.unwrap(), moment(4_000));
}

#[tokio::test]
async fn the_largest_progress_is_counted_exactly() {
    let Some(store) = Store::start().await else {
        return;
    };
    // Numbers of 13 digits, which Lua itself would print as 8e+12.
    let mut order = after(&order(), &[Stage::Scheduling, Stage::PreProcessing]);
    order.passage = 10_000_000;
    store.put(&order).await;
    assert_eq!(store.begin(Stage::Processing, &order).await, Begun::Fresh { deliveries: 1 });
    let outcomes = [(&order, done(Stage::Processing))];
    for expected in [Recorded::First, Recorded::Earlier(outcomes[0].1.clone())] {
        let recorded = store.in_flight.record(Stage::Processing, &outcomes).await;
        assert_eq!(recorded.unwrap(), [expected]);
    }
}

#[tokio::test]
async fn without_redis_calls_fail_at_once() {
    let url = format!("redis://:secret@127.0.0.1:{}", closed_port());
    let options = RedisOptions::new(url, namespace());
    let timeout = options.timeout;
    let in_flight = RedisInFlight::start(options).unwrap();
    let orders = orders(2);
    let started = Instant::now();
    for _ in 0..20 {
        let error = in_flight.put(&orders).await.unwrap_err();
        assert_eq!(error.part, "Redis");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(in_flight.find(orders[0].id).await.is_err());
        assert!(in_flight.check().await.is_err());
    }
    assert!(started.elapsed() < timeout * 2, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_silent_redis_costs_one_timeout_not_one_for_each_call() {
    // It takes connections and never says a word.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("redis://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let options = RedisOptions { timeout: Duration::from_millis(200), ..RedisOptions::new(url, namespace()) };
    let in_flight = RedisInFlight::start(options).unwrap();
    let orders = orders(2);
    let started = Instant::now();
    for _ in 0..50 {
        assert!(in_flight.put(&orders).await.is_err());
    }
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
    drop(listener);
}

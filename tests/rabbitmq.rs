//! The RabbitMQ adapter against a real broker, and what it does when connections fail.
//!
//! Needs `ORDERING_AMQP_URLS`; without it the tests are skipped, unless `ORDERING_TEST_SERVERS=1` asks for them.

#[path = "rabbitmq/cluster.rs"]
mod cluster;
#[path = "rabbitmq/dead_letters.rs"]
mod dead_letters;
#[path = "rabbitmq/losses.rs"]
mod losses;
#[path = "support/proxy.rs"]
mod proxy;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use amqprs::channel::{
    BasicGetArguments, BasicPublishArguments, Channel, ExchangeDeleteArguments, QueueDeclareArguments,
    QueueDeleteArguments,
};
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::{BasicProperties, FieldValue};
use bytes::Bytes;
use ordering::adapters::rabbitmq::{RabbitOptions, RabbitQueues, parse_url};
use ordering::domain::{Delay, Order, OrderId, OrderRecord, Stage, Timestamp};
use ordering::ports::{DeadLetter, DeadLetterId, Delivery, Place, PublishError, Queues, Source, Subscription};
use proxy::Proxy;
use uuid::Uuid;

/// Nothing here takes this long; a busy machine may take a good part of it.
const PATIENCE: Duration = Duration::from_secs(60);
const SCHEDULING: Place = Place::Stage(Stage::Scheduling);
const FROM_SCHEDULING: Source = Source::Stage(Stage::Scheduling);

/// The address of a broker, and a namespace of the test's own on it.
struct Broker {
    url: String,
    namespace: String,
}

impl Broker {
    /// `None` if there are no servers to test with.
    fn find() -> Option<Broker> {
        let Ok(urls) = std::env::var("ORDERING_AMQP_URLS") else {
            assert_ne!(
                std::env::var("ORDERING_TEST_SERVERS").as_deref(),
                Ok("1"),
                "ORDERING_TEST_SERVERS=1 needs ORDERING_AMQP_URLS"
            );
            println!("skipped: no servers");
            return None;
        };
        // What the adapter logs is part of what it does: shown with `--nocapture`.
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        Some(Broker {
            url: urls.split(',').next().unwrap().trim().to_owned(),
            namespace: format!("test-{}", Uuid::now_v7().simple()),
        })
    }

    fn options(&self) -> RabbitOptions {
        RabbitOptions {
            urls: vec![self.url.clone()],
            namespace: self.namespace.clone(),
            // A broker on a busy machine is slow; what tests the deadline sets its own.
            confirm_deadline: Duration::from_secs(10),
            connection_name: self.namespace.clone(),
            ..RabbitOptions::default()
        }
    }

    async fn start(&self) -> RabbitQueues {
        up(RabbitQueues::start(self.options())).await
    }

    /// A proxy before the broker, and the options that lead through it.
    async fn behind_proxy(&self) -> (Proxy, RabbitOptions) {
        let address = parse_url(&self.url).unwrap();
        let proxy = Proxy::start(&address.to_string()).await;
        let through = self.url.replace(&address.to_string(), &proxy.addr().to_string());
        let options = RabbitOptions { urls: vec![through], ..self.options() };
        (proxy, options)
    }

    /// A connection that the adapter knows nothing of.
    async fn raw(&self) -> (Connection, Channel) {
        let address = parse_url(&self.url).unwrap();
        let arguments = OpenConnectionArguments::new(&address.host, address.port, &address.user, &address.password)
            .virtual_host(&address.virtual_host)
            .finish();
        let connection = Connection::open(&arguments).await.unwrap();
        let channel = connection.open_channel(None).await.unwrap();
        (connection, channel)
    }

    async fn delete_queue(&self, key: &str) {
        let (connection, channel) = self.raw().await;
        let name = format!("{}.{key}", self.namespace);
        channel.queue_delete(QueueDeleteArguments::new(&name)).await.unwrap();
        connection.close().await.unwrap();
    }

    /// How many messages are ready in a queue.
    async fn ready(&self, key: &str) -> u32 {
        let (connection, channel) = self.raw().await;
        let declaration = QueueDeclareArguments::new(&format!("{}.{key}", self.namespace)).passive(true).finish();
        let (_, count, _) = channel.queue_declare(declaration).await.unwrap().unwrap();
        connection.close().await.unwrap();
        count
    }

    /// Deletes what the test has declared.
    async fn clean(&self) {
        let (connection, channel) = self.raw().await;
        let stages = Stage::ALL.map(|stage| stage.as_kebab().to_owned());
        let delays = Delay::all()
            .flat_map(|delay| Stage::ALL.map(|stage| format!("{}.delay-{}s", stage.as_kebab(), delay.as_secs())));
        for key in stages.iter().cloned().chain(delays).chain(["ending".into(), "dead".into(), "events".into()]) {
            let name = format!("{}.{key}", self.namespace);
            channel.queue_delete(QueueDeleteArguments::new(&name)).await.unwrap();
        }
        let exchange = ExchangeDeleteArguments::new(&self.namespace);
        channel.exchange_delete(exchange).await.unwrap();
        connection.close().await.unwrap();
    }
}

fn order() -> OrderRecord {
    const JSON: &str = r#"{"customer_id":"c","currency":"EUR","items":[{"sku":"s","quantity":2,"unit_price":"1.50"}]}"#;
    OrderRecord::new(
        OrderId::from_uuid(Uuid::now_v7()),
        Timestamp::from_millis(1_764_000_000_000),
        Order::from_json(JSON.as_bytes()).unwrap(),
    )
}

/// Asks again and again until there is an answer.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn up(queues: RabbitQueues) -> RabbitQueues {
    eventually("the connections are up", async || queues.check().await.ok()).await;
    queues
}

async fn publish_until_taken(queues: &RabbitQueues, place: Place, orders: &[OrderRecord]) {
    eventually("a publish succeeds", || async { queues.publish(place, orders).await.ok() }).await;
}

async fn next(subscription: &mut Subscription) -> Delivery {
    tokio::time::timeout(PATIENCE, subscription.deliveries.recv())
        .await
        .expect("waited in vain: a delivery")
        .expect("the subscription has ended")
}

fn ids(delivery: &Delivery) -> Vec<OrderId> {
    let orders = delivery.contents.as_ref().expect("readable");
    orders.iter().map(|order| order.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_delivered_as_it_was_published_and_gone_once_acked() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    let batch = [order(), order(), order()];
    queues.publish(SCHEDULING, &batch).await.unwrap();
    let delivery = next(&mut subscription).await;
    assert_eq!(delivery.contents.unwrap(), batch);
    subscription.settle.ack(delivery.receipt);
    queues.close().await;
    assert_eq!(broker.ready("scheduling").await, 0);
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_order_and_every_place_are_taken() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let items: Vec<String> = (0..1_000)
        .map(|n| format!(r#"{{"sku":"{n}","quantity":1,"unit_price":"1","description":"{}"}}"#, "x".repeat(180)))
        .collect();
    let json = format!(r#"{{"customer_id":"c","currency":"EUR","items":[{}]}}"#, items.join(","));
    let mut large = order();
    large.order = Order::from_json(json.as_bytes()).unwrap();
    for source in Source::all() {
        let place = match source {
            Source::Stage(stage) => Place::Stage(stage),
            Source::Ending => Place::Ending,
        };
        queues.publish(place, std::slice::from_ref(&large)).await.unwrap();
        let mut subscription = queues.subscribe(source, 1);
        let delivery = next(&mut subscription).await;
        assert_eq!(delivery.contents.unwrap(), std::slice::from_ref(&large));
        subscription.settle.ack(delivery.receipt);
    }
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_acked_is_delivered_again_after_close() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    let orders = [order(), order(), order()];
    for order in &orders {
        queues.publish(SCHEDULING, std::slice::from_ref(order)).await.unwrap();
    }
    for order in &orders {
        let delivery = next(&mut subscription).await;
        assert_eq!(ids(&delivery), [order.id]);
        // The one in the middle only: its ack must not take the first along.
        if order.id == orders[1].id {
            subscription.settle.ack(delivery.receipt);
        }
    }
    queues.close().await;
    assert!(subscription.deliveries.recv().await.is_none(), "a closed subscription ends");
    assert!(queues.check().await.is_err());
    let refused = queues.publish(SCHEDULING, &orders).await;
    assert!(matches!(refused, Err(PublishError::NotTaken(_))));

    let queues = broker.start().await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    let mut again = HashSet::new();
    for _ in 0..2 {
        let delivery = next(&mut subscription).await;
        again.extend(ids(&delivery));
        subscription.settle.ack(delivery.receipt);
    }
    assert_eq!(again, HashSet::from([orders[0].id, orders[2].id]));
    queues.close().await;
    assert_eq!(broker.ready("scheduling").await, 0);
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_back_is_delivered_again() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let mut subscription = queues.subscribe(Source::Ending, 1);
    let batch = [order()];
    queues.publish(Place::Ending, &batch).await.unwrap();
    let first = next(&mut subscription).await;
    subscription.settle.give_back(first.receipt);
    let second = next(&mut subscription).await;
    assert_eq!(ids(&second), [batch[0].id]);
    assert_ne!(second.receipt, first.receipt);
    // Settling twice, or what is settled, does no harm: the broker would close the channel.
    subscription.settle.ack(first.receipt);
    subscription.settle.ack(second.receipt);
    subscription.settle.ack(second.receipt);
    let another = [order()];
    queues.publish(Place::Ending, &another).await.unwrap();
    let third = next(&mut subscription).await;
    assert_eq!(ids(&third), [another[0].id]);
    assert_eq!(third.receipt.connection, first.receipt.connection);
    subscription.settle.ack(third.receipt);
    queues.close().await;
    assert_eq!(broker.ready("ending").await, 0);
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_subscription_gives_back_what_it_has_not_seen_and_may_still_ack_the_rest() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let mut leaving = queues.subscribe(FROM_SCHEDULING, 10);
    let orders: Vec<OrderRecord> = (0..6).map(|_| order()).collect();
    for order in &orders {
        queues.publish(SCHEDULING, std::slice::from_ref(order)).await.unwrap();
    }
    let held = next(&mut leaving).await;
    assert_eq!(ids(&held), [orders[0].id]);
    let settle = leaving.cancel().await;

    let mut staying = queues.subscribe(FROM_SCHEDULING, 10);
    let mut seen = HashSet::new();
    for _ in 0..5 {
        let delivery = next(&mut staying).await;
        seen.extend(ids(&delivery));
        staying.settle.ack(delivery.receipt);
    }
    assert_eq!(seen.len(), 5, "the one in hand does not come again");
    assert!(!seen.contains(&orders[0].id));
    settle.ack(held.receipt);
    queues.close().await;
    assert_eq!(broker.ready("scheduling").await, 0);
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_is_cancelled_while_it_connects_holds_nothing() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let orders = (0..40).map(|_| order()).collect::<Vec<_>>();
    for order in &orders {
        publish_until_taken(&queues, SCHEDULING, std::slice::from_ref(order)).await;
    }
    // So slow that each step of connecting takes a while, the last of which is to ask for the messages.
    let (proxy, options) = broker.behind_proxy().await;
    proxy.slow(Duration::from_millis(20));
    let slow = up(RabbitQueues::start(options)).await;
    let cancelled = (0..100).map(|n| {
        let subscription = slow.subscribe(FROM_SCHEDULING, 64);
        async move {
            tokio::time::sleep(Duration::from_millis(20 * n)).await;
            drop(subscription.cancel().await);
        }
    });
    futures_util::future::join_all(cancelled).await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 64);
    let mut missing: HashSet<OrderId> = orders.iter().map(|order| order.id).collect();
    while !missing.is_empty() {
        let delivery = next(&mut subscription).await;
        missing.remove(&delivery.contents.unwrap()[0].id);
        subscription.settle.ack(delivery.receipt);
    }
    queues.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_the_prefetch_is_held_from_others() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let mut greedy = queues.subscribe(FROM_SCHEDULING, 2);
    for _ in 0..5 {
        queues.publish(SCHEDULING, &[order()]).await.unwrap();
    }
    let mut held = vec![next(&mut greedy).await, next(&mut greedy).await];
    let mut other = queues.subscribe(FROM_SCHEDULING, 10);
    for _ in 0..3 {
        held.push(next(&mut other).await);
    }
    let seen: HashSet<OrderId> = held.iter().flat_map(ids).collect();
    assert_eq!(seen.len(), 5);
    queues.close().await;
    assert_eq!(broker.ready("scheduling").await, 5);
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_without_a_queue_is_not_taken_and_the_queue_comes_back() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let batch = [order()];
    let delayed = Place::Delayed(Stage::Processing, Delay::at_least(Duration::ZERO));
    for (place, key) in [(Place::Ending, "ending"), (delayed, "processing.delay-1s")] {
        queues.publish(place, &batch).await.unwrap();
        broker.delete_queue(key).await;
        let error = queues.publish(place, &batch).await.unwrap_err();
        assert!(matches!(error, PublishError::NotTaken(_)), "{error}");
        assert!(error.to_string().contains(key), "{error}");
        publish_until_taken(&queues, place, &batch).await;
    }
    assert_eq!(broker.ready("ending").await, 1);
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_message_arrives_at_its_stage_after_its_delay() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let mut subscription = queues.subscribe(Source::Stage(Stage::PreProcessing), 10);
    let delay = Delay::at_least(Duration::from_secs(2));
    let batch = [order()];
    let place = Place::Delayed(Stage::PreProcessing, delay);
    let published_at = Instant::now();
    queues.publish(place, &batch).await.unwrap();
    let delivery = next(&mut subscription).await;
    let waited = published_at.elapsed();
    assert!(waited >= delay.as_duration(), "came after {waited:?}");
    assert_eq!(ids(&delivery), [batch[0].id]);
    subscription.settle.ack(delivery.receipt);
    queues.close().await;
    assert_eq!(broker.ready("pre-processing").await, 0);
    assert_eq!(broker.ready("pre-processing.delay-2s").await, 0);
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_bytes_are_delivered_as_such_and_can_be_buried() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    let (connection, channel) = broker.raw().await;
    for bytes in [b"\x00\xff not ours".to_vec(), Vec::new()] {
        let to = BasicPublishArguments::new(&broker.namespace, "scheduling");
        channel.basic_publish(BasicProperties::default(), bytes.clone(), to).await.unwrap();
        let delivery = next(&mut subscription).await;
        let unreadable = delivery.contents.unwrap_err();
        assert_eq!(unreadable.bytes, bytes);
        let letter = DeadLetter {
            id: DeadLetterId::new(Timestamp::from_millis(0), [1; 10]),
            source: FROM_SCHEDULING,
            reason: "ä".repeat(400),
            at: Timestamp::from_millis(1_764_000_000_007),
            bytes: unreadable.bytes,
        };
        queues.bury(&letter).await.unwrap();
        subscription.settle.ack(delivery.receipt);

        let dead = BasicGetArguments::new(&format!("{}.dead", broker.namespace)).no_ack(true).finish();
        let (_, properties, content) = channel.basic_get(dead).await.unwrap().unwrap();
        assert_eq!(content, bytes);
        let header = |name: &str| -> String {
            let value: &FieldValue = properties.headers().unwrap().get(&name.try_into().unwrap()).unwrap();
            value.clone().try_into().unwrap()
        };
        assert_eq!(header("x-reason"), "ä".repeat(250));
        assert_eq!(header("x-id"), letter.id.to_string());
        assert_eq!(header("x-source"), "scheduling");
        assert_eq!(header("x-at"), "2025-11-24T16:00:00.007Z");
        assert_eq!(properties.delivery_mode(), Some(2));
    }
    connection.close().await.unwrap();
    queues.close().await;
    assert_eq!(broker.ready("scheduling").await, 0);
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_publishing_fails_at_once_and_all_comes_back_with_it() {
    let Some(broker) = Broker::find() else { return };
    let (proxy, options) = broker.behind_proxy().await;
    proxy.refuse().await;
    let queues = RabbitQueues::start(options);
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    let batch = [order()];
    let began = Instant::now();
    let error = queues.publish(SCHEDULING, &batch).await.unwrap_err();
    assert!(matches!(error, PublishError::NotTaken(_)), "{error}");
    assert!(began.elapsed() < Duration::from_secs(1));
    let endpoint = proxy.addr().to_string();
    eventually("the check says why and where", || async {
        let said = queues.check().await.unwrap_err().to_string();
        (said.contains(&endpoint) && said.contains("refused")).then_some(())
    })
    .await;
    proxy.accept().await;
    let queues = up(queues).await;
    queues.publish(SCHEDULING, &batch).await.unwrap();
    let delivery = next(&mut subscription).await;
    assert_eq!(ids(&delivery), [batch[0].id]);
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_cut_deliveries_go_on_and_old_receipts_are_ignored() {
    let Some(broker) = Broker::find() else { return };
    let (proxy, options) = broker.behind_proxy().await;
    let queues = up(RabbitQueues::start(options)).await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    let batch = [order()];
    queues.publish(SCHEDULING, &batch).await.unwrap();
    let first = next(&mut subscription).await;
    proxy.cut();
    let again = next(&mut subscription).await;
    assert_eq!(ids(&again), [batch[0].id]);
    assert_ne!(again.receipt.connection, first.receipt.connection);
    // Its tag is the same: if it counted, the delivery would be settled.
    assert_eq!(again.receipt.tag, first.receipt.tag);
    subscription.settle.ack(first.receipt);
    let more = [order()];
    publish_until_taken(&queues, SCHEDULING, &more).await;
    let delivery = next(&mut subscription).await;
    assert_eq!(ids(&delivery), [more[0].id]);
    subscription.settle.ack(delivery.receipt);
    queues.close().await;
    assert_eq!(broker.ready("scheduling").await, 1, "what only an old receipt acked");
    broker.clean().await;
}

/// 10,000 messages through connections that are cut again and again: every one of them arrives, and what arrives twice
/// is accounted for by a cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_however_often_connections_are_cut() {
    const MESSAGES: usize = 10_000;
    const PUBLISHERS: usize = 32;
    const CUTS: usize = 8;
    let Some(broker) = Broker::find() else { return };
    let (proxy, options) = broker.behind_proxy().await;
    let queues = Arc::new(up(RabbitQueues::start(options)).await);
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 200);
    let confirmed = Arc::new(AtomicUsize::new(0));
    let unknown = Arc::new(AtomicUsize::new(0));

    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|n| {
            let (queues, confirmed, unknown) = (queues.clone(), confirmed.clone(), unknown.clone());
            let mine = MESSAGES / PUBLISHERS + usize::from(n < MESSAGES % PUBLISHERS);
            tokio::spawn(async move {
                let mut published = Vec::new();
                for _ in 0..mine {
                    let order = order();
                    published.push(order.id);
                    eventually("a publish succeeds", || async {
                        match queues.publish(SCHEDULING, std::slice::from_ref(&order)).await {
                            Ok(()) => Some(()),
                            Err(PublishError::NotTaken(_)) => None,
                            Err(PublishError::Unknown(_)) => {
                                unknown.fetch_add(1, Ordering::Relaxed);
                                None
                            }
                        }
                    })
                    .await;
                    confirmed.fetch_add(1, Ordering::Relaxed);
                }
                published
            })
        })
        .collect();

    let mut received = HashSet::new();
    let mut deliveries = 0;
    let mut cuts = 0;
    let mut connections = HashSet::new();
    while received.len() < MESSAGES {
        let delivery = next(&mut subscription).await;
        deliveries += 1;
        connections.insert(delivery.receipt.connection);
        received.extend(ids(&delivery));
        // Every third is left to be redelivered after the next cut, while there is one.
        if cuts >= CUTS || deliveries % 3 != 0 {
            subscription.settle.ack(delivery.receipt);
        }
        // Otherwise the prefetch would be used up before the next cut.
        if cuts < CUTS && (received.len() > MESSAGES * (cuts + 1) / (CUTS + 2) || deliveries % 300 == 0) {
            proxy.cut();
            cuts += 1;
        }
    }
    let mut published = HashSet::new();
    for publisher in publishers {
        published.extend(publisher.await.unwrap());
    }
    assert_eq!(published.len(), MESSAGES);
    assert_eq!(received, published);
    assert!(cuts == CUTS && connections.len() > 2, "{cuts} cuts, {} connections", connections.len());
    println!(
        "{MESSAGES} messages, {cuts} cuts, {} connections: {deliveries} deliveries, {} of unknown fate",
        connections.len(),
        unknown.load(Ordering::Relaxed)
    );
    // What is left are repetitions: of what was not acked, or was published twice after an unknown fate.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let within = Duration::from_millis(100);
        let more = tokio::time::timeout(within, subscription.deliveries.recv());
        match more.await {
            Ok(delivery) => {
                let delivery = delivery.expect("the subscription goes on");
                assert!(ids(&delivery).iter().all(|id| published.contains(id)));
                subscription.settle.ack(delivery.receipt);
            }
            Err(_) if broker.ready("scheduling").await == 0 => break,
            Err(_) => assert!(Instant::now() < deadline, "waited in vain: an empty queue"),
        }
    }
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_frozen_connection_fates_are_unknown_in_time_then_all_is_refused_until_it_thaws() {
    let Some(broker) = Broker::find() else { return };
    let deadline = Duration::from_millis(500);
    let (proxy, options) = broker.behind_proxy().await;
    let options = RabbitOptions {
        confirm_deadline: deadline,
        heartbeat_secs: 2,
        connect_timeout: Duration::from_secs(1),
        ..options
    };
    let queues = up(RabbitQueues::start(options)).await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    let batch = [order()];
    publish_until_taken(&queues, SCHEDULING, &batch).await;
    let delivery = next(&mut subscription).await;
    subscription.settle.ack(delivery.receipt);

    proxy.freeze();
    let began = Instant::now();
    let error = queues.publish(SCHEDULING, &batch).await.unwrap_err();
    assert!(matches!(error, PublishError::Unknown(_)), "{error}");
    let took = began.elapsed();
    assert!(took >= deadline && took < deadline * 3, "{took:?}");
    // By its deadline, and not only when the connection is given up.
    eventually("the overdue confirm is noticed", || async {
        let said = queues.check().await.err()?.to_string();
        assert!(said.contains("no confirm for 500ms"), "{said}");
        Some(())
    })
    .await;
    let began = Instant::now();
    let error = queues.publish(SCHEDULING, &batch).await.unwrap_err();
    assert!(matches!(error, PublishError::NotTaken(_)), "{error}");
    assert!(began.elapsed() < deadline / 2);
    // Long enough for both connections to be given up: the publisher's by its overdue confirm, the consumer's by its heartbeat.
    eventually("new connections are tried in vain", || async {
        let said = queues.check().await.unwrap_err().to_string();
        said.contains("took longer").then_some(())
    })
    .await;

    proxy.resume();
    let another = [order()];
    publish_until_taken(&queues, SCHEDULING, &another).await;
    // What was of unknown fate may come as well.
    loop {
        let delivery = next(&mut subscription).await;
        let came = ids(&delivery);
        subscription.settle.ack(delivery.receipt);
        if came == [another[0].id] {
            break;
        }
        assert_eq!(came, [batch[0].id]);
    }
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_frozen_connection_takes_no_longer_than_it_may() {
    let Some(broker) = Broker::find() else { return };
    let (proxy, options) = broker.behind_proxy().await;
    let queues = Arc::new(up(RabbitQueues::start(options)).await);
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    publish_until_taken(&queues, SCHEDULING, &[order()]).await;
    let held = next(&mut subscription).await;
    proxy.freeze();
    let waiting = tokio::spawn({
        let queues = Arc::clone(&queues);
        async move { queues.publish(SCHEDULING, &[order()]).await }
    });
    subscription.settle.ack(held.receipt);
    let began = Instant::now();
    queues.close().await;
    assert!(began.elapsed() < Duration::from_millis(2_500));
    assert!(subscription.deliveries.recv().await.is_none());
    // Nobody is left waiting, whatever was left open.
    let fate = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert!(fate.is_err());
    proxy.resume();
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thawed_connection_goes_on_where_it_was() {
    let Some(broker) = Broker::find() else { return };
    let (proxy, options) = broker.behind_proxy().await;
    let options = RabbitOptions { confirm_deadline: Duration::from_secs(1), ..options };
    let queues = up(RabbitQueues::start(options)).await;
    let batch = [order()];
    publish_until_taken(&queues, SCHEDULING, &batch).await;
    proxy.freeze();
    let error = queues.publish(SCHEDULING, &batch).await.unwrap_err();
    assert!(matches!(error, PublishError::Unknown(_)), "{error}");
    proxy.resume();
    // The late confirm opens it again; no confirm of a later publish could, since all are refused.
    let queues = up(queues).await;
    publish_until_taken(&queues, SCHEDULING, &batch).await;
    queues.close().await;
    assert_eq!(broker.ready("scheduling").await, 3);
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_whose_queue_is_deleted_consumes_from_the_new_one() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    let batch = [order()];
    queues.publish(SCHEDULING, &batch).await.unwrap();
    let delivery = next(&mut subscription).await;
    broker.delete_queue("scheduling").await;
    subscription.settle.ack(delivery.receipt);
    let another = [order()];
    publish_until_taken(&queues, SCHEDULING, &another).await;
    let delivery = next(&mut subscription).await;
    assert_eq!(ids(&delivery), [another[0].id]);
    subscription.settle.ack(delivery.receipt);
    queues.close().await;
    assert_eq!(broker.ready("scheduling").await, 0);
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_differs_is_named() {
    let Some(broker) = Broker::find() else { return };
    let (connection, channel) = broker.raw().await;
    let name = format!("{}.processing", broker.namespace);
    channel.queue_declare(QueueDeclareArguments::durable_client_named(&name)).await.unwrap();
    connection.close().await.unwrap();
    let queues = RabbitQueues::start(broker.options());
    eventually("the check names the queue", || async {
        let said = queues.check().await.unwrap_err().to_string();
        (said.contains(&name) && said.contains("inequivalent arg")).then_some(())
    })
    .await;
    broker.delete_queue("processing").await;
    let queues = up(queues).await;
    queues.publish(Place::Stage(Stage::Processing), &[order()]).await.unwrap();

    // A delay queue is declared when it is first needed: then it is the publish that fails.
    let (connection, channel) = broker.raw().await;
    let delayed = format!("{}.processing.delay-5s", broker.namespace);
    channel.queue_declare(QueueDeclareArguments::durable_client_named(&delayed)).await.unwrap();
    connection.close().await.unwrap();
    let place = Place::Delayed(Stage::Processing, Delay::at_least(Duration::from_secs(5)));
    let error = queues.publish(place, &[order()]).await.unwrap_err();
    assert!(matches!(error, PublishError::NotTaken(_)), "{error}");
    assert!(error.to_string().contains(&delayed), "{error}");
    // The connection and the other places are not concerned.
    queues.publish(Place::Stage(Stage::Processing), &[order()]).await.unwrap();
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_addresses_one_that_answers_is_enough_and_no_password_is_told() {
    let Some(broker) = Broker::find() else { return };
    let address = parse_url(&broker.url).unwrap();
    let wrong = format!("amqp://{}:secret@{address}", address.user);
    let options = RabbitOptions { urls: vec![wrong.clone()], ..broker.options() };
    let queues = RabbitQueues::start(options.clone());
    let said = eventually("the login is refused", || async {
        let said = queues.check().await.unwrap_err().to_string();
        said.contains("password").then_some(said)
    })
    .await;
    assert!(said.contains(&address.to_string()) && !said.contains("secret"), "{said}");
    queues.close().await;

    let urls = vec![wrong, "amqp://127.0.0.1:1".into(), broker.url.clone()];
    let queues = up(RabbitQueues::start(RabbitOptions { urls, ..options })).await;
    queues.publish(SCHEDULING, &[order()]).await.unwrap();
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_publish_at_once_and_all_is_acked() {
    let Some(broker) = Broker::find() else { return };
    let queues = Arc::new(broker.start().await);
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 100);
    const MESSAGES: usize = 2_000;
    let publishers: Vec<_> = (0..500)
        .map(|_| {
            let queues = queues.clone();
            tokio::spawn(async move {
                for _ in 0..MESSAGES / 500 {
                    queues.publish(SCHEDULING, &[order()]).await.unwrap();
                }
            })
        })
        .collect();
    let mut seen = HashSet::new();
    for n in 0..MESSAGES {
        let delivery = next(&mut subscription).await;
        seen.extend(ids(&delivery));
        let settle = Arc::clone(&subscription.settle);
        // Out of order now and then, as workers do.
        if n % 7 == 0 {
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                settle.ack(delivery.receipt);
            });
        } else {
            settle.ack(delivery.receipt);
        }
    }
    assert_eq!(seen.len(), MESSAGES);
    for publisher in publishers {
        publisher.await.unwrap();
    }
    eventually("everything is settled", || async { (Arc::strong_count(&subscription.settle) == 1).then_some(()) })
        .await;
    queues.close().await;
    assert_eq!(broker.ready("scheduling").await, 0);
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_letter_keeps_its_bytes() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let letter = DeadLetter {
        id: DeadLetterId::new(Timestamp::from_millis(0), [1; 10]),
        source: Source::Ending,
        reason: "none".into(),
        at: Timestamp::from_millis(0),
        bytes: Bytes::from_static(b"{}"),
    };
    queues.bury(&letter).await.unwrap();
    assert_eq!(broker.ready("dead").await, 1);
    queues.close().await;
    broker.clean().await;
}

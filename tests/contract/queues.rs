//! What [`Queues`] promises: what was published is delivered until it is acked. No order among messages is promised,
//! and a message may come more than once.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ordering::domain::{Delay, OrderId, OrderRecord, Stage};
use ordering::ports::{DeadLetter, DeadLetterId, Delivery, Place, Queues, Receipt, Source, Subscription};
use tokio::time::timeout;

use crate::support::{DEADLINE, accepted, after, now, order, orders, retry};

use Stage::{PreProcessing, Processing, Scheduling};

/// Queues of their own.
pub struct Subject {
    /// Opens the queues, the same ones each time: a second process would, or this one after a restart.
    pub open: Open,
    /// Puts these bytes into the queue of a source as they are; `None` where nobody can.
    pub put_bytes: Option<PutBytes>,
    /// What must live as long as the queues: their folder, for example.
    #[allow(dead_code, reason = "it is held, not read")]
    pub holds: Box<dyn std::any::Any + Send + Sync>,
}

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// Comes back when messages can be published.
pub type Open = Box<dyn Fn() -> Later<Arc<dyn Queues>> + Send + Sync>;
pub type PutBytes = Box<dyn Fn(Source, Bytes) -> Later<()> + Send + Sync>;

macro_rules! suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            queues,
            $subject,
            what_is_published_is_delivered_where_it_belongs,
            what_was_acked_does_not_come_again,
            what_was_not_settled_comes_again_after_a_close,
            what_was_published_outlives_a_close,
            what_was_given_back_comes_again,
            two_subscribers_share_what_there_is,
            no_more_than_the_prefetch_is_unsettled,
            a_cancelled_subscription_gives_back_what_nobody_took,
            what_was_taken_can_be_settled_after_the_subscription_was_cancelled,
            a_delayed_message_comes_after_its_wait,
            delayed_messages_outlive_a_close,
            a_batch_of_256_orders_arrives_whole,
            one_order_of_256_kib_arrives,
            content_and_histories_come_to_the_letter,
            many_publishers_at_once_lose_nothing,
            receipts_of_another_connection_are_ignored,
            bytes_that_are_no_message_come_as_they_are_and_can_be_buried,
            the_queues_say_that_they_are_well,
            close_ends_the_deliveries,
        );
    };
}
pub(crate) use suite;

/// How long a test waits for something that must not happen.
const QUIET: Duration = Duration::from_millis(700);
const PREFETCH: u16 = 100;

const SCHEDULING: Source = Source::Stage(Scheduling);

async fn open(subject: &Subject) -> Arc<dyn Queues> {
    (subject.open)().await
}

async fn publish(queues: &Arc<dyn Queues>, place: Place, orders: &[OrderRecord]) {
    queues.publish(place, orders).await.unwrap();
}

/// Publishes each of `orders` as a message of its own.
async fn publish_each(queues: &Arc<dyn Queues>, place: Place, orders: &[OrderRecord]) {
    for order in orders {
        publish(queues, place, std::slice::from_ref(order)).await;
    }
}

async fn next(subscription: &mut Subscription) -> Delivery {
    timeout(DEADLINE, subscription.deliveries.recv()).await.expect("a delivery in time").expect("deliveries go on")
}

async fn next_orders(subscription: &mut Subscription) -> (Receipt, Vec<OrderRecord>) {
    let delivery = next(subscription).await;
    (delivery.receipt, delivery.contents.expect("a readable message"))
}

async fn nothing_comes(subscription: &mut Subscription) {
    if let Ok(Some(delivery)) = timeout(QUIET, subscription.deliveries.recv()).await {
        panic!("there should be no delivery, but came {delivery:?}");
    }
}

/// Takes and acks messages until each of `expected` came at least once; answers how often each came.
async fn drain(subscription: &mut Subscription, expected: &[OrderRecord]) -> BTreeMap<OrderId, usize> {
    let mut missing: BTreeSet<OrderId> = ids(expected);
    let mut came = BTreeMap::new();
    while !missing.is_empty() {
        let (receipt, orders) = next_orders(subscription).await;
        for order in orders {
            missing.remove(&order.id);
            *came.entry(order.id).or_default() += 1;
        }
        subscription.settle.ack(receipt);
    }
    came
}

fn ids(orders: &[OrderRecord]) -> BTreeSet<OrderId> {
    orders.iter().map(|order| order.id).collect()
}

pub async fn what_is_published_is_delivered_where_it_belongs(subject: &Subject) {
    let queues = open(subject).await;
    let mut published = Vec::new();
    for source in Source::all() {
        let place = match source {
            Source::Stage(stage) => Place::Stage(stage),
            Source::Ending => Place::Ending,
        };
        let orders = orders(3);
        publish(&queues, place, &orders).await;
        published.push((source, orders));
    }
    for (source, orders) in published {
        let mut subscription = queues.subscribe(source, PREFETCH);
        let (receipt, delivered) = next_orders(&mut subscription).await;
        assert_eq!(delivered, orders);
        subscription.settle.ack(receipt);
        nothing_comes(&mut subscription).await;
    }
    queues.close().await;
}

pub async fn what_was_acked_does_not_come_again(subject: &Subject) {
    let queues = open(subject).await;
    let acked = orders(20);
    publish_each(&queues, Place::Stage(Scheduling), &acked).await;
    drain(&mut queues.subscribe(SCHEDULING, PREFETCH), &acked).await;
    queues.close().await;

    let queues = open(subject).await;
    let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
    let marker = [order()];
    publish(&queues, Place::Stage(Scheduling), &marker).await;
    let came = drain(&mut subscription, &marker).await;
    assert_eq!(came.keys().copied().collect::<BTreeSet<_>>(), ids(&marker));
    nothing_comes(&mut subscription).await;
    queues.close().await;
}

pub async fn what_was_not_settled_comes_again_after_a_close(subject: &Subject) {
    let queues = open(subject).await;
    let (kept, acked) = ([order()], [order()]);
    publish(&queues, Place::Stage(Scheduling), &kept).await;
    publish(&queues, Place::Stage(Scheduling), &acked).await;
    let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
    for _ in 0..2 {
        let (receipt, delivered) = next_orders(&mut subscription).await;
        if delivered == acked {
            subscription.settle.ack(receipt);
        }
    }
    queues.close().await;

    let queues = open(subject).await;
    let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
    let (receipt, delivered) = next_orders(&mut subscription).await;
    assert_eq!(delivered, kept);
    subscription.settle.ack(receipt);
    nothing_comes(&mut subscription).await;
    queues.close().await;
}

pub async fn what_was_published_outlives_a_close(subject: &Subject) {
    let queues = open(subject).await;
    let published = orders(10);
    publish_each(&queues, Place::Stage(Processing), &published).await;
    publish(&queues, Place::Ending, &published).await;
    queues.close().await;

    let queues = open(subject).await;
    for source in [Source::Stage(Processing), Source::Ending] {
        drain(&mut queues.subscribe(source, PREFETCH), &published).await;
    }
    queues.close().await;
}

pub async fn what_was_given_back_comes_again(subject: &Subject) {
    let queues = open(subject).await;
    let orders = orders(2);
    publish(&queues, Place::Stage(Scheduling), &orders).await;
    let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
    for _ in 0..3 {
        let (receipt, delivered) = next_orders(&mut subscription).await;
        assert_eq!(delivered, orders);
        subscription.settle.give_back(receipt);
    }
    let (receipt, delivered) = next_orders(&mut subscription).await;
    assert_eq!(delivered, orders);
    subscription.settle.ack(receipt);
    nothing_comes(&mut subscription).await;
    queues.close().await;
}

pub async fn two_subscribers_share_what_there_is(subject: &Subject) {
    let (one, other) = (open(subject).await, open(subject).await);
    let mut subscriptions = [one.subscribe(SCHEDULING, 5), other.subscribe(SCHEDULING, 5)];
    let published = orders(40);
    publish_each(&one, Place::Stage(Scheduling), &published).await;

    let mut came = Vec::new();
    let [first, second] = &mut subscriptions;
    while came.len() < published.len() {
        let (delivery, settle) = timeout(DEADLINE, async {
            tokio::select! {
                delivery = first.deliveries.recv() => (delivery, &first.settle),
                delivery = second.deliveries.recv() => (delivery, &second.settle),
            }
        })
        .await
        .expect("a delivery in time");
        let delivery = delivery.expect("deliveries go on");
        came.extend(delivery.contents.unwrap().iter().map(|order| order.id));
        settle.ack(delivery.receipt);
    }
    came.sort_unstable();
    assert_eq!(came, ids(&published).into_iter().collect::<Vec<_>>());
    nothing_comes(first).await;
    nothing_comes(second).await;
    one.close().await;
    other.close().await;
}

pub async fn no_more_than_the_prefetch_is_unsettled(subject: &Subject) {
    let queues = open(subject).await;
    let published = orders(5);
    publish_each(&queues, Place::Stage(Scheduling), &published).await;
    let mut subscription = queues.subscribe(SCHEDULING, 2);
    let (first, _) = next_orders(&mut subscription).await;
    let (second, _) = next_orders(&mut subscription).await;
    nothing_comes(&mut subscription).await;

    subscription.settle.ack(first);
    let (third, _) = next_orders(&mut subscription).await;
    nothing_comes(&mut subscription).await;
    subscription.settle.ack(second);
    subscription.settle.ack(third);
    for _ in 0..2 {
        let (receipt, _) = next_orders(&mut subscription).await;
        subscription.settle.ack(receipt);
    }
    nothing_comes(&mut subscription).await;
    queues.close().await;
}

pub async fn a_cancelled_subscription_gives_back_what_nobody_took(subject: &Subject) {
    let queues = open(subject).await;
    let published = orders(6);
    publish_each(&queues, Place::Stage(Scheduling), &published).await;
    let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
    let (receipt, _) = next_orders(&mut subscription).await;
    subscription.settle.ack(receipt);
    subscription.cancel().await;

    let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
    let mut came = BTreeSet::new();
    while came.len() < 5 {
        let (receipt, orders) = next_orders(&mut subscription).await;
        came.extend(orders.iter().map(|order| order.id));
        subscription.settle.ack(receipt);
    }
    queues.close().await;
}

pub async fn what_was_taken_can_be_settled_after_the_subscription_was_cancelled(subject: &Subject) {
    let queues = open(subject).await;
    let (held, others) = ([order()], orders(4));
    publish(&queues, Place::Stage(Scheduling), &held).await;
    let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
    let (receipt, delivered) = next_orders(&mut subscription).await;
    assert_eq!(delivered, held);
    publish_each(&queues, Place::Stage(Scheduling), &others).await;
    let settle = subscription.cancel().await;

    // What it had been sent and nobody took goes to somebody else, while the message in hand stays in hand.
    let other = open(subject).await;
    let mut subscription = other.subscribe(SCHEDULING, PREFETCH);
    let came = drain(&mut subscription, &others).await;
    assert_eq!(came.keys().copied().collect::<BTreeSet<_>>(), ids(&others));
    settle.ack(receipt);
    queues.close().await;
    nothing_comes(&mut subscription).await;
    other.close().await;
}

pub async fn a_delayed_message_comes_after_its_wait(subject: &Subject) {
    let queues = open(subject).await;
    let orders = orders(3);
    let delay = Delay::at_least(Duration::from_secs(1));
    let mut subscription = queues.subscribe(Source::Stage(Processing), PREFETCH);
    let published_at = Instant::now();
    publish(&queues, Place::Delayed(Processing, delay), &orders).await;
    let (receipt, delivered) = next_orders(&mut subscription).await;
    // Clocks and timers tick in milliseconds: a wait may seem that little shorter.
    assert!(published_at.elapsed() > delay.as_duration() - Duration::from_millis(20));
    assert_eq!(delivered, orders);
    subscription.settle.ack(receipt);
    nothing_comes(&mut subscription).await;
    queues.close().await;
}

pub async fn delayed_messages_outlive_a_close(subject: &Subject) {
    let queues = open(subject).await;
    let orders = orders(1);
    let delay = Delay::at_least(Duration::from_secs(2));
    publish(&queues, Place::Delayed(Scheduling, delay), &orders).await;
    queues.close().await;

    let queues = open(subject).await;
    drain(&mut queues.subscribe(SCHEDULING, PREFETCH), &orders).await;
    queues.close().await;
}

pub async fn a_batch_of_256_orders_arrives_whole(subject: &Subject) {
    let queues = open(subject).await;
    let batch = orders(256);
    publish(&queues, Place::Stage(Scheduling), &batch).await;
    let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
    let (receipt, delivered) = next_orders(&mut subscription).await;
    assert_eq!(delivered, batch);
    subscription.settle.ack(receipt);
    queues.close().await;
}

pub async fn one_order_of_256_kib_arrives(subject: &Subject) {
    let queues = open(subject).await;
    let description = "ä".repeat(500);
    let item = format!(r#"{{"sku":"s","description":"{description}","quantity":1,"unit_price":"1.00"}}"#);
    let items = vec![item; 250].join(",");
    let json = format!(r#"{{"customer_id":"c","reference":null,"currency":"EUR","items":[{items}],"metadata":null}}"#);
    assert!(json.len() > 256 * 1024);
    let mut large = order();
    large.order = ordering::domain::Order::from_json(json.as_bytes()).unwrap();
    let orders = [large];
    publish(&queues, Place::Stage(Scheduling), &orders).await;
    let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
    let (receipt, delivered) = next_orders(&mut subscription).await;
    assert_eq!(delivered, orders);
    subscription.settle.ack(receipt);
    queues.close().await;
}

pub async fn content_and_histories_come_to_the_letter(subject: &Subject) {
    let queues = open(subject).await;
    let metadata = r#"{"b":1.50,"a":1e2,"a b":"\u00e9 é \ud83e\udd80 🦀 \/ \\ \" \t","":[true,null]}"#;
    let mut order = after(&accepted(metadata), &[Scheduling, PreProcessing]);
    order.history.record(Processing, &retry("\u{0} \"quoted\"\n注文 🦀"));
    order.passage = 7;
    let orders = [order];
    publish(&queues, Place::Stage(Processing), &orders).await;
    let mut subscription = queues.subscribe(Source::Stage(Processing), PREFETCH);
    let (receipt, delivered) = next_orders(&mut subscription).await;
    assert_eq!(delivered[0].order.json(), orders[0].order.json());
    assert_eq!(delivered, orders);
    subscription.settle.ack(receipt);
    queues.close().await;
}

pub async fn many_publishers_at_once_lose_nothing(subject: &Subject) {
    let queues = open(subject).await;
    let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let queues = queues.clone();
        tasks.push(tokio::spawn(async move {
            let mut published = Vec::new();
            for _ in 0..20 {
                let batch = orders(3);
                publish(&queues, Place::Stage(Scheduling), &batch).await;
                published.extend(batch);
            }
            published
        }));
    }
    let mut published = Vec::new();
    for task in tasks {
        published.extend(task.await.unwrap());
    }
    drain(&mut subscription, &published).await;
    queues.close().await;
}

pub async fn receipts_of_another_connection_are_ignored(subject: &Subject) {
    let queues = open(subject).await;
    let orders = orders(1);
    publish(&queues, Place::Stage(Scheduling), &orders).await;
    let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
    let (receipt, _) = next_orders(&mut subscription).await;
    let foreign = Receipt { connection: receipt.connection.wrapping_add(1_000_000), tag: receipt.tag };
    subscription.settle.ack(foreign);
    subscription.settle.give_back(foreign);
    nothing_comes(&mut subscription).await;
    queues.close().await;

    let queues = open(subject).await;
    drain(&mut queues.subscribe(SCHEDULING, PREFETCH), &orders).await;
    queues.close().await;
}

pub async fn bytes_that_are_no_message_come_as_they_are_and_can_be_buried(subject: &Subject) {
    let queues = open(subject).await;
    let bytes = Bytes::from_static(b"\x00\xff{\"v\":1");
    if let Some(put_bytes) = &subject.put_bytes {
        put_bytes(SCHEDULING, bytes.clone()).await;
        let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
        let delivery = next(&mut subscription).await;
        let unreadable = delivery.contents.expect_err("bytes that are no message");
        assert_eq!(unreadable.bytes, bytes);
        assert!(!unreadable.reason.is_empty());

        // It blocks nobody: what comes after it is delivered.
        let after_it = [order()];
        publish(&queues, Place::Stage(Scheduling), &after_it).await;
        let (receipt, delivered) = next_orders(&mut subscription).await;
        assert_eq!(delivered, after_it);
        subscription.settle.ack(receipt);
        bury(&queues, &bytes).await;
        subscription.settle.ack(delivery.receipt);
        nothing_comes(&mut subscription).await;
    } else {
        bury(&queues, &bytes).await;
    }
    queues.close().await;
}

async fn bury(queues: &Arc<dyn Queues>, bytes: &Bytes) {
    let letter = DeadLetter {
        id: DeadLetterId::new(ordering::domain::Timestamp::from_millis(0), [1; 10]),
        source: SCHEDULING,
        reason: "no message: \"ä\"\u{0}\n".repeat(200),
        at: now(),
        bytes: bytes.clone(),
    };
    queues.bury(&letter).await.unwrap();
}

pub async fn the_queues_say_that_they_are_well(subject: &Subject) {
    let queues = open(subject).await;
    queues.check().await.unwrap();
    queues.close().await;
}

pub async fn close_ends_the_deliveries(subject: &Subject) {
    let queues = open(subject).await;
    let mut subscription = queues.subscribe(SCHEDULING, PREFETCH);
    queues.close().await;
    let end = timeout(DEADLINE, subscription.deliveries.recv()).await.expect("an end");
    assert!(end.is_none());
}

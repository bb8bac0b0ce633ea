//! What [`Queues`] promises: what was published is delivered until it is acked. No order among messages is promised,
//! and a message may come more than once.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ordering::domain::{Delay, OrderId, OrderRecord, Stage};
use ordering::ports::{
    DeadDelivery, DeadLetter, DeadLetterId, DeadSubscription, Delivery, Place, PublishError, Queues, Receipt, Source,
    Subscription,
};
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
            what_waits_is_counted_and_not_what_is_held,
            what_is_replayed_is_delivered_to_the_letter,
            a_buried_letter_comes_out_as_it_was,
            a_letter_that_was_given_back_or_not_settled_comes_again_under_its_id,
            queues_that_are_there_are_no_losses,
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
    let letter = DeadLetter { reason: "no message: \"ä\"\u{0}\n".repeat(200), ..letter(SCHEDULING, bytes) };
    queues.bury(&letter).await.unwrap();
}

fn letter(source: Source, bytes: &Bytes) -> DeadLetter {
    DeadLetter {
        id: DeadLetterId::new(now(), rand::random()),
        source,
        reason: "no message: \"ä\"\u{0}\n".into(),
        at: now(),
        bytes: bytes.clone(),
    }
}

/// Asks until `expected` messages wait: a broker's count may lag behind what it has confirmed.
async fn until_waiting(queues: &Arc<dyn Queues>, source: Source, expected: u64) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let waiting = queues.waiting(source).await;
        if waiting.as_ref().is_ok_and(|waiting| *waiting == expected) {
            return;
        }
        assert!(Instant::now() < deadline, "{expected} messages should wait, but: {waiting:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn what_waits_is_counted_and_not_what_is_held(subject: &Subject) {
    let queues = open(subject).await;
    until_waiting(&queues, SCHEDULING, 0).await;
    publish_each(&queues, Place::Stage(Scheduling), &orders(7)).await;
    publish_each(&queues, Place::Ending, &orders(2)).await;
    let delay = Delay::at_least(Duration::from_secs(900));
    publish(&queues, Place::Delayed(Scheduling, delay), &[order()]).await;
    until_waiting(&queues, SCHEDULING, 7).await;
    until_waiting(&queues, Source::Ending, 2).await;
    until_waiting(&queues, Source::Stage(Processing), 0).await;

    let mut subscription = queues.subscribe(SCHEDULING, 3);
    let (acked, _) = next_orders(&mut subscription).await;
    let (given_back, _) = next_orders(&mut subscription).await;
    until_waiting(&queues, SCHEDULING, 4).await;
    // A place becomes free, and the next message takes it.
    subscription.settle.ack(acked);
    until_waiting(&queues, SCHEDULING, 3).await;
    subscription.settle.give_back(given_back);
    until_waiting(&queues, SCHEDULING, 3).await;
    let settle = subscription.cancel().await;
    until_waiting(&queues, SCHEDULING, 6).await;
    drop(settle);
    queues.close().await;

    let queues = open(subject).await;
    until_waiting(&queues, SCHEDULING, 6).await;
    queues.close().await;
    assert!(queues.waiting(SCHEDULING).await.is_err());
}

pub async fn what_is_replayed_is_delivered_to_the_letter(subject: &Subject) {
    let queues = open(subject).await;
    let batch = orders(2);
    for source in Source::all() {
        let mut subscription = queues.subscribe(source, PREFETCH);
        let bytes = Bytes::from(ordering::wire::encode_batch(&batch));
        queues.replay(source, &bytes).await.unwrap();
        let (receipt, delivered) = next_orders(&mut subscription).await;
        assert_eq!(delivered, batch);
        subscription.settle.ack(receipt);
        for bytes in [Bytes::from_static(b"\x00\xff{\"v\":1"), Bytes::new()] {
            queues.replay(source, &bytes).await.unwrap();
            let delivery = next(&mut subscription).await;
            assert_eq!(delivery.contents.expect_err("bytes that are no message").bytes, bytes);
            subscription.settle.ack(delivery.receipt);
        }
        nothing_comes(&mut subscription).await;
    }
    queues.close().await;
    let refused = queues.replay(SCHEDULING, &Bytes::from_static(b"x")).await;
    assert!(matches!(refused, Err(PublishError::NotTaken(_))), "{refused:?}");
}

async fn next_letter(subscription: &mut DeadSubscription) -> DeadDelivery {
    timeout(DEADLINE, subscription.deliveries.recv()).await.expect("a letter in time").expect("deliveries go on")
}

pub async fn a_buried_letter_comes_out_as_it_was(subject: &Subject) {
    let queues = open(subject).await;
    let Some(mut subscription) = queues.dead_letters(PREFETCH) else { return };
    for source in Source::all() {
        for bytes in [Bytes::from_static(b"\x00\xff{\"v\":1"), Bytes::new()] {
            let letter = letter(source, &bytes);
            queues.bury(&letter).await.unwrap();
            let delivery = next_letter(&mut subscription).await;
            assert_eq!(delivery.letter, letter);
            subscription.settle.ack(delivery.receipt);
        }
    }
    if let Ok(Some(delivery)) = timeout(QUIET, subscription.deliveries.recv()).await {
        panic!("there should be no letter, but came {delivery:?}");
    }
    queues.close().await;
}

pub async fn a_letter_that_was_given_back_or_not_settled_comes_again_under_its_id(subject: &Subject) {
    let queues = open(subject).await;
    let Some(mut subscription) = queues.dead_letters(1) else { return };
    let letter = letter(Source::Ending, &Bytes::from_static(b"none"));
    queues.bury(&letter).await.unwrap();
    let delivery = next_letter(&mut subscription).await;
    subscription.settle.give_back(delivery.receipt);
    assert_eq!(next_letter(&mut subscription).await.letter, letter);
    queues.close().await;

    let queues = open(subject).await;
    let mut subscription = queues.dead_letters(1).unwrap();
    let delivery = next_letter(&mut subscription).await;
    assert_eq!(delivery.letter, letter);
    subscription.settle.ack(delivery.receipt);
    queues.close().await;
}

pub async fn queues_that_are_there_are_no_losses(subject: &Subject) {
    let queues = open(subject).await;
    drain_all(&queues).await;
    // An installation that is new may say so.
    queues.take_losses();
    queues.close().await;

    let queues = open(subject).await;
    drain_all(&queues).await;
    assert_eq!(queues.take_losses(), []);
    queues.close().await;
}

/// Uses every queue there is.
async fn drain_all(queues: &Arc<dyn Queues>) {
    for source in Source::all() {
        let batch = [order()];
        publish(queues, source.into(), &batch).await;
        drain(&mut queues.subscribe(source, PREFETCH), &batch).await;
        until_waiting(queues, source, 0).await;
    }
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

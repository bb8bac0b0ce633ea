//! What the queue of dead letters gives, whoever put it there.

use amqprs::FieldTable;
use ordering::ports::{DeadDelivery, DeadSubscription};

use super::*;

async fn next_letter(subscription: &mut DeadSubscription) -> DeadDelivery {
    tokio::time::timeout(PATIENCE, subscription.deliveries.recv())
        .await
        .expect("waited in vain: a letter")
        .expect("the subscription has ended")
}

fn letter(bytes: &'static [u8]) -> DeadLetter {
    let at = Timestamp::from_millis(1_764_000_000_007);
    DeadLetter {
        id: DeadLetterId::new(at, rand::random()),
        source: Source::Ending,
        reason: "none".into(),
        at,
        bytes: Bytes::from_static(bytes),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_keeps_its_id_over_a_lost_connection_and_old_receipts_are_ignored() {
    let Some(broker) = Broker::find() else { return };
    let (proxy, options) = broker.behind_proxy().await;
    let queues = up(RabbitQueues::start(options)).await;
    let mut subscription = queues.dead_letters(10).unwrap();
    let letters = [letter(b"1"), letter(b"2")];
    for letter in &letters {
        queues.bury(letter).await.unwrap();
    }
    let mut first = Vec::new();
    for letter in &letters {
        let delivery = next_letter(&mut subscription).await;
        assert_eq!(&delivery.letter, letter);
        first.push(delivery.receipt);
    }
    proxy.cut();
    for letter in &letters {
        let delivery = next_letter(&mut subscription).await;
        assert_eq!(&delivery.letter, letter);
        assert!(!first.contains(&delivery.receipt));
        if letter.id == letters[1].id {
            subscription.settle.ack(delivery.receipt);
        }
    }
    for receipt in first {
        subscription.settle.ack(receipt);
    }
    queues.close().await;
    assert_eq!(broker.ready("dead").await, 1);
    broker.clean().await;
}

/// The broker's backstop, for real: a message that waited in the queue of a delay before is delivered 1,001 times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_delivered_too_often_comes_out_with_its_stage_and_why() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let batch = [order()];
    let place = Place::Delayed(Stage::Processing, Delay::at_least(Duration::ZERO));
    let began = Instant::now();
    queues.publish(place, &batch).await.unwrap();
    let mut dead = queues.dead_letters(1).unwrap();
    let mut subscription = queues.subscribe(Source::Stage(Stage::Processing), 1);
    let mut deliveries = 0;
    let first = loop {
        tokio::select! {
            biased;
            delivery = subscription.deliveries.recv() => {
                deliveries += 1;
                assert!(deliveries <= 1_001, "it comes again and again");
                subscription.settle.give_back(delivery.unwrap().receipt);
            }
            letter = next_letter(&mut dead) => break letter,
        }
    };
    println!("dead after {deliveries} deliveries and {:?}", began.elapsed());
    assert_eq!(deliveries, 1_001);
    assert_eq!(first.letter.source, Source::Stage(Stage::Processing));
    assert_eq!(first.letter.reason, "delivered more than 1000 times (RabbitMQ: delivery_limit)");
    assert_eq!(first.letter.bytes, ordering::wire::encode_batch(&batch));
    assert!(first.letter.at.as_millis() > 1_764_000_000_000);
    dead.settle.give_back(first.receipt);
    let again = next_letter(&mut dead).await;
    assert_eq!(again.letter, first.letter);

    // It goes back where it came from, and is another letter when it dies another time.
    queues.replay(again.letter.source, &again.letter.bytes).await.unwrap();
    dead.settle.ack(again.receipt);
    let delivery = next(&mut subscription).await;
    assert_eq!(ids(&delivery), [batch[0].id]);
    subscription.settle.ack(delivery.receipt);
    queues.close().await;
    assert_eq!((broker.ready("processing").await, broker.ready("dead").await), (0, 0));
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stranger_put_there_blocks_nobody() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    let mut strange = FieldTable::new();
    strange.insert("x-id".try_into().unwrap(), FieldValue::V);
    strange.insert("x-source".try_into().unwrap(), "nowhere".into());
    strange.insert("x-at".try_into().unwrap(), FieldValue::T(u64::MAX));
    strange.insert("x-death".try_into().unwrap(), FieldValue::A(vec![].try_into().unwrap()));
    strange.insert("nested".try_into().unwrap(), FieldValue::F(FieldTable::new()));
    let (connection, channel) = broker.raw().await;
    for headers in [FieldTable::new(), strange] {
        let mut properties = BasicProperties::default();
        properties.with_headers(headers);
        let to = BasicPublishArguments::new(&broker.namespace, "dead");
        channel.basic_publish(properties, b"a stranger's".to_vec(), to).await.unwrap();
    }
    channel.close().await.unwrap();
    connection.close().await.unwrap();
    let last = letter(b"ours");
    queues.bury(&last).await.unwrap();

    let mut subscription = queues.dead_letters(10).unwrap();
    let mut foreign = Vec::new();
    for _ in 0..2 {
        let delivery = next_letter(&mut subscription).await;
        assert_eq!((delivery.letter.source, &*delivery.letter.bytes), (FROM_SCHEDULING, &b"a stranger's"[..]));
        subscription.settle.give_back(delivery.receipt);
        foreign.push(delivery.letter.id);
    }
    let mut came = Vec::new();
    while came.len() < 3 {
        let delivery = next_letter(&mut subscription).await;
        came.push(delivery.letter.id);
        subscription.settle.ack(delivery.receipt);
    }
    foreign.push(last.id);
    came.sort_unstable();
    foreign.sort_unstable();
    assert_eq!(came, foreign);
    queues.close().await;
    assert_eq!(broker.ready("dead").await, 0);
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_go_on_when_their_queue_was_deleted() {
    let Some(broker) = Broker::find() else { return };
    let queues = broker.start().await;
    queues.take_losses();
    let mut subscription = queues.dead_letters(10).unwrap();
    let first = letter(b"1");
    queues.bury(&first).await.unwrap();
    assert_eq!(next_letter(&mut subscription).await.letter, first);
    broker.delete_queue("dead").await;
    let second = letter(b"2");
    eventually("it is buried", || async { queues.bury(&second).await.ok() }).await;
    assert_eq!(next_letter(&mut subscription).await.letter, second);
    assert_eq!(queues.take_losses(), [], "no orders were lost");
    queues.close().await;
    broker.clean().await;
}

//! What the adapter notices of queues that were deleted, and of a broker that has lost everything.

use std::collections::HashSet;

use amqprs::FieldTable;
use amqprs::channel::QueueBindArguments;
use ordering::ports::Unavailable;

use super::*;

fn all() -> HashSet<Source> {
    Source::all().collect()
}

/// Takes losses until those of `expected` have come, and asserts that there are no others.
async fn lost(queues: &RabbitQueues, expected: &HashSet<Source>) {
    let mut lost = HashSet::new();
    eventually("the losses are told", || {
        lost.extend(queues.take_losses());
        let done = lost.is_superset(expected);
        async move { done.then_some(()) }
    })
    .await;
    assert_eq!(&lost, expected);
}

/// Queues whose first start is behind them.
async fn started(broker: &Broker) -> RabbitQueues {
    let queues = broker.start().await;
    lost(&queues, &all()).await;
    queues
}

async fn waiting(queues: &RabbitQueues, source: Source) -> Result<u64, Unavailable> {
    queues.waiting(source).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_says_that_nothing_was_there_and_the_next_one_nothing() {
    let Some(broker) = Broker::find() else { return };
    let queues = started(&broker).await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    queues.publish(SCHEDULING, &[order()]).await.unwrap();
    next(&mut subscription).await;
    assert_eq!(queues.take_losses(), []);
    queues.close().await;
    let queues = broker.start().await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    next(&mut subscription).await;
    assert_eq!(queues.take_losses(), []);
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_loses_no_queue() {
    let Some(broker) = Broker::find() else { return };
    let (proxy, options) = broker.behind_proxy().await;
    let queues = up(RabbitQueues::start(options)).await;
    lost(&queues, &all()).await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    queues.publish(SCHEDULING, &[order()]).await.unwrap();
    for _ in 0..3 {
        next(&mut subscription).await;
        waiting(&queues, FROM_SCHEDULING).await.unwrap();
        proxy.cut();
        publish_until_taken(&queues, Place::Ending, &[order()]).await;
        eventually("what waits is counted again", async || waiting(&queues, FROM_SCHEDULING).await.ok()).await;
    }
    next(&mut subscription).await;
    assert_eq!(queues.take_losses(), []);
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_comes_back_is_a_loss_of_its_stage() {
    let Some(broker) = Broker::find() else { return };
    let queues = started(&broker).await;
    let delayed = Place::Delayed(Stage::Processing, Delay::at_least(Duration::ZERO));
    queues.publish(delayed, &[order()]).await.unwrap();
    for (place, key, source) in
        [(delayed, "processing.delay-1s", Source::Stage(Stage::Processing)), (Place::Ending, "ending", Source::Ending)]
    {
        broker.delete_queue(key).await;
        queues.publish(place, &[order()]).await.unwrap_err();
        publish_until_taken(&queues, place, &[order()]).await;
        lost(&queues, &HashSet::from([source])).await;
    }
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_whose_queue_is_deleted_tells_it_once() {
    let Some(broker) = Broker::find() else { return };
    let queues = started(&broker).await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    queues.publish(SCHEDULING, &[order()]).await.unwrap();
    next(&mut subscription).await;
    broker.delete_queue("scheduling").await;
    lost(&queues, &HashSet::from([FROM_SCHEDULING])).await;
    publish_until_taken(&queues, SCHEDULING, &[order()]).await;
    next(&mut subscription).await;
    assert_eq!(queues.take_losses(), []);
    queues.close().await;
    broker.clean().await;
}

/// An operator deletes a queue and declares it by hand, before anybody of us looks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_somebody_else_declares_anew_is_a_loss_for_its_consumer() {
    let Some(broker) = Broker::find() else { return };
    let queues = started(&broker).await;
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 10);
    queues.publish(SCHEDULING, &[order()]).await.unwrap();
    next(&mut subscription).await;
    let (connection, channel) = broker.raw().await;
    let name = format!("{}.scheduling", broker.namespace);
    channel.queue_delete(QueueDeleteArguments::new(&name)).await.unwrap();
    eventually("the consumer has noticed", async || queues.check().await.err()).await;
    let mut arguments = FieldTable::new();
    let mut put = |name: &str, value: FieldValue| arguments.insert(name.try_into().unwrap(), value);
    put("x-queue-type", "quorum".into());
    put("x-delivery-limit", FieldValue::l(1_000));
    put("x-dead-letter-exchange", broker.namespace.as_str().into());
    put("x-dead-letter-routing-key", "dead".into());
    put("x-dead-letter-strategy", "at-least-once".into());
    put("x-overflow", "reject-publish".into());
    let declaration = QueueDeclareArguments::durable_client_named(&name).arguments(arguments).finish();
    channel.queue_declare(declaration).await.unwrap();
    let binding = QueueBindArguments::new(&name, &broker.namespace, "scheduling");
    channel.queue_bind(binding).await.unwrap();
    connection.close().await.unwrap();
    let batch = [order()];
    publish_until_taken(&queues, SCHEDULING, &batch).await;
    assert_eq!(ids(&next(&mut subscription).await), [batch[0].id]);
    assert_eq!(queues.take_losses(), [FROM_SCHEDULING]);
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_was_deleted_while_nobody_was_there_is_a_loss() {
    let Some(broker) = Broker::find() else { return };
    let queues = started(&broker).await;
    queues.publish(Place::Ending, &[order()]).await.unwrap();
    queues.close().await;
    broker.delete_queue("ending").await;
    broker.delete_queue("processing").await;
    let queues = broker.start().await;
    lost(&queues, &HashSet::from([Source::Ending, Source::Stage(Stage::Processing)])).await;
    queues.publish(Place::Ending, &[order()]).await.unwrap();
    queues.close().await;

    // As well if it is a subscription that comes first.
    broker.delete_queue("ending").await;
    let (proxy, options) = broker.behind_proxy().await;
    let queues = RabbitQueues::start(options);
    let mut subscription = queues.subscribe(Source::Ending, 10);
    let queues = up(queues).await;
    publish_until_taken(&queues, Place::Ending, &[order()]).await;
    next(&mut subscription).await;
    lost(&queues, &HashSet::from([Source::Ending])).await;
    drop(proxy);
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counting_finds_a_queue_missing_and_does_not_declare_it() {
    let Some(broker) = Broker::find() else { return };
    let queues = started(&broker).await;
    assert_eq!(waiting(&queues, Source::Ending).await.unwrap(), 0);
    broker.delete_queue("ending").await;
    // Longer than what is missing stays undeclared by those who declare.
    let until = Instant::now() + Duration::from_millis(1_500);
    while Instant::now() < until {
        assert_eq!(waiting(&queues, Source::Ending).await.unwrap(), 0);
        let (connection, channel) = broker.raw().await;
        let name = format!("{}.ending", broker.namespace);
        let question = QueueDeclareArguments::new(&name).passive(true).finish();
        channel.queue_declare(question).await.expect_err("nobody declares it");
        let _ = connection.close().await;
    }
    lost(&queues, &HashSet::from([Source::Ending])).await;
    // The publishing connection has not noticed.
    queues.publish(SCHEDULING, &[order()]).await.unwrap();
    publish_until_taken(&queues, Place::Ending, &[order()]).await;
    eventually("it is counted", async || waiting(&queues, Source::Ending).await.ok().filter(|count| *count == 1)).await;
    queues.close().await;
    broker.clean().await;
}

/// All that is declared goes away under several processes at once: the first to come back declares it anew, and
/// together they tell that everything is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_is_gone_all_is_lost_whoever_comes_back_first() {
    let Some(broker) = Broker::find() else { return };
    let (proxy, options) = broker.behind_proxy().await;
    let processes = [up(RabbitQueues::start(options.clone())).await, up(RabbitQueues::start(options.clone())).await];
    let mut subscriptions: Vec<Subscription> = Source::all().map(|source| processes[1].subscribe(source, 10)).collect();
    for source in Source::all() {
        publish_until_taken(&processes[0], source.into(), &[order()]).await;
    }
    for subscription in &mut subscriptions {
        next(subscription).await;
    }
    for process in &processes {
        process.take_losses();
    }

    proxy.refuse().await;
    proxy.cut();
    broker.clean().await;
    proxy.accept().await;
    let mut lost = HashSet::new();
    eventually("everything is told to be lost", || {
        lost.extend(processes.iter().flat_map(|process| process.take_losses()));
        let done = lost == all();
        async move { done.then_some(()) }
    })
    .await;
    for (source, subscription) in Source::all().zip(&mut subscriptions) {
        let batch = [order()];
        publish_until_taken(&processes[0], source.into(), &batch).await;
        let delivery = next(subscription).await;
        assert_eq!(ids(&delivery), [batch[0].id]);
        subscription.settle.ack(delivery.receipt);
    }
    for process in &processes {
        process.close().await;
    }
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_deleted_under_way_is_declared_again_and_counts_as_a_loss_of_all() {
    let Some(broker) = Broker::find() else { return };
    let queues = started(&broker).await;
    let (connection, channel) = broker.raw().await;
    channel.exchange_delete(ExchangeDeleteArguments::new(&broker.namespace)).await.unwrap();
    connection.close().await.unwrap();
    publish_until_taken(&queues, SCHEDULING, &[order()]).await;
    lost(&queues, &all()).await;
    queues.close().await;
    broker.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counting_out_of_reach_fails_and_goes_on_with_the_broker() {
    let Some(broker) = Broker::find() else { return };
    let (proxy, options) = broker.behind_proxy().await;
    let queues = up(RabbitQueues::start(options)).await;
    queues.publish(SCHEDULING, &[order()]).await.unwrap();
    eventually("it is counted", async || waiting(&queues, FROM_SCHEDULING).await.ok().filter(|count| *count == 1))
        .await;
    proxy.freeze();
    let began = Instant::now();
    let error = waiting(&queues, FROM_SCHEDULING).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(6), "{error}");
    proxy.resume();
    eventually("it is counted again", async || waiting(&queues, FROM_SCHEDULING).await.ok()).await;
    proxy.refuse().await;
    proxy.cut();
    let error = eventually("the answer is no", async || waiting(&queues, FROM_SCHEDULING).await.err()).await;
    assert_eq!(error.part, "RabbitMQ");
    proxy.accept().await;
    eventually("it is counted again", async || waiting(&queues, FROM_SCHEDULING).await.ok()).await;
    queues.close().await;
    assert!(waiting(&queues, FROM_SCHEDULING).await.is_err());
    broker.clean().await;
}

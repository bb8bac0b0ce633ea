//! The queues on RabbitMQ: the suite. What only RabbitMQ can get wrong is in `tests/rabbitmq.rs`.

use std::sync::Arc;

use amqprs::BasicProperties;
use amqprs::channel::BasicPublishArguments;
use amqprs::connection::{Connection, OpenConnectionArguments};
use bytes::Bytes;
use ordering::adapters::rabbitmq::{RabbitOptions, RabbitQueues, parse_url};
use ordering::ports::{Queues, Source};

use super::queues::Subject;
use crate::support::{DEADLINE, namespace, server_url};

super::queues::suite!(super::rabbitmq::subject);

/// Queues of their own in the RabbitMQ of the environment.
pub async fn subject() -> Option<Subject> {
    let url = server_url("ORDERING_AMQP_URLS")?;
    let namespace = namespace();
    let options = RabbitOptions {
        urls: vec![url.clone()],
        namespace: namespace.clone(),
        // Tests share two cores with servers and compilers: a slow answer is no failure here.
        confirm_deadline: DEADLINE,
        ..RabbitOptions::default()
    };
    Some(Subject {
        open: Box::new(move || {
            let options = options.clone();
            Box::pin(async move {
                let queues = RabbitQueues::start(options);
                let connected = async {
                    while queues.check().await.is_err() {
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                };
                tokio::time::timeout(DEADLINE, connected).await.expect("RabbitMQ is in reach");
                Arc::new(queues) as Arc<dyn Queues>
            })
        }),
        put_bytes: Some(Box::new(move |source, bytes| {
            Box::pin(put_bytes(url.clone(), namespace.clone(), source, bytes))
        })),
        holds: Box::new(()),
    })
}

async fn put_bytes(url: String, namespace: String, source: Source, bytes: Bytes) {
    let key = match source {
        Source::Stage(stage) => stage.as_kebab(),
        Source::Ending => "ending",
    };
    let address = parse_url(&url).unwrap();
    let arguments = OpenConnectionArguments::new(&address.host, address.port, &address.user, &address.password);
    let connection = Connection::open(&arguments).await.unwrap();
    let channel = connection.open_channel(None).await.unwrap();
    let publish = BasicPublishArguments::new(&namespace, key);
    channel.basic_publish(BasicProperties::default(), bytes.to_vec(), publish).await.unwrap();
    // The answer to the close comes after the broker has read what went before it.
    channel.close().await.unwrap();
    connection.close().await.unwrap();
}

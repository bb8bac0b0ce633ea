//! The exchange and the queues, by name and by arguments, and how they are declared.
//!
//! One durable direct exchange named like the namespace; every queue is `{namespace}.{key}` and bound by its key. All
//! queues are quorum queues. Their arguments never change between releases: a queue cannot be declared again with
//! others (the broker answers 406), so a change would stop every installation at its upgrade.
//!
//! Dead-lettering is at least once everywhere, which RabbitMQ (3.10 and later) grants only to quorum queues that
//! reject publishes when they are full (<https://www.rabbitmq.com/docs/quorum-queues#dead-lettering>).

use std::time::Duration;

use amqprs::channel::{Channel, ExchangeDeclareArguments, ExchangeType, QueueBindArguments, QueueDeclareArguments};
use amqprs::{FieldTable, FieldValue};

use crate::domain::{Delay, Stage};
use crate::ports::{Place, Source};

/// After this many deliveries the broker takes a message out of its queue. A backstop only: deliveries of an order are
/// counted in its record, since the broker counts a lost connection for everything that was prefetched.
pub(super) const DELIVERY_LIMIT: i64 = 1_000;
/// For the dead letters and for events, which have nowhere else to go: in effect never. RabbitMQ 4 would drop them after 20 deliveries
/// if nothing was said; before 4 there is no way to say "none".
const DEAD_DELIVERY_LIMIT: i64 = 1_000_000_000;
/// How long a queue that somebody deleted stays undeclared. When the broker notices that the queue of a consumer is gone,
/// and finds one of the same name, it consumes from that in the consumer's name, and (seen with 3.10) takes its first
/// messages for repetitions and delivers them to nobody. It notices within some 20 ms; then it ends the consumer, which is
/// what is wanted.
pub(super) const REDECLARE_AFTER: Duration = Duration::from_secs(1);
/// The key of the queue of dead letters.
const DEAD_KEY: &str = "dead";
/// The key of the queue of events.
const EVENTS_KEY: &str = "events";

/// A queue of this system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Queue {
    Of(Place),
    Dead,
    /// What happened to orders, on its way to where webhooks get it from.
    Events,
}

impl Queue {
    /// The queues that always exist; those of the delays are declared when they are first used.
    pub fn standing() -> impl Iterator<Item = Queue> {
        // The dead letters come first: the others refer to them.
        [Queue::Dead, Queue::Events, Queue::Of(Place::Ending)]
            .into_iter()
            .chain(Stage::ALL.into_iter().map(|stage| Queue::Of(Place::Stage(stage))))
    }

    /// What routes to this queue.
    pub fn key(self) -> String {
        match self {
            Queue::Of(Place::Stage(stage)) => stage.as_kebab().into(),
            Queue::Of(Place::Delayed(stage, delay)) => {
                format!("{}.delay-{}s", stage.as_kebab(), delay.as_secs())
            }
            Queue::Of(Place::Ending) => "ending".into(),
            Queue::Dead => DEAD_KEY.into(),
            Queue::Events => EVENTS_KEY.into(),
        }
    }

    /// The queue of this key; `None` if there is none in this release.
    pub fn of_key(key: &str) -> Option<Queue> {
        let delays = Stage::ALL
            .into_iter()
            .flat_map(|stage| Delay::all().map(move |delay| Queue::Of(Place::Delayed(stage, delay))));
        Queue::standing().chain(delays).find(|queue| queue.key() == key)
    }

    /// The source that loses something when this queue is lost; `None` for the dead letters, and
    /// for events.
    pub fn source(self) -> Option<Source> {
        match self {
            Queue::Of(Place::Stage(stage) | Place::Delayed(stage, _)) => Some(Source::Stage(stage)),
            Queue::Of(Place::Ending) => Some(Source::Ending),
            Queue::Dead | Queue::Events => None,
        }
    }

    fn arguments(self, namespace: &str) -> FieldTable {
        let mut arguments = Table::default();
        arguments.put("x-queue-type", "quorum");
        let dead_letters_to = match self {
            Queue::Of(Place::Stage(_) | Place::Ending) => {
                arguments.put("x-delivery-limit", FieldValue::l(DELIVERY_LIMIT));
                DEAD_KEY
            }
            Queue::Of(Place::Delayed(stage, delay)) => {
                let ttl_ms = i64::from(delay.as_secs()) * 1_000;
                arguments.put("x-message-ttl", FieldValue::l(ttl_ms));
                stage.as_kebab()
            }
            Queue::Dead => {
                arguments.put("x-delivery-limit", FieldValue::l(DEAD_DELIVERY_LIMIT));
                return arguments.0;
            }
            Queue::Events => {
                arguments.put("x-delivery-limit", FieldValue::l(DEAD_DELIVERY_LIMIT));
                // Whoever takes them one after the other, in their order, is enough; two would mix them up.
                arguments.put("x-single-active-consumer", true);
                return arguments.0;
            }
        };
        arguments.put("x-dead-letter-exchange", namespace);
        arguments.put("x-dead-letter-routing-key", dead_letters_to);
        arguments.put("x-dead-letter-strategy", "at-least-once");
        arguments.put("x-overflow", "reject-publish");
        arguments.0
    }
}

impl From<Source> for Queue {
    fn from(source: Source) -> Queue {
        match source {
            Source::Stage(stage) => Queue::Of(Place::Stage(stage)),
            Source::Ending => Queue::Of(Place::Ending),
        }
    }
}

/// A table of arguments or headers, filled by names that are written in this program.
#[derive(Default)]
pub(super) struct Table(pub FieldTable);

impl Table {
    pub fn put(&mut self, name: &str, value: impl Into<FieldValue>) {
        let name = name.try_into().expect("it is shorter than 256 bytes");
        self.0.insert(name, value.into());
    }
}

/// Where one installation's exchange and queues are.
#[derive(Clone, Debug)]
pub(super) struct Namespace(pub std::sync::Arc<str>);

impl Namespace {
    pub fn exchange(&self) -> &str {
        &self.0
    }

    pub fn queue_name(&self, queue: Queue) -> String {
        format!("{}.{}", self.0, queue.key())
    }

    /// The queue of this name; `None` if it is not of this namespace.
    pub fn queue_of_name(&self, name: &str) -> Option<Queue> {
        Queue::of_key(name.strip_prefix(&*self.0)?.strip_prefix('.')?)
    }

    /// Asks whether the exchange is there.
    ///
    /// # Errors
    /// As of [`Namespace::declare_exchange`]; if it is not there, the channel is closed.
    pub async fn find_exchange(&self, channel: &Channel) -> Result<(), amqprs::error::Error> {
        let mut exchange = ExchangeDeclareArguments::of_type(self.exchange(), ExchangeType::Direct);
        channel.exchange_declare(exchange.passive(true).finish()).await
    }

    /// How many messages of a queue wait and are in nobody's hands.
    ///
    /// # Errors
    /// As of [`Namespace::declare_exchange`]; if the queue is not there, the channel is closed.
    pub async fn count_ready(&self, channel: &Channel, queue: Queue) -> Result<u64, amqprs::error::Error> {
        let question = QueueDeclareArguments::new(&self.queue_name(queue)).passive(true).finish();
        let answer = channel.queue_declare(question).await?;
        Ok(answer.map_or(0, |(_, count, _)| u64::from(count)))
    }

    /// Declares the exchange. Declaring what is there changes nothing.
    ///
    /// # Errors
    /// amqprs' error; the broker's reason arrives as an event of the channel.
    pub async fn declare_exchange(&self, channel: &Channel) -> Result<(), amqprs::error::Error> {
        let mut exchange = ExchangeDeclareArguments::of_type(self.exchange(), ExchangeType::Direct);
        channel.exchange_declare(exchange.durable(true).finish()).await
    }

    /// Declares a queue and binds it. The exchange must be there.
    ///
    /// # Errors
    /// As of [`Namespace::declare_exchange`].
    pub async fn declare_queue(&self, channel: &Channel, queue: Queue) -> Result<(), amqprs::error::Error> {
        let name = self.queue_name(queue);
        let declaration =
            QueueDeclareArguments::durable_client_named(&name).arguments(queue.arguments(self.exchange())).finish();
        channel.queue_declare(declaration).await?;
        channel.queue_bind(QueueBindArguments::new(&name, self.exchange(), &queue.key())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arguments never change between releases. If this fails, what it tests is to be put back.
    #[test]
    fn queues_have_the_arguments_they_always_had() {
        let written = |queue: Queue| {
            let table = queue.arguments("ns");
            let mut arguments: Vec<String> =
                table.as_ref().iter().map(|(name, value)| format!("{name}={value}")).collect();
            arguments.sort();
            arguments.join(" ")
        };
        let stage = "x-dead-letter-exchange=ns x-dead-letter-routing-key=dead \
                     x-dead-letter-strategy=at-least-once x-delivery-limit=1000 \
                     x-overflow=reject-publish x-queue-type=quorum";
        assert_eq!(written(Queue::Of(Place::Stage(Stage::Processing))), stage);
        assert_eq!(written(Queue::Of(Place::Ending)), stage);
        let delay = Delay::at_least(Duration::from_secs(5));
        assert_eq!(
            written(Queue::Of(Place::Delayed(Stage::PreProcessing, delay))),
            "x-dead-letter-exchange=ns x-dead-letter-routing-key=pre-processing \
             x-dead-letter-strategy=at-least-once x-message-ttl=5000 \
             x-overflow=reject-publish x-queue-type=quorum"
        );
        assert_eq!(
            written(Queue::Events),
            "x-delivery-limit=1000000000 x-queue-type=quorum x-single-active-consumer=true"
        );
        assert_eq!(written(Queue::Dead), "x-delivery-limit=1000000000 x-queue-type=quorum");
    }

    #[test]
    fn queues_are_named_after_their_keys() {
        let namespace = Namespace("ns".into());
        let delay = Delay::at_least(Duration::from_secs(100));
        let names: Vec<String> = Queue::standing()
            .chain([Queue::Of(Place::Delayed(Stage::PostProcessing, delay))])
            .map(|queue| namespace.queue_name(queue))
            .collect();
        assert_eq!(
            names,
            [
                "ns.dead",
                "ns.events",
                "ns.ending",
                "ns.scheduling",
                "ns.pre-processing",
                "ns.processing",
                "ns.post-processing",
                "ns.post-processing.delay-120s",
            ]
        );
        let queues: Vec<Queue> = names.iter().filter_map(|name| namespace.queue_of_name(name)).collect();
        assert_eq!(queues.iter().map(|queue| namespace.queue_name(*queue)).collect::<Vec<_>>(), names);
        for foreign in ["ns", "ns.", "nsdead", "other.dead", "ns.processing.delay-3s", "ns.ns.dead"] {
            assert_eq!(namespace.queue_of_name(foreign), None, "{foreign}");
        }
    }
}

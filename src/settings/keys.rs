//! The one table of settings. The names of environment variables, the checks, what `check-config` prints and the
//! table of doc/configuration.md are made from it.

use std::time::Duration;

use super::kind::Kind;
use crate::domain::Stage;

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Its dotted name; `<stage>` stands for the name of each stage.
    pub name: &'static str,
    pub kind: Kind,
    /// In the text form of an environment variable; empty if it is not set by default.
    pub default: &'static str,
    /// What a number counts, or empty.
    pub unit: &'static str,
    pub meaning: &'static str,
}

const STAGE: &str = "<stage>";

impl Key {
    /// The name, or the four names of a setting that each stage has.
    pub fn names(&self) -> Vec<String> {
        match self.name.contains(STAGE) {
            true => Stage::ALL.into_iter().map(|stage| self.name.replace(STAGE, stage.as_kebab())).collect(),
            false => vec![self.name.to_owned()],
        }
    }
}

/// Every setting's name and key, in the order of the table.
pub fn all() -> impl Iterator<Item = (String, &'static Key)> {
    KEYS.iter().flat_map(|key| key.names().into_iter().map(move |name| (name, key)))
}

/// The environment variable of a setting: `stages.pre-processing.delay` is `ORDERING_STAGES_PRE_PROCESSING_DELAY`.
pub fn variable(name: &str) -> String {
    let name = name.replace(['.', '-'], "_").to_uppercase();
    format!("ORDERING_{name}")
}

/// The name as the table has it: stages are written with a dash there, and read with an underscore too.
pub fn canonical(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    if let ["stages", stage, ..] = parts.as_mut_slice()
        && let Ok(known) = stage.parse::<Stage>()
    {
        *stage = known.as_kebab();
    }
    parts.join(".")
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn whole(min: u64, max: u64) -> Kind {
    Kind::Whole { min, max }
}

const fn duration(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max }
}

const fn size(min: u64, max: u64) -> Kind {
    Kind::Size { min, max }
}

const DAY: u64 = 86_400;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

const fn key(name: &'static str, kind: Kind, default: &'static str, unit: &'static str, meaning: &'static str) -> Key {
    Key { name, kind, default, unit, meaning }
}

#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("backend", Kind::Choice(&["embedded", "servers"]), "embedded", "",
        "Where orders are kept: `embedded` in one file under `data_dir` (only for `ordering all`), `servers` in RabbitMQ, Redis and Postgres."),
    key("namespace", Kind::Namespace, "ordering", "",
        "Begins the names of queues, Redis keys and the Postgres schema, so that several installations can share servers."),
    key("listen", Kind::Address { optional: false }, "127.0.0.1:8080", "",
        "Where the HTTP API listens. Port 0 takes a free one; the first line on stdout says which."),
    key("health_listen", Kind::Address { optional: true }, "", "",
        "Where a worker answers for its health; nowhere if not set."),
    key("data_dir", Kind::Path, "ordering-data", "",
        "The folder of the embedded store; made if missing, and held by one process at a time."),
    key("amqp_urls", Kind::AmqpUrls, "amqp://guest:guest@127.0.0.1:5672/%2f", "",
        "RabbitMQ: one URL for each node of the cluster, as a list or comma separated; tried in turn."),
    key("redis_url", Kind::RedisUrl, "redis://127.0.0.1:6379", "", "Redis."),
    key("postgres_url", Kind::PostgresUrl, "postgresql://ordering@127.0.0.1:5432/ordering", "", "Postgres."),
    key("migrate_at_start", Kind::Boolean, "true", "",
        "Whether `all`, `api` and `worker` bring the schema of Postgres up to date before they begin; if not, run `ordering migrate`."),
    key("stop_timeout", duration(Duration::ZERO, secs(600)), "10s", "",
        "How long work in hand may take to end after SIGTERM or Ctrl-C; what has not ended then is delivered again."),
    key("worker_name", Kind::Text, "", "",
        "Names this process in the steps of orders; the host's name and the process id if not set."),
    key("max_deliveries", whole(1, 900), "20", "deliveries",
        "An order whose step was begun so often without coming to an outcome ends `failed`: it kills its workers."),
    key("start_paused", Kind::Stages, "false", "",
        "Which of its stages a worker pauses when it starts, for the morning after an incident: all, none or those named. They stay paused for every worker until somebody resumes them (doc/operations.md)."),
    key("journal", Kind::Choice(&["off", "accepted"]), "off", "",
        "What Postgres keeps of orders in flight: `off` only those of which there is no record otherwise, `accepted` all, so that they are known of even when Redis and RabbitMQ have lost them."),
    key("reconcile_after", duration(secs(1), secs(DAY)), "10m", "",
        "An order that has not moved for so long, while its queue was empty, is published again. Longer than any call of a handler takes."),
    key("events", Kind::Choice(&["on", "off"]), "on", "",
        "Whether what happens to orders is told to those who listen to all orders at once (`GET /v1/events`). It costs Redis a little; webhooks and streams of single orders do without it."),
    key("webhooks.timeout", duration(millis(100), secs(100)), "10s", "",
        "How long a webhook may take to answer."),
    key("webhooks.at_once", whole(1, 1_000), "8", "events",
        "Events under way to one webhook at once; those of one order go one after the other."),
    key("webhooks.retry_base", duration(millis(10), secs(3_600)), "5s", "",
        "The longest wait before an event that a webhook did not take is sent again; each further time doubles it."),
    key("webhooks.retry_cap", duration(millis(10), secs(DAY)), "1h", "",
        "The longest wait before an event is sent again."),
    key("webhooks.give_up_after", duration(secs(1), secs(30 * DAY)), "3d", "",
        "An event that a webhook has not taken for so long is given up."),
    key("log.level", Kind::LogLevel, "info", "",
        "`off`, `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,ordering::worker=debug`."),
    key("log.format", Kind::Choice(&["auto", "pretty", "json"]), "auto", "",
        "How logs are written to stderr; `auto` is `pretty` on a terminal and `json` elsewhere."),
    key("api.body_max", size(KIB, 8 * MIB), "256KiB", "", "The largest body of a request."),
    key("api.requests_max", whole(1, 1_000_000), "4096", "orders",
        "Orders that may wait at once to be held durably; past that they are refused with 503."),
    key("api.backlog_max", whole(1, 1_000_000_000), "1000000", "messages",
        "Messages that may wait to be scheduled (each has up to `batch.orders_max` orders); past that new orders are refused with 503."),
    key("api.request_timeout", duration(secs(1), secs(600)), "10s", "",
        "How long a client may take to send the head of a request, and its body."),
    key("api.connections_max", whole(1, 1_000_000), "4096", "connections", "Connections open at once."),
    key("api.threads", whole(0, 1024), "0", "threads", "Threads that serve HTTP; 0 for one per core."),
    key("api.event_streams_max", whole(0, 100_000), "512", "streams",
        "Streams of events open at once; past that further ones are refused with 503."),
    key("api.event_heartbeat", duration(millis(100), secs(300)), "15s", "",
        "How often a stream of events says that it is alive when it has nothing else to say."),
    key("batch.orders_max", whole(1, 256), "256", "orders", "The most orders in one message."),
    key("batch.bytes_max", size(KIB, 8 * MIB), "256KiB", "",
        "The largest message; an order larger than that travels alone."),
    key("stages.<stage>.handler", Kind::Choice(&["none", "simulated", "http"]), "none", "",
        "What is done at the stage: `none` passes every order on, `simulated` waits and fails at random, `http` calls a service (doc/handlers.md)."),
    key("stages.<stage>.delay", duration(Duration::ZERO, secs(300)), "0s", "",
        "How long the simulated handler takes for an order."),
    key("stages.<stage>.failure_rate", Kind::Fraction, "0.0", "",
        "The share of orders that the simulated handler rejects: 0 none, 1 all."),
    key("stages.<stage>.url", Kind::HttpUrl, "", "",
        "The service that the http handler calls for each order."),
    key("stages.<stage>.timeout", duration(millis(100), secs(100)), "10s", "",
        "How long a call of the http handler may take, from connecting to the last byte of the answer."),
    key("stages.<stage>.headers", Kind::Headers, "", "",
        "Headers that the http handler sends with each call, such as `Authorization: Bearer TOKEN`."),
    key("stages.<stage>.signing_secret", Kind::SigningSecrets, "", "",
        "What the http handler signs its calls with (Standard Webhooks): `whsec_` and 24 to 64 random bytes in base64. With several, each signs."),
    key("stages.<stage>.calls_per_second", whole(0, 1_000_000), "0", "calls",
        "The most calls of the http handler in a second, for each worker; 0 for no limit."),
    key("stages.<stage>.breaker_failures", whole(0, 100_000), "5", "calls",
        "Calls of the http handler in a row without an answer, or with one of 500 to 599, after which calls pause and orders wait in the queue; 0 for never."),
    key("stages.<stage>.breaker_pause_base", duration(millis(100), secs(900)), "1s", "",
        "How long calls pause first; then one is made, and if it fails too the next pause is twice as long."),
    key("stages.<stage>.breaker_pause_cap", duration(millis(100), secs(900)), "30s", "",
        "The longest pause."),
    key("stages.<stage>.at_once", whole(1, 100_000), "1000", "orders", "Orders in the hands of the handler at once, for each worker."),
    key("stages.<stage>.batch_max", whole(0, 256), "0", "orders",
        "The most orders in one message to the stage, `batch.orders_max` at most; 0 for 1 where the handler is `http`, and for `batch.orders_max` elsewhere. Goes for what this process publishes: give it to all."),
    key("stages.<stage>.prefetch", whole(0, 10_000), "0", "messages",
        "Messages that a worker holds at once, each with up to `batch_max` orders; 0 for 64, and where the handler is `http` for as many as hold twice `at_once` orders."),
    key("stages.<stage>.attempts_max", whole(1, 100), "5", "attempts",
        "Calls of the handler for an order in all, before the order fails. Calls that find a service down for every order are not counted."),
    key("stages.<stage>.backoff_base", duration(Duration::ZERO, secs(900)), "1s", "",
        "The longest wait before the second attempt; each further one doubles it."),
    key("stages.<stage>.backoff_cap", duration(Duration::ZERO, secs(900)), "15m", "",
        "The longest wait before any attempt."),
    key("rabbitmq.confirm_deadline", duration(millis(50), secs(60)), "1s", "",
        "How long to wait for RabbitMQ to confirm a message before its fate counts as unknown."),
    key("rabbitmq.heartbeat", duration(secs(2), secs(60)), "10s", "",
        "A peer that is silent for twice as long counts as gone; in whole seconds."),
    key("rabbitmq.connect_timeout", duration(millis(100), secs(60)), "5s", "", "How long connecting to one node may take."),
    key("redis.timeout", duration(millis(10), secs(30)), "500ms", "", "How long a command may take."),
    key("redis.connections", whole(1, 64), "4", "connections", "Connections of one process, beside one for events."),
    key("redis.in_flight_ttl", duration(secs(60), secs(365 * DAY)), "30d", "",
        "How long the record of an order is kept after its last step while it has not ended."),
    key("redis.ended_ttl", duration(secs(1), secs(30 * DAY)), "60s", "",
        "How long the record of an ended order is kept; after that the archive answers."),
    key("postgres.pool_max", whole(1, 1_000), "8", "connections", "Connections of one process, beside three for orders that are being taken."),
    key("postgres.connect_timeout", duration(millis(100), secs(60)), "2s", "", "How long connecting may take."),
    key("postgres.statement_timeout", duration(millis(100), secs(600)), "5s", "", "How long a statement may take."),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_settings_share_a_name_or_a_variable() {
        let mut names = HashSet::new();
        let mut variables = HashSet::new();
        for (name, _) in all() {
            assert!(variables.insert(variable(&name)), "{name}");
            assert!(names.insert(name));
        }
    }

    #[test]
    fn every_default_is_a_legal_value() {
        for (name, key) in all() {
            let shown = key.kind.read_text(key.default).expect(&name).to_string();
            let again = key.kind.read_text(&shown).expect(&name).to_string();
            assert_eq!(again, shown, "{name}");
        }
    }

    #[test]
    fn a_stage_is_found_in_both_spellings() {
        assert_eq!(canonical("stages.pre_processing.delay"), "stages.pre-processing.delay");
        assert_eq!(canonical("stages.packing.delay"), "stages.packing.delay");
        assert_eq!(variable("stages.pre-processing.delay"), "ORDERING_STAGES_PRE_PROCESSING_DELAY");
    }
}

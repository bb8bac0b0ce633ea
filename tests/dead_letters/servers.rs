//! Dead letters of real servers: from RabbitMQ's queues to Postgres, and back.

use std::time::{Duration, Instant};

use amqprs::BasicProperties;
use amqprs::channel::{BasicPublishArguments, QueueDeclareArguments};
use amqprs::connection::{Connection, OpenConnectionArguments};
use ordering::adapters::rabbitmq::parse_url;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{closed_port, namespace, server_url};
use crate::system::{System, http};
use crate::{Asked, DEADLINE, id, ids, problem};

/// The program on real servers, under a name of the test's own.
struct Servers {
    namespace: String,
    urls: [String; 3],
}

impl Servers {
    /// `None` where there are no servers and none were promised.
    fn find() -> Option<Servers> {
        let amqp = server_url("ORDERING_AMQP_URLS")?;
        let urls = [amqp, server_url("ORDERING_REDIS_URL")?, server_url("ORDERING_POSTGRES_URL")?];
        Some(Servers { namespace: namespace(), urls })
    }

    fn args<'a>(&'a self, role: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let [amqp, redis, postgres] = &self.urls;
        let args = [role, "--backend", "servers", "--namespace", &self.namespace, "--amqp-urls", amqp, "--redis-url"];
        [&args[..], &[redis, "--postgres-url", postgres], more].concat()
    }

    /// Puts bytes into a queue, as soon as there is one.
    async fn publish(&self, queue: &str, bytes: &[u8]) {
        let address = parse_url(self.urls[0].split(',').next().unwrap().trim()).unwrap();
        let arguments = OpenConnectionArguments::new(&address.host, address.port, &address.user, &address.password)
            .virtual_host(&address.virtual_host)
            .finish();
        let connection = Connection::open(&arguments).await.unwrap();
        let queue = format!("{}.{queue}", self.namespace);
        let end = Instant::now() + DEADLINE;
        let channel = loop {
            // Asking for a queue that is not there closes the channel.
            let channel = connection.open_channel(None).await.unwrap();
            let declaration = QueueDeclareArguments::new(&queue).passive(true).finish();
            if channel.queue_declare(declaration).await.is_ok() {
                break channel;
            }
            assert!(Instant::now() < end, "there is no queue {queue}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        channel
            .basic_publish(BasicProperties::default(), bytes.to_vec(), BasicPublishArguments::new("", &queue))
            .await
            .unwrap();
        // Closing waits for the broker, so that it has what came before.
        channel.close().await.unwrap();
        connection.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_garbage_in_a_queue_is_listed_replayed_and_dropped_and_a_newer_message_waits() {
    let Some(servers) = Servers::find() else { return };
    let api = System::start(&servers.args("api", &[]));
    let stages = ["--stage", "scheduling", "--stage", "processing"];
    let worker = System::start_command({
        let mut command = crate::system::ordering();
        command.args(servers.args("worker", &stages)).args(["--health-listen", "127.0.0.1:0"]);
        command
    });
    let asked = Asked::at(&api.url);
    is_connected(&asked).await;
    servers.publish("scheduling", b"{\"v\":999,\"orders\":[]}").await;
    servers.publish("scheduling", b"\x00\xff not ours").await;
    servers.publish("processing", b"{\"v\":1,").await;
    let letters = asked.letters_when("two are given up", |letters| letters.len() >= 2).await;
    let of = |queue: &str| letters.iter().find(|letter| letter["queue"] == queue).unwrap().clone();
    assert_eq!(letters.len(), 2, "{letters:#?}");
    let (first, torn) = (of("scheduling"), of("processing"));
    assert_eq!(first["reason"], "it is no JSON, at line 1 column 1");
    assert_eq!(torn["reason"], "it ends too early, at line 1 column 7");
    let shown = asked.done(Method::GET, &format!("/v1/dead-letters/{}", id(&first))).await;
    assert_eq!((&shown["base64"], &shown["text"]), (&json!("AP8gbm90IG91cnM="), &Value::Null));
    assert_eq!(asked.letters("?queue=processing").await, std::slice::from_ref(&torn));

    let replayed = asked.done(Method::POST, &format!("/v1/dead-letters/{}/replay", id(&first))).await;
    assert_eq!(replayed, json!({"replayed": 1}));
    let again = |letters: &[Value]| letters.len() == 2 && !ids(letters).contains(&id(&first));
    let letters = asked.letters_when("it is given up again", again).await;
    let second = letters.iter().find(|letter| letter["queue"] == "scheduling").unwrap();
    assert_eq!(second["size_bytes"], first["size_bytes"]);
    let replayed = asked.done(Method::POST, "/v1/dead-letters/replay?all=true").await;
    assert_eq!(replayed, json!({"replayed": 2, "cursor": null}));
    let before = ids(&letters);
    let again = |letters: &[Value]| letters.len() == 2 && ids(letters).iter().all(|id| !before.contains(id));
    let letters = asked.letters_when("both are given up again", again).await;

    for letter in &letters {
        asked.done(Method::DELETE, &format!("/v1/dead-letters/{}", id(letter))).await;
    }
    assert_eq!(asked.letters("").await, Vec::<Value>::new());

    // Processes that take no orders have nothing to say about them.
    problem(asked_worker(&worker.url).await, 404, "no-such-path").await;
}

/// Waits until nothing is out of reach, the tables of a first start included. Orders are taken before that.
async fn is_connected(asked: &Asked) {
    let end = Instant::now() + DEADLINE;
    loop {
        let readiness: Value = asked.ask(Method::GET, "/readyz").await.json().await.unwrap();
        let is_up = readiness["parts"].as_array().unwrap().iter().all(|part| part["status"] == "up");
        if is_up && asked.ask(Method::GET, "/v1/dead-letters").await.status() == 200 {
            return;
        }
        assert!(Instant::now() < end, "{readiness}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn asked_worker(url: &str) -> reqwest::Response {
    http().get(format!("{url}/v1/dead-letters")).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_the_answer_is_come_back_later() {
    // Nobody listens at any of them.
    let port = closed_port();
    let (amqp, redis) = (format!("amqp://a:b@127.0.0.1:{port}"), format!("redis://127.0.0.1:{port}"));
    let servers = Servers { namespace: namespace(), urls: [amqp, redis, format!("postgres://a:b@127.0.0.1:{port}/c")] };
    let api = System::start(&servers.args("api", &[]));
    let asked = Asked::at(&api.url);
    let one = "/v1/dead-letters/0193f0a1-7c3e-7b11-8f00-0123456789ab";
    let replay = format!("{one}/replay");
    for (method, path) in [
        (Method::GET, "/v1/dead-letters"),
        (Method::GET, one),
        (Method::DELETE, one),
        (Method::POST, replay.as_str()),
        (Method::POST, "/v1/dead-letters/replay?all=true"),
        (Method::DELETE, "/v1/dead-letters?queue=ending"),
    ] {
        let answer = problem(asked.ask(method, path).await, 503, "out-of-reach").await;
        assert!(answer["detail"].as_str().unwrap().contains("Postgres"), "{answer}");
    }
}

//! Three nodes of which one is killed. Not for every run: it needs a cluster of its own, and kills nodes that others use.
//!
//! ```text
//! export ORDERING_SERVERS_DIR=/tmp/cluster
//! scripts/servers start rabbitmq rabbitmq-2 rabbitmq-3 && eval "$(scripts/servers env rabbitmq)"
//! cargo test --test rabbitmq cluster -- --ignored
//! ```

use std::path::Path;
use std::process::Command;

use super::*;

/// A node that is down until this is dropped.
struct Killed(&'static str);

impl Killed {
    fn now(node: &'static str) -> Killed {
        servers(&["kill", node]);
        Killed(node)
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        servers(&["start", self.0]);
    }
}

fn servers(args: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/servers");
    let output = Command::new(script).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whichever node leads the queue, and whichever the connections are to: while it stays down, orders are taken and
/// delivered again, and none that was confirmed is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "kills the nodes of a cluster of three"]
async fn while_a_node_is_down_the_others_take_and_deliver_and_no_queue_counts_as_lost() {
    const SOON: Duration = Duration::from_secs(20);
    let broker = Broker::find().expect("a cluster");
    let urls: Vec<String> = std::env::var("ORDERING_AMQP_URLS").unwrap().split(',').map(str::to_owned).collect();
    assert_eq!(urls.len(), 3, "{urls:?}");
    let options = RabbitOptions { urls, confirm_deadline: Duration::from_secs(1), ..broker.options() };
    let queues = Arc::new(up(RabbitQueues::start(options)).await);
    let mut subscription = queues.subscribe(FROM_SCHEDULING, 100);
    queues.take_losses();
    let mut missing: HashSet<OrderId> = HashSet::new();
    for node in ["rabbitmq", "rabbitmq-2", "rabbitmq-3", "rabbitmq"] {
        // Under way while the node dies, at a speed at which the first publishes of a new connection come at once.
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let publishers: Vec<_> = (0..4)
            .map(|_| {
                let (queues, stop) = (queues.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut confirmed = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let order = order();
                        match queues.publish(SCHEDULING, std::slice::from_ref(&order)).await {
                            Ok(()) => confirmed.push(order.id),
                            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                        }
                    }
                    confirmed
                })
            })
            .collect();
        let killed = tokio::task::spawn_blocking(move || Killed::now(node)).await.unwrap();
        let killed_at = Instant::now();
        // Each of the calls before may have been refused with the connection: these come after it.
        for _ in 0..20 {
            eventually("an order is taken", || async {
                assert!(killed_at.elapsed() < SOON, "{node} is down, and nothing is taken");
                let order = order();
                queues.publish(SCHEDULING, std::slice::from_ref(&order)).await.ok()
            })
            .await;
        }
        println!("without {node}: orders are taken after {:?}", killed_at.elapsed());
        eventually("what waits is counted", async || queues.waiting(FROM_SCHEDULING).await.ok()).await;
        stop.store(true, Ordering::Relaxed);
        for publisher in publishers {
            missing.extend(publisher.await.unwrap());
        }
        while !missing.is_empty() {
            let delivery = next(&mut subscription).await;
            for id in ids(&delivery) {
                missing.remove(&id);
            }
            subscription.settle.ack(delivery.receipt);
        }
        tokio::task::spawn_blocking(move || drop(killed)).await.unwrap();
        assert_eq!(queues.take_losses(), [], "without {node}");
    }
    queues.close().await;
    broker.clean().await;
}

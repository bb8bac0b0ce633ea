//! The network between the program and its servers: every connection goes through a proxy, which can be told to fail.

use std::time::Duration;

use super::proxy::Proxy;
use super::servers::{EVERY, Servers};

/// Who connects: each api by itself, and the workers in two groups, of which each has one of every stage.
pub const SIDES: usize = 4;

/// A proxy for every side and server.
pub struct Network {
    /// By side, then in the order of [`EVERY`].
    proxies: Vec<Vec<Proxy>>,
}

/// A way in which connections fail.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    Cut,
    BlackHole,
    Slow,
    MidFrame,
}

/// Connections that are cut, or closed in mid-frame, come back; so they are struck again and again.
const AGAIN: Duration = Duration::from_millis(400);

impl Network {
    pub async fn start(servers: &Servers) -> Network {
        let mut proxies = Vec::new();
        for _ in 0..SIDES {
            let mut side = Vec::new();
            for n in 0..EVERY.len() {
                side.push(Proxy::start(servers.address(n)).await);
            }
            proxies.push(side);
        }
        Network { proxies }
    }

    /// `--amqp-urls`, `--redis-url` and `--postgres-url` of a side.
    pub fn arguments(&self, side: usize) -> Vec<String> {
        let address = |n: usize| self.proxies[side][n].addr();
        let amqp: Vec<String> = (0..3).map(|n| format!("amqp://guest:guest@{}", address(n))).collect();
        let postgres =
            format!("postgres://ordering@{},{}/ordering?target_session_attrs=read-write", address(4), address(5));
        ["--amqp-urls", &amqp.join(","), "--redis-url", &format!("redis://{}", address(3)), "--postgres-url", &postgres]
            .map(str::to_owned)
            .to_vec()
    }

    /// Lets the connections of one side, or of all of them, to a server fail for a while.
    pub async fn fail(&self, failure: Failure, side: Option<usize>, server: usize, lasts: Duration) {
        let sides = side.map_or(0..SIDES, |side| side..side + 1);
        let proxies: Vec<&Proxy> = sides.map(|side| &self.proxies[side][server]).collect();
        match failure {
            Failure::Cut | Failure::MidFrame => {
                let end = tokio::time::Instant::now() + lasts;
                while tokio::time::Instant::now() < end {
                    for proxy in &proxies {
                        if matches!(failure, Failure::Cut) { proxy.cut() } else { proxy.close_in_mid_frame() }
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
            Failure::BlackHole => {
                proxies.iter().for_each(|proxy| proxy.freeze());
                tokio::time::sleep(lasts).await;
                proxies.iter().for_each(|proxy| proxy.resume());
            }
            Failure::Slow => {
                // Between the patience for Redis, half a second, and what nobody would notice.
                proxies.iter().for_each(|proxy| proxy.slow(Duration::from_millis(150)));
                tokio::time::sleep(lasts).await;
                proxies.iter().for_each(|proxy| proxy.slow(Duration::ZERO));
            }
        }
    }
}

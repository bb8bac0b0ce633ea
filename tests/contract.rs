//! What the ports promise, tested against every adapter that stands behind them.
//!
//! The suites (`contract/queues.rs`, `in_flight.rs`, `claims.rs`, `scan.rs`, `archive.rs`, `cancellations.rs`, `journal.rs`, `leases.rs`,
//! `pauses.rs`, `dead_letters.rs`, `feed.rs`, `webhooks.rs`) know only the traits. An adapter takes part with a function that makes a subject, or says `None`
//! if the servers it needs are not there, and one line:
//!
//! ```ignore
//! mod embedded {
//!     mod in_flight {
//!         crate::contract::in_flight::suite!(super::subject);
//!     }
//! }
//! ```
//!
//! Servers are found through `ORDERING_REDIS_URL`, `ORDERING_POSTGRES_URL` and `ORDERING_AMQP_URLS`; see
//! `scripts/servers`. Without them their tests are skipped, unless `ORDERING_TEST_SERVERS=1` promises them.

#[path = "support/folder.rs"]
mod folder;
#[path = "support/proxy.rs"]
mod proxy;
mod support;

mod contract {
    /// Makes a test of each named function of the suite `$of`, run on what `$subject` makes.
    macro_rules! tests_of {
        ($of:ident, $subject:path, $($name:ident),* $(,)?) => { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(subject) = $subject().await {
                    crate::contract::$of::$name(&subject).await;
                }
            }
        )* };
    }
    pub(crate) use tests_of;

    pub mod archive;
    pub mod cancellations;
    pub mod claims;
    pub mod dead_letters;
    mod embedded;
    pub mod feed;
    pub mod in_flight;
    pub mod journal;
    pub mod leases;
    pub mod pauses;
    pub mod queues;
    pub mod scan;
    pub mod webhooks;

    mod postgres;
    mod postgres_failover;
    mod postgres_stores;
    mod rabbitmq;
    mod redis;
    mod redis_feed;
}

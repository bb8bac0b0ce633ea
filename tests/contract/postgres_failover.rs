//! A primary that is lost and a standby that takes over: what was confirmed is there, and the next calls reach it.

use std::time::{Duration, Instant};

use ordering::adapters::postgres::{PostgresOptions, PostgresStores};
use ordering::domain::OrderRecord;
use ordering::ports::{Archive, Claim, Journal, Leases, Purpose};
use tokio_postgres::NoTls;

use super::postgres::URL;
use crate::folder::Folder;
use crate::support::{completed, eventually, namespace, order, orders, server_url};

/// What [`Journal::note`] may take at most.
const NOTE_MAX: Duration = Duration::from_secs(2);

/// Lets commits wait for the standby.
async fn require_standby(url: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let follows = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
    eventually(async || client.query(follows, &[]).await.unwrap().len() == 1).await;
}

/// A primary and its synchronous standby, and the stores in them.
struct Pair {
    servers: Folder,
    stores: PostgresStores,
    /// In the archive, and in the journal.
    archived: Vec<OrderRecord>,
    noted: Vec<OrderRecord>,
}

impl Pair {
    async fn start() -> Option<Pair> {
        server_url(URL)?;
        let servers = Folder::start(&["postgres", "postgres-2"]);
        let url = servers.url(URL);
        require_standby(&url).await;
        assert!(url.contains("target_session_attrs=read-write"), "{url}");
        let stores = PostgresStores::start(PostgresOptions::new(url, namespace())).unwrap();
        stores.archive.migrate().await.unwrap();
        let (archived, noted) = (orders(20).iter().map(completed).collect(), orders(20));
        let pair = Pair { servers, stores, archived, noted };
        pair.stores.archive.archive(&pair.archived).await.unwrap();
        // Each call a connection of its own: all of them will lead to what was the primary.
        let notes = pair.noted.chunks(5).map(|part| pair.stores.journal.note(part, Purpose::Publish));
        for claims in futures_util::future::join_all(notes).await {
            assert_eq!(claims.unwrap(), [Claim::New; 5]);
        }
        let finds = pair.archived.iter().map(|order| pair.stores.archive.find(order.id));
        futures_util::future::join_all(finds).await.into_iter().for_each(|found| assert!(found.is_ok()));
        Some(pair)
    }

    /// Tries until the standby answers, and finds all that was confirmed.
    async fn goes_on(&self) {
        let (order, journal) = (order(), &self.stores.journal);
        let mut claims = Vec::new();
        eventually(async || {
            let started = Instant::now();
            let noted = journal.note(std::slice::from_ref(&order), Purpose::Publish).await;
            assert!(started.elapsed() < NOTE_MAX, "{:?}", started.elapsed());
            claims = noted.unwrap_or_default();
            !claims.is_empty()
        })
        .await;
        assert_eq!(claims, [Claim::New]);
        eventually(async || self.stores.archive.archive(&[completed(&order)]).await.is_ok()).await;
        for archived in &self.archived {
            assert_eq!(self.stores.archive.find(archived.id).await.unwrap().as_ref(), Some(archived));
        }
        let ids: Vec<_> = self.noted.iter().map(|order| order.id).collect();
        let found = journal.find_all(&ids).await.unwrap();
        assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), self.noted);
        assert_eq!(journal.waiting().await.unwrap(), 21);
        assert!(self.stores.leases.acquire("drainer", "one", Duration::from_secs(60)).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_primary_is_killed_the_standby_that_is_promoted_is_used() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    assert_eq!(pair.stores.archive.durability_warning().await.unwrap(), None);
    pair.servers.run("kill", &["postgres"]);
    assert!(pair.stores.journal.note(&[order()], Purpose::Publish).await.is_err());
    // A standby answers, but takes no writes.
    assert!(pair.stores.archive.check().await.is_err());
    pair.servers.run("promote", &["postgres-2"]);
    pair.goes_on().await;
    let warning = pair.stores.archive.durability_warning().await.unwrap().expect("a warning");
    assert!(warning.contains("no synchronous standby"), "{warning}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_primary_is_frozen_the_standby_that_is_promoted_is_used() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    pair.servers.run("pause", &["postgres"]);
    let started = Instant::now();
    let notes = orders(8).into_iter().map(|order| {
        let journal = pair.stores.journal.clone();
        async move { journal.note(&[order], Purpose::Publish).await.is_err() }
    });
    let failed = futures_util::future::join_all(notes).await;
    assert!(started.elapsed() < NOTE_MAX, "{:?}", started.elapsed());
    assert_eq!(failed, [true; 8]);
    pair.servers.run("promote", &["postgres-2"]);
    // It stays before the standby in the list of hosts, and its kernel still takes connections.
    pair.goes_on().await;
}

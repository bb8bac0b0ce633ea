//! Journal, leases, dead letters, webhooks and paused stages in Postgres: the suites, and what only Postgres can get wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ordering::adapters::postgres::{PostgresOptions, PostgresStores};
use ordering::ports::{Archive, Claim, Journal, Leases, Purpose};
use tokio_postgres::NoTls;

use super::postgres::Schema;
use crate::proxy::Proxy;
use crate::support::{accepted, closed_port, completed, eventually, namespace, order, orders};

/// What [`Journal::note`] may take at most.
const NOTE_MAX: Duration = Duration::from_secs(2);

/// Stores in a schema of their own, in the Postgres of the environment.
async fn stores() -> Option<(Schema, PostgresStores)> {
    let schema = Schema::new().await?;
    schema.archive().migrate().await.unwrap();
    let stores = PostgresStores::start(schema.options()).unwrap();
    Some((schema, stores))
}

mod journal {
    use crate::contract::journal::{Subject, suite};

    async fn subject() -> Option<Subject> {
        let (schema, stores) = super::stores().await?;
        Some(Subject { journal: stores.journal, archive: stores.archive, holds: Box::new(schema) })
    }

    suite!(subject);
}

mod cancellations {
    use crate::contract::cancellations::{Subject, suite};

    async fn subject() -> Option<Subject> {
        let (schema, stores) = super::stores().await?;
        Some(Subject { cancellations: stores.cancellations, holds: Box::new(schema) })
    }

    suite!(subject);
}

mod leases {
    use crate::contract::leases::{Subject, suite};

    async fn subject() -> Option<Subject> {
        let (schema, stores) = super::stores().await?;
        Some(Subject { leases: stores.leases, holds: Box::new(schema) })
    }

    suite!(subject);
}

mod pauses {
    use crate::contract::pauses::{Subject, suite};

    async fn subject() -> Option<Subject> {
        let (schema, stores) = super::stores().await?;
        Some(Subject { pauses: stores.pauses, holds: Box::new(schema) })
    }

    suite!(subject);
}

mod dead_letters {
    use crate::contract::dead_letters::{Subject, suite};

    async fn subject() -> Option<Subject> {
        let (schema, stores) = super::stores().await?;
        Some(Subject { dead_letters: stores.dead_letters, holds: Box::new(schema) })
    }

    suite!(subject);
}

mod webhooks {
    use crate::contract::webhooks::{Subject, suite};

    async fn subject() -> Option<Subject> {
        let (schema, stores) = super::stores().await?;
        Some(Subject { webhooks: stores.webhooks, holds: Box::new(schema) })
    }

    suite!(subject);
}

/// `127.0.0.1:5432` of a URL, and the URL with `instead` in its place.
fn with_address(url: &str, instead: &str) -> (String, String) {
    let start = url.find('@').expect("a user") + 1;
    let end = start + url[start..].find('/').expect("a database");
    (url[start..end].to_owned(), format!("{}{instead}{}", &url[..start], &url[end..]))
}

/// Stores as an installation has them, behind a proxy.
async fn stores_behind_a_proxy(schema: &Schema) -> (Proxy, PostgresStores) {
    schema.archive().migrate().await.unwrap();
    let (upstream, _) = with_address(&schema.url, "");
    let proxy = Proxy::start(&upstream).await;
    let (_, url) = with_address(&schema.url, &proxy.addr().to_string());
    (proxy, PostgresStores::start(PostgresOptions::new(url, &schema.name)).unwrap())
}

/// Puts orders in from eight customers at once, in vain; none of them waits for longer than it may.
async fn all_notes_fail_in_time(stores: &PostgresStores) {
    let notes = orders(8).into_iter().map(|order| {
        let journal = stores.journal.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            let claims = journal.note(&[order], Purpose::Publish).await;
            (claims, started.elapsed())
        })
    });
    for note in notes.collect::<Vec<_>>() {
        let (claims, elapsed) = note.await.unwrap();
        assert!(claims.is_err() && elapsed < NOTE_MAX, "{claims:?} after {elapsed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_postgres_holds_a_customer_for_two_seconds_at_most_and_the_next_ones_not_at_all() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let (proxy, stores) = stores_behind_a_proxy(&schema).await;
    let order = order();
    eventually(async || stores.journal.note(std::slice::from_ref(&order), Purpose::Publish).await.is_ok()).await;
    stores.journal.takes().unwrap();

    // The first time with connections, the second time without.
    for _ in 0..2 {
        proxy.freeze();
        all_notes_fail_in_time(&stores).await;
        let started = Instant::now();
        assert!(stores.journal.takes().is_err());
        assert!(stores.journal.note(std::slice::from_ref(&order), Purpose::Publish).await.is_err());
        assert!(stores.archive.check().await.is_err());
        assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
        // Nothing but the journal is asked, and only when it says that it takes something.
        proxy.resume();
        let mut claims = Vec::new();
        eventually(async || {
            if stores.journal.takes().is_ok()
                && let Ok(noted) = stores.journal.note(std::slice::from_ref(&order), Purpose::Publish).await
            {
                claims = noted;
            }
            !claims.is_empty()
        })
        .await;
        assert_eq!(claims, [Claim::Same { is_under_way: false }]);
        proxy.cut();
        eventually(async || stores.archive.check().await.is_ok() && stores.journal.waiting().await.is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_host_does_not_stand_before_the_one_that_took_over() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    schema.archive().migrate().await.unwrap();
    // It takes connections and never says a word.
    let frozen = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (real, _) = with_address(&schema.url, "");
    let both = format!("{},{real}", frozen.local_addr().unwrap());
    let (_, url) = with_address(&schema.url, &both);
    let stores = PostgresStores::start(PostgresOptions::new(url, &schema.name)).unwrap();
    let claims = stores.journal.note(&[order()], Purpose::Publish).await.unwrap();
    assert_eq!(claims, [Claim::New]);
    stores.archive.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_archive_uses_all_its_connections_no_customer_waits() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    schema.archive().migrate().await.unwrap();
    let options = PostgresOptions { pool_max: 1, ..schema.options() };
    let stores = PostgresStores::start(options).unwrap();
    // Dropped before the schema is, which would wait for it.
    let (locker, connection) = tokio_postgres::connect(&schema.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    locker.batch_execute(&format!("BEGIN; LOCK TABLE \"{}\".archive", schema.name)).await.unwrap();
    let archive: Arc<dyn Archive> = stores.archive.clone();
    let archiving = tokio::spawn(async move { archive.archive(&[completed(&order())]).await });
    let waiting = "SELECT count(*)::text FROM pg_locks WHERE relation = '{schema}.archive'::regclass AND NOT granted";
    eventually(async || schema.value(waiting).await.as_deref() == Some("1")).await;

    assert_eq!(stores.journal.note(&[order()], Purpose::Publish).await.unwrap(), [Claim::New]);
    assert!(!archiving.is_finished());
    locker.batch_execute("ROLLBACK").await.unwrap();
    archiving.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_one_store_learns_of_postgres_all_know() {
    let url = format!("postgres://u:secret@127.0.0.1:{}/db", closed_port());
    let stores = PostgresStores::start(PostgresOptions::new(url, namespace())).unwrap();
    stores.journal.takes().unwrap();
    assert!(stores.archive.check().await.is_err());
    let error = stores.journal.takes().unwrap_err();
    assert!(error.part == "Postgres" && !error.to_string().contains("secret"), "{error}");
    assert!(stores.leases.acquire("drainer", "one", Duration::from_secs(1)).await.is_err());
}

#[tokio::test]
async fn without_its_schema_the_journal_names_the_remedy() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let stores = PostgresStores::start(schema.options()).unwrap();
    let error = stores.journal.note(&[order()], Purpose::Know).await.unwrap_err();
    assert!(error.to_string().contains("ordering migrate"), "{error}");
    // Postgres is there all the same.
    stores.journal.takes().unwrap();
}

#[tokio::test]
async fn an_order_in_the_journal_can_be_searched_for() {
    let Some((schema, stores)) = stores().await else {
        return;
    };
    stores.journal.note(&[accepted("{\"a\":1}")], Purpose::Publish).await.unwrap();
    for (column, expected) in [
        ("customer_id", Some("Kund*in \"№ 5\" \\ 注文 🦀")),
        ("reference", Some("ре́ф/{}%_'")),
        ("currency", Some("EUR")),
        ("total", Some("15.4000")),
        ("passage::text", Some("1")),
        ("content #>> '{metadata,a}'", Some("1")),
        ("steps::text", None),
    ] {
        let sql = format!("SELECT {column} FROM {{schema}}.journal");
        assert_eq!(schema.value(&sql).await.as_deref(), expected, "{column}");
    }
}

#[tokio::test]
async fn a_postgres_that_stands_alone_is_warned_of() {
    let Some((schema, stores)) = stores().await else {
        return;
    };
    let warning = stores.archive.durability_warning().await.unwrap().expect("a warning");
    assert!(warning.contains("no synchronous standby"), "{warning}");

    let separator = if schema.url.contains('?') { '&' } else { '?' };
    let url = format!("{}{separator}options=-c%20synchronous_commit%3Doff", schema.url);
    let stores = PostgresStores::start(PostgresOptions { url, ..schema.options() }).unwrap();
    let warning = stores.archive.durability_warning().await.unwrap().expect("a warning");
    assert!(warning.contains("synchronous_commit is off"), "{warning}");
}

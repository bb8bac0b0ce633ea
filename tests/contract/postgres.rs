//! The archive in Postgres: the suite, and what only Postgres can get wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ordering::adapters::postgres::{PostgresArchive, PostgresOptions};
use ordering::domain::OrderRecord;
use ordering::ports::{Archive, Archived};
use tokio_postgres::{Client, NoTls};

use super::archive::Subject;
use crate::support::{accepted, closed_port, completed, eventually, failed, namespace, order, orders, server_url};

pub const URL: &str = "ORDERING_POSTGRES_URL";

super::archive::suite!(super::postgres::subject);

/// An archive in a schema of its own, in the Postgres of the environment.
pub async fn subject() -> Option<Subject> {
    let schema = Schema::new().await?;
    let archive = schema.archive();
    archive.migrate().await.unwrap();
    Some(Subject { archive: Arc::new(archive), holds: Box::new(schema) })
}

/// A schema that goes with this value, and a look into it.
pub struct Schema {
    pub url: String,
    pub name: String,
    pub client: Client,
}

impl Schema {
    pub async fn new() -> Option<Schema> {
        let url = server_url(URL)?;
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        Some(Schema { url, name: namespace(), client })
    }

    pub fn options(&self) -> PostgresOptions {
        PostgresOptions {
            // Many tests share one server.
            pool_max: 4,
            // And two cores: a slow answer is no failure here.
            wait_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(20),
            statement_timeout: Duration::from_secs(20),
            note_timeout: Duration::from_secs(20),
            ..PostgresOptions::new(&self.url, &self.name)
        }
    }

    pub fn archive(&self) -> PostgresArchive {
        PostgresArchive::start(self.options()).unwrap()
    }

    /// An archive whose only connection can be told by its application's name, which is the schema's.
    async fn archive_with_one_connection(&self) -> PostgresArchive {
        self.archive().migrate().await.unwrap();
        let options =
            PostgresOptions { url: with_application_name(&self.url, &self.name), pool_max: 1, ..self.options() };
        let archive = PostgresArchive::start(options).unwrap();
        archive.check().await.unwrap();
        archive
    }

    /// Has Postgres refuse to insert into the archive with this SQLSTATE when `condition` holds.
    async fn refuse_inserts(&self, condition: &str, code: &str) {
        let sql = "
            CREATE FUNCTION {schema}.refuse_{code}() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF {condition} THEN RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER refuse_{code} BEFORE INSERT ON {schema}.archive FOR EACH ROW
            EXECUTE FUNCTION {schema}.refuse_{code}();";
        let sql = sql
            .replace("{schema}", &format!("\"{}\"", self.name))
            .replace("{condition}", condition)
            .replace("{code}", code);
        self.client.batch_execute(&sql).await.unwrap();
    }

    /// The one value that `sql` asks for, `{schema}` in it replaced.
    pub async fn value(&self, sql: &str) -> Option<String> {
        let sql = sql.replace("{schema}", &format!("\"{}\"", self.name));
        self.client.query_one(&sql, &[]).await.unwrap().get(0)
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        // A test's runtime may be on its way down: this one is its own.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
                    tokio::spawn(connection);
                    let sql = format!("DROP SCHEMA IF EXISTS \"{name}\" CASCADE");
                    let _ = client.batch_execute(&sql).await;
                }
            });
        });
        let _ = dropped.join();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_processes_that_migrate_a_new_schema_at_once_all_succeed() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let mut tasks = Vec::new();
    for _ in 0..10 {
        let archive = schema.archive();
        tasks.push(tokio::spawn(async move { archive.migrate().await }));
    }
    let mut applied = Vec::new();
    for task in tasks {
        applied.extend(task.await.unwrap().unwrap());
    }
    assert_eq!(
        applied,
        [
            "V1__archive",
            "V2__journal",
            "V3__leases",
            "V4__dead_letters",
            "V5__paused_stages",
            "V6__whole_life",
            "V7__webhooks"
        ]
    );
    let archive = schema.archive();
    assert!(archive.migrate().await.unwrap().is_empty());
    archive.check().await.unwrap();
}

#[tokio::test]
async fn a_schema_name_may_need_quotes() {
    let Some(mut schema) = Schema::new().await else {
        return;
    };
    schema.name = format!("Two words-{}", &schema.name[20..]);
    let archive = schema.archive();
    archive.migrate().await.unwrap();
    let order = completed(&order());
    archive.archive(std::slice::from_ref(&order)).await.unwrap();
    assert_eq!(archive.find(order.id).await.unwrap(), Some(order));
}

#[tokio::test]
async fn a_schema_of_an_older_release_is_not_well() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let archive = schema.archive();
    archive.migrate().await.unwrap();
    archive.check().await.unwrap();
    let history = format!("\"{}\".refinery_schema_history", schema.name);
    let sql = format!("DELETE FROM {history} WHERE version = (SELECT max(version) FROM {history})");
    schema.client.batch_execute(&sql).await.unwrap();
    let error = archive.check().await.unwrap_err();
    assert!(error.to_string().contains("ordering migrate"), "{error}");
}

#[tokio::test]
async fn without_its_schema_the_archive_names_the_remedy() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let archive = schema.archive();
    let error = archive.check().await.unwrap_err();
    assert!(error.to_string().contains("ordering migrate"), "{error}");
    let error = archive.archive(&[completed(&order())]).await.unwrap_err();
    assert!(error.to_string().contains("ordering migrate"), "{error}");

    // It is no loss of the server: as soon as there is a schema, it works.
    archive.migrate().await.unwrap();
    archive.check().await.unwrap();
}

#[tokio::test]
async fn what_an_order_is_searched_for_by_has_columns_of_its_own() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let archive = schema.archive();
    archive.migrate().await.unwrap();
    let mut order = failed(&order(), "no\u{0}stock");
    order.placed_at = ordering::domain::Timestamp::from_millis(1_764_000_000_007);
    archive.archive(std::slice::from_ref(&order)).await.unwrap();
    for (column, expected) in [
        ("customer_id", "Kund*in \"№ 5\" \\ 注文 🦀"),
        ("reference", "ре́ф/{}%_'"),
        ("currency", "EUR"),
        ("total", "15.4000"),
        ("(total::numeric * 2)::text", "30.8000"),
        ("status", "failed"),
        ("failure_stage", "scheduling"),
        ("failure_reason", "no\u{fffd}stock"),
        ("(placed_at AT TIME ZONE 'UTC')::text", "2025-11-24 16:00:00.007"),
        ("passage::text", "1"),
    ] {
        let sql = format!("SELECT {column} FROM {{schema}}.archive");
        assert_eq!(schema.value(&sql).await.as_deref(), Some(expected), "{column}");
    }
    assert_eq!(archive.find(order.id).await.unwrap(), Some(order));
}

#[tokio::test]
async fn large_contents_are_compressed_with_lz4_where_the_server_can() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let archive = schema.archive();
    archive.migrate().await.unwrap();
    let can = schema
        .value("SELECT (enumvals @> ARRAY['lz4'])::text FROM pg_settings WHERE name = 'default_toast_compression'")
        .await;
    if can.as_deref() != Some("true") {
        return;
    }
    let order = completed(&accepted(&format!("{{\"a\":\"{}\"}}", "ab".repeat(5_000))));
    archive.archive(&[order]).await.unwrap();
    let compression = schema.value("SELECT pg_column_compression(content) FROM {schema}.archive").await;
    assert_eq!(compression.as_deref(), Some("lz4"));
}

#[tokio::test]
async fn one_order_that_is_no_order_does_not_keep_the_others_out() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let archive = schema.archive();
    archive.migrate().await.unwrap();
    let mut batch: Vec<OrderRecord> = orders(3).iter().map(completed).collect();
    batch[1].order = ordering::domain::Order::from_parts("{\"customer_id\":7}".into(), "none".into());
    batch[2].order = ordering::domain::Order::from_parts("{\"customer_id\":\"a\\u0000\"}".into(), "1".into());
    assert_eq!(archive.archive(&batch).await.unwrap(), [Archived::Now, Archived::Now, Archived::Now]);
    for order in batch {
        assert_eq!(archive.find(order.id).await.unwrap(), Some(order));
    }
}

#[tokio::test]
async fn connections_that_the_server_ended_are_replaced() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let archive = schema.archive_with_one_connection().await;
    let sql = "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE application_name = '{name}'";
    let ended = schema.value(&sql.replace("{name}", &schema.name)).await;
    assert_eq!(ended.as_deref(), Some("1"));
    // Whether the one call that finds out fails or not, those after it work.
    eventually(async || archive.check().await.is_ok()).await;
}

#[tokio::test]
async fn connections_to_a_server_that_takes_no_writes_are_dropped() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let archive = schema.archive_with_one_connection().await;
    let sql = "SELECT min(pid)::text FROM pg_stat_activity WHERE application_name = '{name}'";
    let pid = schema.value(&sql.replace("{name}", &schema.name)).await;

    // As on a primary that was demoted.
    schema.refuse_inserts("true", "25006").await;
    assert!(archive.archive(&[completed(&order())]).await.is_err());
    let sql = "SELECT count(*)::text FROM pg_stat_activity WHERE pid = {pid}";
    let sql = sql.replace("{pid}", &pid.expect("a connection"));
    eventually(async || schema.value(&sql).await.as_deref() == Some("0")).await;
}

#[tokio::test]
async fn a_statement_that_lost_against_another_is_run_again() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let archive = schema.archive_with_one_connection().await;
    for code in ["40P01", "40001"] {
        let sequence = format!("CREATE SEQUENCE \"{}\".s{code}", schema.name);
        schema.client.batch_execute(&sequence).await.unwrap();
        // Sequences are not rolled back: only the first time is refused.
        let is_first = format!("nextval('\"{}\".s{code}') = 1", schema.name);
        schema.refuse_inserts(&is_first, code).await;
        let order = completed(&order());
        assert_eq!(archive.archive(&[order]).await.unwrap(), [Archived::Now]);
    }
}

fn with_application_name(url: &str, name: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}application_name={name}")
}

#[tokio::test]
async fn a_statement_that_waits_too_long_is_given_up() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    schema.archive().migrate().await.unwrap();
    let options = PostgresOptions { statement_timeout: Duration::from_millis(300), ..schema.options() };
    let archive = PostgresArchive::start(options).unwrap();
    let lock = format!("BEGIN; LOCK TABLE \"{}\".archive", schema.name);
    schema.client.batch_execute(&lock).await.unwrap();
    let started = Instant::now();
    assert!(archive.archive(&[completed(&order())]).await.is_err());
    assert!(started.elapsed() < Duration::from_secs(5));
    schema.client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn without_postgres_calls_fail_at_once() {
    let url = format!("postgres://u:secret@127.0.0.1:{}/db", closed_port());
    let archive = PostgresArchive::start(PostgresOptions::new(url, namespace())).unwrap();
    let order = completed(&order());
    let started = Instant::now();
    for _ in 0..20 {
        let error = archive.archive(std::slice::from_ref(&order)).await.unwrap_err();
        assert_eq!(error.part, "Postgres");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(archive.find(order.id).await.is_err());
        assert!(archive.ended_passages(&[order.id]).await.is_err());
        assert!(archive.check().await.is_err());
    }
    assert!(archive.migrate().await.is_err());
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_silent_postgres_costs_one_timeout_not_one_for_each_call() {
    // It takes connections and never says a word.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = PostgresOptions {
        connect_timeout: Duration::from_millis(300),
        ..PostgresOptions::new(format!("postgres://u@127.0.0.1:{port}/db"), namespace())
    };
    let archive = PostgresArchive::start(options).unwrap();
    let started = Instant::now();
    for _ in 0..50 {
        assert!(archive.check().await.is_err());
    }
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
    drop(listener);
}

#[test]
fn a_namespace_that_is_no_name_is_refused() {
    for wrong in ["", "a\0b", &"x".repeat(64)] {
        let options = PostgresOptions::new("postgres://u@localhost/db", wrong);
        assert!(PostgresArchive::start(options).is_err());
    }
}

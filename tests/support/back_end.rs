//! The program on either back end.

#![allow(dead_code, reason = "every test program takes what it needs")]

use std::path::Path;
use std::time::{Duration, Instant};

use ordering::adapters::rabbitmq::{RabbitOptions, RabbitQueues};
use ordering::ports::{Queues, Source};

use crate::system::System;

/// How long a test waits for something that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the program needs to use a back end, and a way to count what it has archived.
pub enum BackEnd {
    Embedded(tempfile::TempDir),
    Servers { namespace: String, urls: [String; 3] },
}

impl BackEnd {
    pub fn embedded() -> BackEnd {
        BackEnd::Embedded(tempfile::tempdir().unwrap())
    }

    /// `None` where there are no servers and none were promised.
    pub fn servers() -> Option<BackEnd> {
        let names = ["ORDERING_AMQP_URLS", "ORDERING_REDIS_URL", "ORDERING_POSTGRES_URL"];
        let urls = names.map(|name| std::env::var(name).ok());
        let [Some(amqp), Some(redis), Some(postgres)] = urls else {
            assert_ne!(std::env::var("ORDERING_TEST_SERVERS").as_deref(), Ok("1"), "servers were promised");
            eprintln!("skipped: no servers");
            return None;
        };
        let namespace = format!("e2e_{}", uuid::Uuid::now_v7().simple());
        Some(BackEnd::Servers { namespace, urls: [amqp, redis, postgres] })
    }

    fn args(&self) -> Vec<&str> {
        match self {
            BackEnd::Embedded(folder) => vec!["--data-dir", folder.path().to_str().unwrap()],
            BackEnd::Servers { namespace, urls: [amqp, redis, postgres] } => vec![
                "--backend",
                "servers",
                "--namespace",
                namespace,
                "--amqp-urls",
                amqp,
                "--redis-url",
                redis,
                "--postgres-url",
                postgres,
            ],
        }
    }

    pub fn role<'a>(&'a self, role: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&[role][..], &self.args(), more].concat()
    }

    pub fn start(&self, role: &str, more: &[&str]) -> System {
        System::start(&self.role(role, more))
    }

    /// Starts `all` in one process, or the roles in a process each.
    pub fn start_roles(&self, more: &[&str]) -> (System, Vec<System>) {
        match self {
            BackEnd::Embedded(_) => (self.start("all", more), Vec::new()),
            BackEnd::Servers { .. } => {
                let stages = ["scheduling", "pre-processing", "processing", "post-processing"];
                let worker = |stage| System::start_silent(&self.role("worker", &[&["--stage", stage], more].concat()));
                (self.start("api", &[]), stages.map(worker).into())
            }
        }
    }

    /// The queues themselves; `None` if they are a part of the program.
    pub fn queues(&self) -> Option<RabbitQueues> {
        let BackEnd::Servers { namespace, urls: [amqp, _, _] } = self else { return None };
        Some(RabbitQueues::start(RabbitOptions {
            urls: amqp.split(',').map(str::to_owned).collect(),
            namespace: namespace.clone(),
            connection_name: "test".into(),
            ..RabbitOptions::default()
        }))
    }

    /// Messages that wait in the queue of `stage` and are in nobody's hands, whatever the program says.
    pub async fn waiting(&self, stage: &str) -> u64 {
        match self {
            BackEnd::Embedded(folder) => {
                let database = rusqlite::Connection::open(folder.path().join("ordering.db")).unwrap();
                let sql = "SELECT count(*) FROM messages WHERE source = ?1";
                database.query_row(sql, [stage], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
            }
            BackEnd::Servers { .. } => {
                let queues = self.queues().expect("there are servers");
                let end = Instant::now() + DEADLINE;
                let waiting = loop {
                    match queues.waiting(Source::Stage(stage.parse().unwrap())).await {
                        Ok(waiting) => break waiting,
                        Err(error) => assert!(Instant::now() < end, "{error}"),
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                };
                queues.close().await;
                waiting
            }
        }
    }

    /// Rows in the archive, whatever the program says.
    pub async fn archived(&self) -> usize {
        let count: i64 = match self {
            BackEnd::Embedded(folder) => {
                let file = Path::new(folder.path()).join("ordering.db");
                let database = rusqlite::Connection::open(file).unwrap();
                database.query_row("SELECT count(*) FROM archive", [], |row| row.get(0)).unwrap()
            }
            BackEnd::Servers { namespace, urls: [_, _, postgres] } => {
                let (client, connection) = tokio_postgres::connect(postgres, tokio_postgres::NoTls).await.unwrap();
                tokio::spawn(connection);
                let query = format!("SELECT count(*) FROM \"{namespace}\".archive");
                client.query_one(&query, &[]).await.unwrap().get(0)
            }
        };
        usize::try_from(count).unwrap()
    }
}

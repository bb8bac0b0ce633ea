//! The program on either back end.

#![allow(dead_code, reason = "every test program takes what it needs")]

use std::path::Path;

use crate::system::System;

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

//! The suites, run against the embedded back end.

use std::sync::Arc;

use ordering::adapters::embedded::{Embedded, EmbeddedOptions};
use ordering::ports::{Queues, Source};
use tempfile::TempDir;

fn open() -> (TempDir, Embedded) {
    let folder = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(EmbeddedOptions::new(folder.path())).unwrap();
    (folder, embedded)
}

mod queues {
    use super::*;
    use crate::contract::queues::Subject;

    /// Every opening is a connection of its own to one database: the folder has one owner.
    async fn subject() -> Option<Subject> {
        let (folder, embedded) = open();
        let file = folder.path().join("ordering.db");
        let embedded = Arc::new(embedded);
        let opened = embedded.clone();
        Some(Subject {
            open: Box::new(move || {
                let queues = opened.queues();
                Box::pin(async move { queues as Arc<dyn Queues> })
            }),
            put_bytes: Some(Box::new(move |source, bytes| {
                let name = match source {
                    Source::Stage(stage) => stage.as_kebab(),
                    Source::Ending => "ending",
                };
                let sql = "INSERT INTO messages (source, orders, body) VALUES (?1, 1, ?2)";
                let shell = rusqlite::Connection::open(&file).unwrap();
                shell.execute(sql, (name, &*bytes)).unwrap();
                Box::pin(async {})
            })),
            holds: Box::new((folder, embedded)),
        })
    }

    crate::contract::queues::suite!(subject);
}

mod queues_over_restarts {
    use super::*;
    use crate::contract::queues::Subject;

    /// The database, and the queues of it that were handed out.
    type Opened = (Embedded, Vec<Arc<dyn Queues>>);

    /// Every opening that finds the last one closed opens the file anew.
    async fn subject() -> Option<Subject> {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let current: Arc<tokio::sync::Mutex<Option<Opened>>> = Arc::default();
        let opened_folder = folder.clone();
        Some(Subject {
            open: Box::new(move || {
                let (folder, current) = (opened_folder.clone(), current.clone());
                Box::pin(async move {
                    let mut current = current.lock().await;
                    let (embedded, mut handed_out) = match current.take() {
                        Some(current) => current,
                        None => (Embedded::open(EmbeddedOptions::new(folder.path())).unwrap(), vec![]),
                    };
                    let mut in_use = false;
                    for queues in &handed_out {
                        in_use |= queues.check().await.is_ok();
                    }
                    let embedded = if in_use || handed_out.is_empty() {
                        embedded
                    } else {
                        embedded.close().await;
                        handed_out.clear();
                        Embedded::open(EmbeddedOptions::new(folder.path())).unwrap()
                    };
                    let queues: Arc<dyn Queues> = embedded.queues();
                    handed_out.push(queues.clone());
                    *current = Some((embedded, handed_out));
                    queues
                })
            }),
            put_bytes: None,
            holds: Box::new(folder),
        })
    }

    crate::contract::queues::suite!(subject);
}

mod in_flight {
    use super::*;
    use crate::contract::in_flight::Subject;

    async fn subject() -> Option<Subject> {
        let (folder, embedded) = open();
        Some(Subject { in_flight: embedded.in_flight(), wipe: None, holds: Box::new((folder, embedded)) })
    }

    crate::contract::in_flight::suite!(subject);
    crate::contract::claims::suite!(subject);
    crate::contract::scan::suite!(subject);
    crate::contract::cancellations::marks_suite!(subject);
}

mod cancellations {
    use super::*;
    use crate::contract::cancellations::Subject;

    async fn subject() -> Option<Subject> {
        let (folder, embedded) = open();
        Some(Subject { cancellations: embedded.cancellations(), holds: Box::new((folder, embedded)) })
    }

    crate::contract::cancellations::suite!(subject);
}

mod archive {
    use super::*;
    use crate::contract::archive::Subject;

    async fn subject() -> Option<Subject> {
        let (folder, embedded) = open();
        Some(Subject { archive: embedded.archive(), holds: Box::new((folder, embedded)) })
    }

    crate::contract::archive::suite!(subject);
}

mod dead_letters {
    use super::*;
    use crate::contract::dead_letters::Subject;

    async fn subject() -> Option<Subject> {
        let (folder, embedded) = open();
        Some(Subject { dead_letters: embedded.dead_letters(), holds: Box::new((folder, embedded)) })
    }

    crate::contract::dead_letters::suite!(subject);
}

mod pauses {
    use super::*;
    use crate::contract::pauses::Subject;

    async fn subject() -> Option<Subject> {
        let (folder, embedded) = open();
        Some(Subject { pauses: embedded.pauses(), holds: Box::new((folder, embedded)) })
    }

    crate::contract::pauses::suite!(subject);
}

mod feed {
    use std::sync::Arc;

    use ordering::adapters::embedded::EmbeddedFeed;

    use crate::contract::feed::{EVENTS_MAX, Subject};

    async fn subject() -> Option<Subject> {
        Some(Subject { feed: Arc::new(EmbeddedFeed::of(EVENTS_MAX)), other: None })
    }

    crate::contract::feed::suite!(subject);
}

mod webhooks {
    use super::*;
    use crate::contract::webhooks::Subject;

    async fn subject() -> Option<Subject> {
        let (folder, embedded) = open();
        Some(Subject { webhooks: embedded.webhooks(), holds: Box::new((folder, embedded)) })
    }

    crate::contract::webhooks::suite!(subject);
}

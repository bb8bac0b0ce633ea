//! Whether what Postgres confirms would survive the loss of its machine.
//!
//! A commit is on the disk of the primary. A standby that is promoted has it only if the primary waited for it.

use super::PART;
use super::connections::Connections;
use crate::ports::Unavailable;

const DURABILITY: &str = include_str!("durability.sql");

/// What Postgres says of itself.
#[derive(Clone, Copy, Debug)]
struct Durability<'a> {
    fsync: &'a str,
    synchronous_commit: &'a str,
    synchronous_standby_names: &'a str,
    /// Standbys connected to it.
    standbys: i64,
}

pub(super) async fn warning(connections: &Connections) -> Result<Option<String>, Unavailable> {
    let rows = connections.query(DURABILITY, &[]).await?;
    let row = rows.first().ok_or_else(|| Unavailable::new(PART, "no answer to a question for settings"))?;
    let read = || {
        Ok::<_, tokio_postgres::Error>(Durability {
            fsync: row.try_get(0)?,
            synchronous_commit: row.try_get(1)?,
            synchronous_standby_names: row.try_get(2)?,
            standbys: row.try_get(3)?,
        })
    };
    read().map(Durability::warning).map_err(|error| Unavailable::new(PART, error))
}

impl Durability<'_> {
    /// All that is wrong, as one sentence.
    fn warning(self) -> Option<String> {
        let mut wrong = Vec::new();
        if self.fsync != "on" {
            wrong.push("fsync is off: a crash of its machine may destroy everything".to_owned());
        }
        match self.synchronous_commit {
            "on" | "remote_apply" => {}
            "off" => wrong.push("synchronous_commit is off: a crash loses what was confirmed last".into()),
            weaker => wrong.push(format!(
                "synchronous_commit is {weaker}: what was confirmed last need not be on a standby's disk"
            )),
        }
        if self.synchronous_standby_names.trim().is_empty() {
            wrong.push(match self.standbys {
                0 => "no synchronous standby: what Postgres confirmed is lost with its disk".into(),
                _ => "standbys are connected, but none is synchronous (synchronous_standby_names is empty): \
                      a fail-over loses what was confirmed last"
                    .into(),
            });
        }
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAFE: Durability =
        Durability { fsync: "on", synchronous_commit: "on", synchronous_standby_names: "ANY 1 (a, b)", standbys: 1 };

    #[test]
    fn with_a_synchronous_standby_there_is_nothing_to_warn_of() {
        assert_eq!(SAFE.warning(), None);
        assert_eq!(Durability { synchronous_commit: "remote_apply", ..SAFE }.warning(), None);
    }

    #[test]
    fn whatever_would_lose_a_commit_is_warned_of() {
        for (durability, expected) in [
            (Durability { synchronous_standby_names: "", standbys: 0, ..SAFE }, "no synchronous standby"),
            (Durability { synchronous_standby_names: " ", ..SAFE }, "none is synchronous"),
            (Durability { fsync: "off", ..SAFE }, "fsync is off"),
            (Durability { synchronous_commit: "off", ..SAFE }, "synchronous_commit is off"),
            (Durability { synchronous_commit: "local", ..SAFE }, "synchronous_commit is local"),
            (Durability { synchronous_commit: "remote_write", ..SAFE }, "synchronous_commit is remote_write"),
        ] {
            let warning = durability.warning().unwrap();
            assert!(warning.contains(expected), "{warning}");
            assert!(!warning.contains(';'), "{warning}");
        }
        let all = Durability { fsync: "off", synchronous_commit: "off", synchronous_standby_names: "", standbys: 2 };
        assert_eq!(all.warning().unwrap().matches(';').count(), 2);
    }
}

//! Opens `ordering.db`: its settings, its schema and what can be wrong with it.
//!
//! # Invariants
//! `synchronous=FULL` in WAL mode: a commit returns after its bytes are on the disk. The version of the schema stands in
//! `user_version`; [`MIGRATIONS`] lead from each version to the next, each in one transaction, so that a process
//! killed between two of them goes on at the next start.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::OpenError;
use crate::domain::OrderId;
use crate::ports::Unavailable;

/// What the file is called in the data folder.
pub(super) const FILE_NAME: &str = "ordering.db";

/// The script at index n leads from version n to n + 1.
const MIGRATIONS: [&str; 5] = [
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
    include_str!("schema/4.sql"),
    include_str!("schema/5.sql"),
];

/// Marks the file as ours (`PRAGMA application_id`): "ORDR".
const APPLICATION_ID: i64 = 0x4f52_4452;

/// Bytes of a page. Messages of a full batch take about 256 KiB: with larger pages they are fewer to find again.
const PAGE_SIZE_BYTES: u32 = 8192;
/// Memory the writer keeps pages in, in KiB.
const WRITER_CACHE_KIB: i64 = 32 * 1024;
/// Memory each reader keeps pages in, in KiB.
const READER_CACHE_KIB: i64 = 2 * 1024;
/// Pages in the log before they are copied into the file: 32 MiB. The more, the more often a page that changes again and
/// again (and those of settled messages, which are used again) is copied only once.
const CHECKPOINT_PAGES: u32 = 4096;
/// How long to wait for somebody who has the file open for writing (the `sqlite3` shell).
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// Statements kept prepared; there are fewer than that.
const STATEMENTS_MAX: usize = 64;

/// The connection that writes; makes or upgrades the file.
///
/// # Errors
/// [`OpenError`] with what is wrong with the file.
pub(super) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let failed = |source| open_error(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    check_kind(path, &connection)?;
    if configure_writer(&connection).map_err(failed)? == Journal::Refused {
        return Err(OpenError::NoLog { path: path.to_owned() });
    }
    migrate(path, &mut connection, &MIGRATIONS)?;
    Ok(connection)
}

/// What became of the wish for a write-ahead log.
#[derive(PartialEq, Eq)]
enum Journal {
    Log,
    /// A file system without shared memory, as some network folders.
    Refused,
}

fn configure_writer(connection: &Connection) -> rusqlite::Result<Journal> {
    // Counts only while the file is empty.
    connection.pragma_update(None, "page_size", PAGE_SIZE_BYTES)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Ok(Journal::Refused);
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    // Gives the log's space back after a burst.
    connection.pragma_update(
        None,
        "journal_size_limit",
        4 * i64::from(CHECKPOINT_PAGES) * i64::from(PAGE_SIZE_BYTES),
    )?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(Journal::Log)
}

/// A connection that only reads.
///
/// # Errors
/// [`OpenError`].
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let failed = |source| open_error(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(connection)
}

/// Bounds the file; growing past it fails as on a full disk.
///
/// # Errors
/// If SQLite does not take it.
pub(super) fn limit_size(connection: &Connection, size_bytes_max: Option<u64>) -> rusqlite::Result<()> {
    /// SQLite's own bound.
    const PAGES_MAX: u64 = 4_294_967_294;
    let page_size_bytes = pragma(connection, "page_size")?.unsigned_abs().max(1);
    let pages = size_bytes_max.map_or(PAGES_MAX, |size| (size / page_size_bytes).clamp(1, PAGES_MAX));
    connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
}

/// Refuses a database of something else before a byte of it is changed.
fn check_kind(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let failed = |source| open_error(path, source);
    let application_id: i64 = pragma(connection, "application_id").map_err(failed)?;
    if application_id == APPLICATION_ID {
        return Ok(());
    }
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if application_id == 0 && tables == 0 {
        return Ok(());
    }
    Err(OpenError::NotOurs { path: path.to_owned() })
}

fn migrate(path: &Path, connection: &mut Connection, migrations: &[&str]) -> Result<(), OpenError> {
    let failed = |source| open_error(path, source);
    let found: i64 = pragma(connection, "user_version").map_err(failed)?;
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    if !(0..=known).contains(&found) {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    for (version, script) in (1i64..).zip(migrations) {
        if version <= found {
            continue;
        }
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(script).map_err(failed)?;
        transaction.pragma_update(None, "user_version", version).map_err(failed)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        tracing::info!(file = %path.display(), version, "schema is up to date");
    }
    Ok(())
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn open_error(path: &Path, source: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::NotADatabase { path },
        Some(ErrorCode::DiskFull) => OpenError::DiskFull { path },
        _ => OpenError::Database { path, source },
    }
}

/// SQLite's own words; they hold no values, so no order's content.
pub(super) fn unavailable(error: &rusqlite::Error) -> Unavailable {
    Unavailable::new("SQLite", error)
}

/// A row that is not as this release writes it: somebody else did.
pub(super) fn unavailable_row(what: &str, id: OrderId, reason: &str) -> Unavailable {
    Unavailable::new("SQLite", format!("the {what} of {id} is unreadable: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_file_is_brought_up_to_date_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let mut connection = open_writer(&path).unwrap();
        connection.execute("INSERT INTO probe (n, bytes) VALUES (7, x'00')", []).unwrap();
        let newer = [&MIGRATIONS[..], &["ALTER TABLE probe ADD COLUMN added INTEGER DEFAULT 5"]].concat();
        let known = i64::try_from(MIGRATIONS.len()).unwrap();
        for _ in 0..2 {
            migrate(&path, &mut connection, &newer).unwrap();
            let added: i64 = connection.query_row("SELECT added FROM probe WHERE n = 7", [], |row| row.get(0)).unwrap();
            assert_eq!(added, 5);
        }
        drop(connection);
        let error = open_writer(&path).unwrap_err();
        let OpenError::Newer { found, known: said, .. } = error else { panic!("{error:?}") };
        assert_eq!((found, said), (known + 1, known));
    }

    #[test]
    fn dead_letters_that_had_a_number_get_an_id_of_their_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let mut connection = Connection::open(&path).unwrap();
        migrate(&path, &mut connection, &MIGRATIONS[..1]).unwrap();
        for (at, reason) in [(1_764_000_000_007_i64, "no\u{0}ne"), (1_764_000_000_007, "ä"), (-5, "")] {
            let insert = "INSERT INTO dead_letters (source, reason, at, bytes) VALUES ('ending', ?1, ?2, x'00ff')";
            connection.execute(insert, (reason, at)).unwrap();
        }
        drop(connection);
        let connection = open_writer(&path).unwrap();
        let mut select =
            connection.prepare("SELECT id, source, reason, at, bytes FROM dead_letters ORDER BY id").unwrap();
        let rows = select
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
            .unwrap()
            .collect::<rusqlite::Result<Vec<(String, String, String, i64, Vec<u8>)>>>()
            .unwrap();
        let row = |id: &str, reason: &str, at| (id.into(), "ending".into(), reason.into(), at, vec![0x00, 0xff]);
        assert_eq!(
            rows,
            [
                row("00000000-0000-7000-8000-000000000003", "", -5),
                row("019ab697-e807-7000-8000-000000000001", "no\u{0}ne", 1_764_000_000_007),
                row("019ab697-e807-7000-8000-000000000002", "ä", 1_764_000_000_007),
            ]
        );
    }

    #[test]
    fn a_migration_that_fails_leaves_the_file_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let mut connection = open_writer(&path).unwrap();
        let broken = [&MIGRATIONS[..], &["CREATE TABLE half (n); SELECT nonsense;"]].concat();
        migrate(&path, &mut connection, &broken).unwrap_err();
        assert_eq!(pragma(&connection, "user_version").unwrap(), i64::try_from(MIGRATIONS.len()).unwrap());
        assert!(connection.prepare("SELECT * FROM half").is_err());
    }

    #[test]
    fn commits_are_synced_and_the_log_is_on() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open_writer(&dir.path().join(FILE_NAME)).unwrap();
        assert_eq!(pragma(&connection, "synchronous").unwrap(), 2);
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
    }
}

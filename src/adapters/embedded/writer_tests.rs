use super::super::database::{FILE_NAME, open_writer};
use super::super::sources::Sources;
use super::*;

struct Open {
    writer: Writer,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

fn open() -> Open {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::take(folder.path()).unwrap();
    let path = folder.path().join(FILE_NAME);
    let connection = open_writer(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE numbers (n INTEGER PRIMARY KEY);
             CREATE TABLE orphans (n REFERENCES numbers DEFERRABLE INITIALLY DEFERRED);",
        )
        .unwrap();
    let chores = Chores::new(Arc::new(Sources::new()));
    let (writer, _) = Writer::start(connection, lock, chores).unwrap();
    Open { writer, path, _folder: folder }
}

impl Open {
    /// Hands `statements` in so that they make one group.
    async fn write_as_group(&self, statements: &[&'static str]) -> Vec<Result<usize, WriteError>> {
        let (entered, has_entered) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let writer = self.writer.clone();
        let first = tokio::spawn(async move {
            writer
                .write(0, move |_| {
                    entered.send(()).unwrap();
                    released.recv().unwrap();
                    Ok(())
                })
                .await
        });
        tokio::task::spawn_blocking(move || has_entered.recv().unwrap()).await.unwrap();
        let writes = statements.iter().copied().map(|sql| {
            let writer = self.writer.clone();
            tokio::spawn(async move { writer.write(0, move |connection| connection.execute(sql, [])).await })
        });
        let writes: Vec<_> = writes.collect();
        while self.writer.room.available_permits() + statements.len() + 1 > WAITING_UNITS as usize {
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        let mut results = Vec::new();
        for write in writes {
            results.push(write.await.unwrap());
        }
        results
    }

    fn numbers(&self) -> Vec<i64> {
        let shell = Connection::open(&self.path).unwrap();
        let mut select = shell.prepare("SELECT n FROM numbers ORDER BY n").unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

const ONE: &str = "INSERT INTO numbers VALUES (1)";
const TWO: &str = "INSERT INTO numbers VALUES (2)";

#[tokio::test]
async fn an_operation_that_fails_takes_nobody_with_it() {
    let open = open();
    let results = open.write_as_group(&[ONE, ONE, TWO]).await;
    assert!(matches!(&results[..], [Ok(1), Err(WriteError::Undone(_)), Ok(1)]));
    assert_eq!(open.numbers(), [1, 2]);
}

#[tokio::test]
async fn a_commit_that_fails_is_of_unknown_fate_and_takes_nobody_with_it() {
    let open = open();
    let orphan = "INSERT INTO orphans VALUES (99)";
    let results = open.write_as_group(&[ONE, orphan, TWO]).await;
    assert!(matches!(&results[..], [Ok(1), Err(WriteError::Unknown(_)), Ok(1)]));
    assert_eq!(open.numbers(), [1, 2]);
    open.writer.check().await.unwrap();
}

#[tokio::test]
async fn somebody_else_who_writes_makes_all_wait_and_then_fail() {
    let open = open();
    let shell = Connection::open(&open.path).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let write = |sql| open.writer.write(0, move |connection| connection.execute(sql, []));
    let (first, second) = tokio::join!(write(ONE), write(TWO));
    assert!(matches!(first, Err(WriteError::Undone(_))), "{first:?}");
    assert!(matches!(second, Err(WriteError::Undone(_))), "{second:?}");
    shell.execute_batch("ROLLBACK").unwrap();
    write(ONE).await.unwrap();
    open.writer.check().await.unwrap();
    assert_eq!(open.numbers(), [1]);
}

#[tokio::test]
async fn what_comes_after_the_stop_is_refused_and_what_came_before_is_written() {
    let open = open();
    let write = |sql| open.writer.write(0, move |connection| connection.execute(sql, []));
    let before = write(ONE);
    let before = {
        let mut before = std::pin::pin!(before);
        let started = futures_util::poll!(before.as_mut());
        assert!(started.is_pending());
        open.writer.stop();
        before.await
    };
    assert_eq!(before.unwrap(), 1);
    assert!(matches!(write(TWO).await, Err(WriteError::Undone(_))));
    open.writer.check().await.unwrap_err();
    assert_eq!(open.numbers(), [1]);
}

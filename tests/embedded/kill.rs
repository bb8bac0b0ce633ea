//! Killed at any moment, it has everything it confirmed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use ordering::adapters::embedded::{Embedded, EmbeddedOptions};
use ordering::domain::Stage;
use ordering::ports::{Archive, Place, Queues};

use crate::support::*;

const CHILD: &str = "ORDERING_TEST_CHILD_DATA_DIR";

/// Not a test of its own: the process that `a_killed_process_loses_nothing_it_confirmed` kills. Says what was
/// confirmed, line by line.
#[test]
fn child_that_works_until_it_is_killed() {
    let Ok(data_dir) = std::env::var(CHILD) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(work_until_killed(Path::new(&data_dir)));
}

fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

async fn work_until_killed(data_dir: &Path) {
    let embedded = Embedded::open(EmbeddedOptions::new(data_dir)).unwrap();
    let queues = embedded.queues();
    let publisher = {
        let queues = queues.clone();
        async move {
            // Ids of this process alone: each is published once.
            let base = u128::from(std::process::id()) << 64;
            for n in base.. {
                let order = sized_order(n, usize::try_from(n % 7).unwrap() * 3_000);
                say(format_args!("publishing {n}"));
                let place = Place::Stage(Stage::Scheduling);
                queues.publish(place, &[order]).await.unwrap();
                say(format_args!("published {n}"));
            }
        }
    };
    let archiver = async {
        let mut subscription = queues.subscribe(FIRST, 10_000);
        let mut given_back = std::collections::HashSet::new();
        // A third stays held, a third is given back once.
        loop {
            let delivery = next(&mut subscription).await;
            let n = ids(&delivery)[0];
            let order = ended(delivery.contents.unwrap().remove(0));
            if n.is_multiple_of(3) && given_back.insert(n) {
                subscription.settle.give_back(delivery.receipt);
            } else if n % 3 < 2 {
                embedded.archive().archive(&[order]).await.unwrap();
                say(format_args!("archived {n}"));
                subscription.settle.ack(delivery.receipt);
            }
        }
    };
    tokio::join!(publisher, archiver);
}

#[test]
fn a_killed_process_loses_nothing_it_confirmed() {
    let folder = folder();
    let mut publishing = BTreeSet::new();
    let mut published = BTreeSet::new();
    let mut archived = BTreeSet::new();
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_that_works_until_it_is_killed", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        // Killed at a different moment each time, with writes under way.
        for line in lines.by_ref() {
            seen += note(&line.unwrap(), &mut publishing, &mut published, &mut archived);
            if seen == 40 + 97 * round {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            note(&line.unwrap(), &mut publishing, &mut published, &mut archived);
        }
    }
    assert!(published.len() > 50 && archived.len() > 10);

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let embedded = open_again(&folder).await;
        let shell = shell(&folder);
        let verdict: String = shell.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok");
        let waiting = count(&folder, "messages");
        let waiting = waiting_in(&embedded, FIRST, usize::try_from(waiting).unwrap()).await;
        let waiting: BTreeSet<_> = waiting.into_iter().collect();
        for n in &published {
            let kept = embedded.archive().ended_passages(&[order(*n).id]).await.unwrap()[0].is_some();
            assert!(kept || waiting.contains(n), "{n} is lost");
            assert!(kept || !archived.contains(n), "{n} is not in the archive");
        }
        assert!(waiting.is_subset(&publishing), "nothing comes from nowhere");
        embedded.close().await;
    });
}

/// Takes in one line of the child's; 1 if it said something.
fn note(
    line: &str,
    publishing: &mut BTreeSet<u128>,
    published: &mut BTreeSet<u128>,
    archived: &mut BTreeSet<u128>,
) -> usize {
    let Some((word, Ok(n))) = line.split_once(' ').map(|(word, n)| (word, n.parse::<u128>())) else {
        return 0;
    };
    match word {
        "publishing" => publishing.insert(n),
        "published" => published.insert(n),
        "archived" => archived.insert(n),
        _ => return 0,
    };
    1
}

//! What [`DeadLetters`] promises: a letter is kept once, comes back byte for byte, and is listed newest first.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use ordering::domain::{Stage, Timestamp};
use ordering::ports::{DeadLetter, DeadLetterId, DeadLetterPage, DeadLetters, Source};
use uuid::Uuid;

use crate::support::now;

/// Dead letters of its own.
pub struct Subject {
    pub dead_letters: Arc<dyn DeadLetters>,
    /// What must live as long as they do: their folder, for example.
    #[allow(dead_code, reason = "it is held, not read")]
    pub holds: Box<dyn std::any::Any + Send + Sync>,
}

macro_rules! suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            dead_letters,
            $subject,
            a_letter_is_found_as_it_was_kept,
            an_unknown_letter_is_not_found,
            a_letter_that_is_kept_again_changes_nothing,
            a_letter_that_is_twice_in_a_batch_is_kept_once,
            keepers_of_the_same_letters_keep_each_of_them_once,
            bytes_come_back_to_the_byte,
            any_reason_is_kept,
            moments_come_back_to_the_millisecond,
            letters_are_listed_newest_first,
            pages_follow_each_other_without_a_gap_and_without_a_double,
            letters_of_one_queue_are_listed_alone,
            a_letter_that_is_removed_is_gone,
            a_removed_letter_may_come_again,
            a_thousand_letters_are_kept_at_once,
            no_letters_at_all_are_no_error,
        );
    };
}
pub(crate) use suite;

const MOMENT_MS: i64 = 1_764_000_000_007;

fn letter(source: Source, at_ms: i64) -> DeadLetter {
    DeadLetter {
        id: DeadLetterId::from_uuid(Uuid::now_v7()),
        source,
        reason: "it is no JSON, at line 1 column 7".into(),
        at: Timestamp::from_millis(at_ms),
        bytes: Bytes::from_static(b"{\"v\":1,"),
    }
}

fn letters(n: i64) -> Vec<DeadLetter> {
    (0..n).map(|n| letter(Source::Stage(Stage::FIRST), MOMENT_MS + n)).collect()
}

async fn keep(subject: &Subject, letters: &[DeadLetter]) {
    subject.dead_letters.keep(letters).await.unwrap();
}

async fn find(subject: &Subject, letter: &DeadLetter) -> Option<DeadLetter> {
    subject.dead_letters.find(letter.id).await.unwrap()
}

async fn count(subject: &Subject) -> u64 {
    subject.dead_letters.count().await.unwrap()
}

const ALL: DeadLetterPage = DeadLetterPage { source: None, before: None, letters_max: u32::MAX };

async fn list(subject: &Subject, page: &DeadLetterPage) -> Vec<DeadLetter> {
    subject.dead_letters.list(page).await.unwrap()
}

/// Newest first, the highest id first of one moment.
fn newest_first(letters: &[DeadLetter]) -> Vec<DeadLetter> {
    let mut letters = letters.to_vec();
    letters.sort_by_key(|letter| std::cmp::Reverse((letter.at, letter.id)));
    letters
}

pub async fn a_letter_is_found_as_it_was_kept(subject: &Subject) {
    for (n, source) in Source::all().enumerate() {
        let letter = letter(source, now().as_millis());
        keep(subject, std::slice::from_ref(&letter)).await;
        assert_eq!(find(subject, &letter).await, Some(letter));
        assert_eq!(count(subject).await, n as u64 + 1);
    }
}

pub async fn an_unknown_letter_is_not_found(subject: &Subject) {
    let letter = &letters(1)[0];
    assert_eq!(find(subject, letter).await, None);
    assert!(!subject.dead_letters.remove(letter.id).await.unwrap());
    assert_eq!((list(subject, &ALL).await, count(subject).await), (vec![], 0));
}

pub async fn a_letter_that_is_kept_again_changes_nothing(subject: &Subject) {
    let [first, new] = <[DeadLetter; 2]>::try_from(letters(2)).unwrap();
    keep(subject, std::slice::from_ref(&first)).await;
    let again = DeadLetter {
        source: Source::Ending,
        reason: "something else".into(),
        at: now(),
        bytes: Bytes::from_static(b"other"),
        ..first.clone()
    };
    // The one beside it is kept all the same.
    keep(subject, &[again, new.clone()]).await;
    assert_eq!(find(subject, &first).await.as_ref(), Some(&first));
    assert_eq!(list(subject, &ALL).await, newest_first(&[first, new]));
    assert_eq!(count(subject).await, 2);
}

pub async fn a_letter_that_is_twice_in_a_batch_is_kept_once(subject: &Subject) {
    let [first, other] = <[DeadLetter; 2]>::try_from(letters(2)).unwrap();
    let again = DeadLetter { reason: "something else".into(), ..first.clone() };
    keep(subject, &[first.clone(), other.clone(), again, first.clone()]).await;
    assert_eq!(list(subject, &ALL).await, newest_first(&[first, other]));
}

pub async fn keepers_of_the_same_letters_keep_each_of_them_once(subject: &Subject) {
    let mut kept = 0;
    for _ in 0..5 {
        let batch = letters(100);
        let mut tasks = Vec::new();
        for n in 0..4 {
            // Each has them in an order of its own: rows locked in that order would wait for each other in a circle.
            let (dead_letters, mut batch) = (subject.dead_letters.clone(), batch.clone());
            if n % 2 == 1 {
                batch.reverse();
            }
            batch.rotate_left(n * 7);
            tasks.push(tokio::spawn(async move { dead_letters.keep(&batch).await.unwrap() }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        kept += 100;
        assert_eq!(count(subject).await, kept);
    }
}

pub async fn bytes_come_back_to_the_byte(subject: &Subject) {
    let every_byte: Vec<u8> = (0..=255).collect();
    for bytes in [vec![], vec![0], vec![0xff; 3], every_byte.repeat(4096), "注文 🦀 \u{0} \\x41 '".into()] {
        let letter = DeadLetter { bytes: Bytes::from(bytes), ..letter(Source::Ending, MOMENT_MS) };
        keep(subject, std::slice::from_ref(&letter)).await;
        assert!(find(subject, &letter).await == Some(letter));
    }
}

/// U+0000 may come back as U+FFFD: not every store can hold it.
pub async fn any_reason_is_kept(subject: &Subject) {
    for reason in ["", "no\u{0}thing", "\u{0}", "注文 🦀 \"'; -- \n\t\\ {}", &"reason ".repeat(2_000)] {
        let letter = DeadLetter { reason: reason.into(), ..letter(Source::Ending, MOMENT_MS) };
        keep(subject, std::slice::from_ref(&letter)).await;
        let found = find(subject, &letter).await.unwrap();
        let shown = |reason: &str| reason.replace('\u{0}', "\u{fffd}");
        assert_eq!(shown(&found.reason), shown(reason));
        assert_eq!(DeadLetter { reason: letter.reason.clone(), ..found }, letter);
    }
}

pub async fn moments_come_back_to_the_millisecond(subject: &Subject) {
    for ms in [i64::MIN, -1, 0, 1, 999, MOMENT_MS, 9_007_199_254_741, i64::MAX] {
        let letter = letter(Source::Ending, ms);
        keep(subject, std::slice::from_ref(&letter)).await;
        assert_eq!(find(subject, &letter).await, Some(letter.clone()));
        // A page goes on behind such a moment, and not with it.
        let page = DeadLetterPage { before: Some((letter.at, letter.id)), ..ALL };
        assert!(list(subject, &page).await.iter().all(|other| other.at < letter.at));
    }
}

pub async fn letters_are_listed_newest_first(subject: &Subject) {
    // Kept in another order, and with ids of yet another one.
    let mut batch = letters(7);
    for (n, at) in [3, 1, 3, -2, 0, 3, 1].into_iter().enumerate() {
        batch[n].at = Timestamp::from_millis(MOMENT_MS + at);
    }
    keep(subject, &batch[4..]).await;
    keep(subject, &batch[..4]).await;
    assert_eq!(list(subject, &ALL).await, newest_first(&batch));
    let page = DeadLetterPage { letters_max: 3, ..ALL };
    assert_eq!(list(subject, &page).await, newest_first(&batch)[..3]);
    assert_eq!(list(subject, &DeadLetterPage { letters_max: 0, ..ALL }).await, []);
}

pub async fn pages_follow_each_other_without_a_gap_and_without_a_double(subject: &Subject) {
    let mut batch = letters(20);
    for (n, letter) in batch.iter_mut().enumerate() {
        // Pages of three end amid letters of one moment.
        letter.at = Timestamp::from_millis(MOMENT_MS + n as i64 / 8);
    }
    keep(subject, &batch).await;
    let mut seen = Vec::new();
    let mut page = DeadLetterPage { letters_max: 3, ..ALL };
    loop {
        let letters = list(subject, &page).await;
        let Some(last) = letters.last() else {
            break;
        };
        assert!(letters.len() <= 3);
        page.before = Some((last.at, last.id));
        seen.extend(letters);
        // What comes meanwhile belongs on a page that was seen.
        keep(subject, &[letter(Source::Ending, now().as_millis())]).await;
        assert!(seen.len() <= batch.len());
    }
    assert_eq!(seen, newest_first(&batch));
}

pub async fn letters_of_one_queue_are_listed_alone(subject: &Subject) {
    let sources: Vec<Source> = Source::all().collect();
    let batch: Vec<DeadLetter> =
        (0..20).map(|n| letter(sources[n % sources.len()], MOMENT_MS + n as i64 / 8)).collect();
    keep(subject, &batch).await;
    for source in sources {
        let of_source: Vec<DeadLetter> = batch.iter().filter(|letter| letter.source == source).cloned().collect();
        let expected = newest_first(&of_source);
        let page = DeadLetterPage { source: Some(source), ..ALL };
        assert_eq!(list(subject, &page).await, expected);
        let page = DeadLetterPage { before: Some((expected[1].at, expected[1].id)), letters_max: 1, ..page };
        assert_eq!(list(subject, &page).await, expected[2..3]);
    }
}

pub async fn a_letter_that_is_removed_is_gone(subject: &Subject) {
    let batch = letters(3);
    keep(subject, &batch).await;
    assert!(subject.dead_letters.remove(batch[1].id).await.unwrap());
    assert!(!subject.dead_letters.remove(batch[1].id).await.unwrap());
    assert_eq!(find(subject, &batch[1]).await, None);
    assert_eq!(list(subject, &ALL).await, [batch[2].clone(), batch[0].clone()]);
    assert_eq!(count(subject).await, 2);
}

/// The queue may deliver it once more, after a person has removed it.
pub async fn a_removed_letter_may_come_again(subject: &Subject) {
    let letter = letter(Source::Ending, MOMENT_MS);
    keep(subject, std::slice::from_ref(&letter)).await;
    assert!(subject.dead_letters.remove(letter.id).await.unwrap());
    keep(subject, std::slice::from_ref(&letter)).await;
    assert_eq!(find(subject, &letter).await, Some(letter));
}

pub async fn a_thousand_letters_are_kept_at_once(subject: &Subject) {
    let batch = letters(1_000);
    keep(subject, &batch).await;
    assert_eq!(count(subject).await, 1_000);
    let listed: HashSet<DeadLetterId> = list(subject, &ALL).await.iter().map(|letter| letter.id).collect();
    assert_eq!(listed.len(), 1_000);
}

pub async fn no_letters_at_all_are_no_error(subject: &Subject) {
    keep(subject, &[]).await;
    assert_eq!(count(subject).await, 0);
}

//! What [`Archive`] promises: of several ends of one order the first stays, and it comes back to the letter.

use std::sync::Arc;

use ordering::domain::{Cancellation, OrderRecord, Stage, Status, Timestamp};
use ordering::ports::{Archive, Archived, FailedFilter};

use crate::support::{accepted, after, completed, failed, failure, now, order, orders, retry};

/// An archive of its own.
pub struct Subject {
    pub archive: Arc<dyn Archive>,
    /// What must live as long as the archive: its folder, for example.
    #[allow(dead_code, reason = "it is held, not read")]
    pub holds: Box<dyn std::any::Any + Send + Sync>,
}

macro_rules! suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            archive,
            $subject,
            an_ended_order_is_found_as_it_was_archived,
            an_unknown_order_is_not_found,
            the_first_end_of_an_order_stays,
            a_higher_passage_replaces_a_lower_one,
            an_order_that_is_twice_in_a_batch_is_kept_once,
            of_two_passages_in_a_batch_the_higher_one_is_kept,
            the_archive_says_which_orders_it_has_in_the_order_of_the_question,
            two_archivists_of_the_same_orders_keep_each_of_them_once,
            content_and_reasons_come_back_to_the_letter,
            moments_come_back_to_the_millisecond,
            a_batch_of_256_orders_is_archived,
            an_order_that_was_tried_again_keeps_its_earlier_passages,
            failed_orders_are_found_by_what_is_asked_for,
            an_empty_batch_changes_nothing,
            the_archive_says_that_it_is_well,
        );
    };
}
pub(crate) use suite;

use Archived::{Before, Now};

async fn archive(subject: &Subject, order: &OrderRecord) -> Archived {
    let mut archived = subject.archive.archive(std::slice::from_ref(order)).await.unwrap();
    assert_eq!(archived.len(), 1);
    archived.remove(0)
}

async fn find(subject: &Subject, order: &OrderRecord) -> Option<OrderRecord> {
    subject.archive.find(order.id).await.unwrap()
}

pub async fn an_ended_order_is_found_as_it_was_archived(subject: &Subject) {
    for order in [completed(&order()), failed(&order(), "no stock"), cancelled_between(&order())] {
        assert_eq!(archive(subject, &order).await, Now);
        assert_eq!(find(subject, &order).await, Some(order));
    }
}

/// While it waited to be tried again.
fn cancelled_between(order: &OrderRecord) -> OrderRecord {
    let mut order = after(order, &[Stage::Scheduling]);
    order.history.record(Stage::PreProcessing, &retry("busy"));
    order.history.cancel(Cancellation { at: now(), reason: Some("ordered \"twice\"".into()) });
    assert_eq!(order.history.status(), Status::Cancelled);
    order
}

pub async fn an_unknown_order_is_not_found(subject: &Subject) {
    let order = order();
    assert_eq!(find(subject, &order).await, None);
    assert_eq!(subject.archive.ended_passages(&[order.id]).await.unwrap(), [None]);
}

pub async fn the_first_end_of_an_order_stays(subject: &Subject) {
    let order = order();
    let first = failed(&order, "no stock");
    assert_eq!(archive(subject, &first).await, Now);
    assert_eq!(archive(subject, &completed(&order)).await, Before);
    assert_eq!(archive(subject, &first).await, Before);
    assert_eq!(find(subject, &order).await, Some(first));
}

pub async fn a_higher_passage_replaces_a_lower_one(subject: &Subject) {
    let first = failed(&order(), "no stock");
    assert_eq!(archive(subject, &first).await, Now);
    let second = OrderRecord { passage: 2, ..completed(&OrderRecord { history: Default::default(), ..first.clone() }) };
    assert_eq!(archive(subject, &second).await, Now);
    assert_eq!(find(subject, &first).await, Some(second.clone()));
    assert_eq!(archive(subject, &first).await, Before);
    assert_eq!(archive(subject, &second).await, Before);
    assert_eq!(find(subject, &first).await, Some(second));
}

pub async fn an_order_that_is_twice_in_a_batch_is_kept_once(subject: &Subject) {
    let (one, other) = (order(), completed(&order()));
    let first = failed(&one, "no stock");
    let batch = [first.clone(), other.clone(), completed(&one), other.clone(), first.clone()];
    let archived = subject.archive.archive(&batch).await.unwrap();
    assert_eq!(archived, [Now, Now, Before, Before, Before]);
    assert_eq!(find(subject, &one).await, Some(first));
    assert_eq!(find(subject, &other).await, Some(other));
}

pub async fn of_two_passages_in_a_batch_the_higher_one_is_kept(subject: &Subject) {
    let order = order();
    let first = failed(&order, "no stock");
    let second = OrderRecord { passage: 2, ..completed(&order) };
    subject.archive.archive(&[first, second.clone()]).await.unwrap();
    assert_eq!(find(subject, &order).await, Some(second));
}

pub async fn the_archive_says_which_orders_it_has_in_the_order_of_the_question(subject: &Subject) {
    let batch: Vec<OrderRecord> = orders(5).iter().map(completed).collect();
    subject.archive.archive(&[batch[3].clone(), batch[1].clone()]).await.unwrap();
    let mut ids: Vec<_> = batch.iter().map(|order| order.id).collect();
    ids.push(batch[1].id);
    let ended = subject.archive.ended_passages(&ids).await.unwrap();
    assert_eq!(ended, [None, Some(1), None, Some(1), None, Some(1)]);
    subject.archive.archive(&[OrderRecord { passage: 3, ..batch[1].clone() }]).await.unwrap();
    assert_eq!(subject.archive.ended_passages(&ids[1..2]).await.unwrap(), [Some(3)]);
    assert!(subject.archive.ended_passages(&[]).await.unwrap().is_empty());
}

pub async fn two_archivists_of_the_same_orders_keep_each_of_them_once(subject: &Subject) {
    for _ in 0..5 {
        let batch: Vec<OrderRecord> = orders(100).iter().map(completed).collect();
        let mut tasks = Vec::new();
        for n in 0..4 {
            // Each has them in an order of its own: rows locked in that order would wait for each other in a circle.
            let (archive, mut batch) = (subject.archive.clone(), batch.clone());
            if n % 2 == 1 {
                batch.reverse();
            }
            batch.rotate_left(n * 7);
            tasks.push(tokio::spawn(async move { archive.archive(&batch).await.unwrap() }));
        }
        let mut kept = 0;
        for task in tasks {
            kept += task.await.unwrap().iter().filter(|archived| **archived == Now).count();
        }
        assert_eq!(kept, batch.len());
    }
}

pub async fn content_and_reasons_come_back_to_the_letter(subject: &Subject) {
    let metadata = r#"{"b":1.50,"a":1e2,"a b":"\u00e9 é \ud83e\udd80 🦀 \/ \\ \" \t","":[true,null]}"#;
    let mut order = accepted(metadata);
    order.history.record(Stage::FIRST, &failure("\u{0} \"quoted\"\n注文 🦀 {} \\"));
    assert_eq!(archive(subject, &order).await, Now);
    let found = find(subject, &order).await.unwrap();
    assert_eq!(found.order.json(), order.order.json());
    assert_eq!(found.order.total(), order.order.total());
    assert_eq!(found, order);
    assert_eq!(found.history.status(), Status::Failed);
}

pub async fn moments_come_back_to_the_millisecond(subject: &Subject) {
    for ms in [i64::MIN, -1, 0, 1, 999, 1_764_000_000_007, 9_007_199_254_741, i64::MAX] {
        let mut order = completed(&order());
        order.placed_at = ordering::domain::Timestamp::from_millis(ms);
        assert_eq!(archive(subject, &order).await, Now);
        assert_eq!(find(subject, &order).await, Some(order));
    }
}

pub async fn a_batch_of_256_orders_is_archived(subject: &Subject) {
    let batch: Vec<OrderRecord> = orders(256).iter().map(completed).collect();
    assert_eq!(subject.archive.archive(&batch).await.unwrap(), vec![Now; 256]);
    assert_eq!(subject.archive.archive(&batch).await.unwrap(), vec![Before; 256]);
    let ids: Vec<_> = batch.iter().map(|order| order.id).collect();
    assert_eq!(subject.archive.ended_passages(&ids).await.unwrap(), vec![Some(1); 256]);
    for n in [0, 100, 255] {
        assert_eq!(find(subject, &batch[n]).await.as_ref(), Some(&batch[n]));
    }
}

pub async fn an_order_that_was_tried_again_keeps_its_earlier_passages(subject: &Subject) {
    let first = failed(&order(), "no stock");
    archive(subject, &first).await;
    let mut second = first.next_passage(Stage::Scheduling, now()).unwrap();
    second.history.record(Stage::Scheduling, &failure("no money"));
    assert_eq!(archive(subject, &second).await, Now);
    assert_eq!(find(subject, &first).await.as_ref(), Some(&second));
    assert_eq!(second.history.earlier().len(), 1);
}

pub async fn failed_orders_are_found_by_what_is_asked_for(subject: &Subject) {
    let batch = orders(5);
    let mut ended: Vec<OrderRecord> = batch.iter().map(|order| failed(order, "no 100% stock")).collect();
    ended[1] = completed(&batch[1]);
    ended[3] = failed(&batch[3], "no money");
    subject.archive.archive(&ended).await.unwrap();
    let mut expected: Vec<OrderRecord> = [0, 2, 3, 4].map(|n| ended[n].clone()).into();
    expected.sort_by_key(|order| order.id);
    let found = async |filter: &FailedFilter, after, max| subject.archive.failed(filter, after, max).await.unwrap();
    let all = FailedFilter::default();
    assert_eq!(found(&all, None, 10).await, expected);
    assert_eq!(found(&all, None, 2).await, expected[..2]);
    assert_eq!(found(&all, Some(expected[1].id), 10).await, expected[2..]);

    let failure = ended[0].history.failure().unwrap();
    let at = ended[0].history.finished_at().unwrap();
    let later = at.after(std::time::Duration::from_secs(3_600));
    let customer = ended[0].order.fields().unwrap().customer_id.into_owned();
    for (filter, count) in [
        (FailedFilter { stage: Some(failure.stage), ..all.clone() }, 4),
        (FailedFilter { stage: Some(Stage::PostProcessing), ..all.clone() }, 0),
        (FailedFilter { reason: Some("100% st".into()), ..all.clone() }, 3),
        (FailedFilter { reason: Some("%".into()), stage: Some(failure.stage), ..all.clone() }, 3),
        (FailedFilter { reason: Some("STOCK".into()), ..all.clone() }, 0),
        (FailedFilter { customer_id: Some(customer), ..all.clone() }, 4),
        (FailedFilter { customer_id: Some("nobody".into()), ..all.clone() }, 0),
        (FailedFilter { from: Some(at), to: Some(later), ..all.clone() }, 4),
        (FailedFilter { from: Some(later), ..all.clone() }, 0),
        (FailedFilter { to: Some(Timestamp::from_millis(0)), ..all.clone() }, 0),
    ] {
        assert_eq!(found(&filter, None, 10).await.len(), count, "{filter:?}");
    }
}

pub async fn an_empty_batch_changes_nothing(subject: &Subject) {
    assert_eq!(subject.archive.archive(&[]).await.unwrap(), []);
}

pub async fn the_archive_says_that_it_is_well(subject: &Subject) {
    subject.archive.check().await.unwrap();
}

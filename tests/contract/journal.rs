//! What [`Journal`] promises: an order that was put in is known until it has ended, and is published in its turn.

use std::collections::HashSet;
use std::sync::Arc;

use ordering::domain::{Order, OrderId, OrderRecord, Stage};
use ordering::ports::{Archive, Claim, Journal, Purpose};
use uuid::Uuid;

use crate::support::{accepted, after, completed, failed, order, orders};

use Claim::{New, Other, Same};
use Purpose::{Know, Publish};

const SAME: Claim = Same { is_under_way: false };

/// A journal of its own, and the archive beside it.
pub struct Subject {
    pub journal: Arc<dyn Journal>,
    pub archive: Arc<dyn Archive>,
    /// What must live as long as they do.
    #[allow(dead_code, reason = "it is held, not read")]
    pub holds: Box<dyn std::any::Any + Send + Sync>,
}

macro_rules! suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            journal,
            $subject,
            an_order_is_found_as_it_was_put_in,
            an_order_that_was_begun_comes_back_with_its_steps,
            content_comes_back_to_the_byte,
            orders_are_found_in_the_order_of_the_question,
            the_same_order_again_is_told_apart_from_another_of_its_id,
            several_orders_of_one_id_in_a_batch_are_told_apart,
            of_many_that_put_one_id_in_at_once_one_is_new,
            batches_of_the_same_orders_at_once_all_get_through,
            an_order_that_was_known_of_waits_when_it_is_to_be_published,
            an_order_that_waits_goes_on_waiting_when_it_becomes_known_of,
            what_waits_is_given_in_the_order_in_which_it_came,
            what_was_published_waits_no_more_and_is_known_of,
            a_thousand_orders_are_put_in_at_once,
            a_later_passage_takes_the_place_of_an_earlier_one,
            a_scan_gives_page_by_page_what_has_not_ended_and_does_not_wait,
            a_sweep_removes_what_has_ended_and_nothing_else,
            a_sweep_leaves_a_passage_that_has_not_ended,
            sweeps_come_to_an_end_and_miss_nothing,
            no_orders_at_all_are_no_error,
        );
    };
}
pub(crate) use suite;

async fn note(subject: &Subject, orders: &[OrderRecord], purpose: Purpose) -> Vec<Claim> {
    subject.journal.note(orders, purpose).await.unwrap()
}

async fn find(subject: &Subject, order: &OrderRecord) -> Option<OrderRecord> {
    subject.journal.find(order.id).await.unwrap()
}

async fn to_publish(subject: &Subject) -> Vec<OrderRecord> {
    let waiting = subject.journal.to_publish(u32::MAX).await.unwrap();
    assert_eq!(subject.journal.waiting().await.unwrap(), waiting.len() as u64);
    waiting
}

async fn scanned(subject: &Subject) -> Vec<OrderRecord> {
    subject.journal.scan(None, u32::MAX).await.unwrap()
}

async fn archive(subject: &Subject, orders: &[OrderRecord]) {
    subject.archive.archive(orders).await.unwrap();
}

/// Sweeps until nothing is left to remove; how many were removed.
async fn sweep(subject: &Subject) -> u64 {
    let mut removed = 0;
    loop {
        match subject.journal.sweep().await.unwrap() {
            0 => return removed,
            more => removed += more,
        }
    }
}

fn ids(orders: &[OrderRecord]) -> Vec<OrderId> {
    orders.iter().map(|order| order.id).collect()
}

fn by_id(orders: &[OrderRecord]) -> Vec<OrderRecord> {
    let mut orders = orders.to_vec();
    orders.sort_by_key(|order| order.id);
    orders
}

/// Another order that has the id of this one.
fn other_of(order: &OrderRecord) -> OrderRecord {
    OrderRecord { order: accepted("{\"other\":true}").order, ..order.clone() }
}

/// Orders whose ids say nothing of when they came.
fn shuffled(n: usize) -> Vec<OrderRecord> {
    let mut orders = orders(n);
    for (n, order) in orders.iter_mut().enumerate() {
        order.id = OrderId::from_key(&format!("{n} {}", Uuid::now_v7()));
    }
    assert!(n < 5 || orders != by_id(&orders));
    orders
}

pub async fn an_order_is_found_as_it_was_put_in(subject: &Subject) {
    for purpose in [Know, Publish] {
        let order = order();
        assert_eq!(find(subject, &order).await, None);
        assert_eq!(note(subject, std::slice::from_ref(&order), purpose).await, [New]);
        assert_eq!(find(subject, &order).await, Some(order));
    }
}

pub async fn an_order_that_was_begun_comes_back_with_its_steps(subject: &Subject) {
    let steps = after(&order(), &[Stage::Scheduling, Stage::PreProcessing]);
    let ended = failed(&order(), "no\u{0}stock 🦀");
    let second = OrderRecord { passage: 2, ..order() };
    for order in [steps, ended, second] {
        note(subject, std::slice::from_ref(&order), Publish).await;
        assert_eq!(find(subject, &order).await.as_ref(), Some(&order));
        assert_eq!(to_publish(subject).await.last(), Some(&order));
    }
}

pub async fn content_comes_back_to_the_byte(subject: &Subject) {
    let deep = format!("{{\"deep\":{}{}}}", "[".repeat(110), "]".repeat(110));
    let wide = format!("{{\"wide\":\"{}\"}}", "0123456789abcdef".repeat(1_000));
    let mut batch = vec![];
    for metadata in [
        r#"{"b":1.50,"a":1e2,"a b":"\u00e9 é \ud83e\udd80 🦀 \/ \\ \" \t","":[true,null]}"#,
        r#"{"b":-0.0,"c":1e-7,"d":123456789012345678901234567890}"#,
        &deep,
        &wide,
    ] {
        batch.push(accepted(metadata));
    }
    for (json, total) in [
        (r#"{"customer_id":"\u0000","reference":"\u0000","currency":"\u0000"}"#, "1"),
        (r#"{"customer_id":7}"#, "none"),
        ("[]", "\u{0}"),
    ] {
        batch.push(OrderRecord { order: Order::from_parts(json.into(), total.into()), ..order() });
    }
    for ms in [i64::MIN, -1, 1_764_000_000_007, i64::MAX] {
        batch.push(OrderRecord { placed_at: ordering::domain::Timestamp::from_millis(ms), ..order() });
    }
    assert_eq!(note(subject, &batch, Publish).await, vec![New; batch.len()]);
    for order in &batch {
        let found = find(subject, order).await.unwrap();
        assert!(found.order.json() == order.order.json());
        // A total is a number: one that is none may be changed.
        let total = order.order.total().replace('\u{0}', "\u{fffd}");
        assert_eq!(found.order.total(), total);
        assert_eq!((found.id, found.placed_at, &found.history), (order.id, order.placed_at, &order.history));
    }
    assert_eq!(note(subject, &batch, Publish).await, vec![SAME; batch.len()]);
}

pub async fn orders_are_found_in_the_order_of_the_question(subject: &Subject) {
    let batch = shuffled(6);
    note(subject, &batch[..2], Know).await;
    note(subject, &batch[4..], Publish).await;
    let mut expected: Vec<Option<OrderRecord>> = batch.iter().cloned().map(Some).collect();
    expected[2] = None;
    expected[3] = None;
    expected.push(Some(batch[1].clone()));
    let mut ids = ids(&batch);
    ids.push(batch[1].id);
    assert_eq!(subject.journal.find_all(&ids).await.unwrap(), expected);
}

pub async fn the_same_order_again_is_told_apart_from_another_of_its_id(subject: &Subject) {
    let [one, new] = <[OrderRecord; 2]>::try_from(orders(2)).unwrap();
    assert_eq!(note(subject, std::slice::from_ref(&one), Know).await, [New]);
    // Sent again it was placed later: that is no difference.
    let again = OrderRecord { placed_at: one.placed_at.after(std::time::Duration::from_secs(1)), ..one.clone() };
    assert_eq!(note(subject, &[again, new, other_of(&one)], Know).await, [SAME, New, Other]);
    assert_eq!(find(subject, &one).await, Some(one));
}

pub async fn several_orders_of_one_id_in_a_batch_are_told_apart(subject: &Subject) {
    let [one, two] = <[OrderRecord; 2]>::try_from(shuffled(2)).unwrap();
    let batch = [two.clone(), one.clone(), other_of(&one), one.clone(), other_of(&two), two.clone()];
    assert_eq!(note(subject, &batch, Know).await, [New, New, Other, SAME, Other, SAME]);
    // The first of them is the other one: what is kept stays, and knows its own.
    assert_eq!(note(subject, &[other_of(&one), one.clone()], Publish).await, [Other, SAME]);
    assert_eq!(to_publish(subject).await, std::slice::from_ref(&one));
    assert_eq!(find(subject, &one).await, Some(one));
    assert_eq!(find(subject, &two).await, Some(two));
}

pub async fn of_many_that_put_one_id_in_at_once_one_is_new(subject: &Subject) {
    for _ in 0..10 {
        let order = order();
        let mut tasks = Vec::new();
        for n in 0..4 {
            let journal = subject.journal.clone();
            let order = if n % 2 == 0 { order.clone() } else { other_of(&order) };
            tasks.push(tokio::spawn(async move {
                let claims = journal.note(std::slice::from_ref(&order), Know).await.unwrap();
                (order, claims[0])
            }));
        }
        let mut claims = Vec::new();
        for task in tasks {
            claims.push(task.await.unwrap());
        }
        let kept = find(subject, &order).await.unwrap();
        assert_eq!(claims.iter().filter(|(_, claim)| *claim == New).count(), 1);
        for (order, claim) in claims {
            let is_kept = order.order == kept.order;
            assert!(if is_kept { claim == New || claim == SAME } else { claim == Other }, "{claim:?}");
        }
    }
}

pub async fn batches_of_the_same_orders_at_once_all_get_through(subject: &Subject) {
    for _ in 0..5 {
        let batch = shuffled(100);
        let mut tasks = Vec::new();
        for n in 0..4 {
            // Each has them in an order of its own: rows locked in that order would wait for each other in a circle.
            let (journal, mut batch) = (subject.journal.clone(), batch.clone());
            if n % 2 == 1 {
                batch.reverse();
            }
            batch.rotate_left(n * 7);
            tasks.push(tokio::spawn(async move {
                let claims = journal.note(&batch, Publish).await.unwrap();
                journal.published(&ids(&batch)).await.unwrap();
                claims
            }));
        }
        let mut new = 0;
        for task in tasks {
            new += task.await.unwrap().iter().filter(|claim| **claim == New).count();
        }
        assert_eq!(new, batch.len());
    }
}

pub async fn an_order_that_was_known_of_waits_when_it_is_to_be_published(subject: &Subject) {
    let batch = orders(2);
    note(subject, &batch, Know).await;
    assert_eq!(to_publish(subject).await, []);
    assert_eq!(note(subject, &[other_of(&batch[0]), batch[1].clone()], Publish).await, [Other, SAME]);
    assert_eq!(to_publish(subject).await, batch[1..]);
}

pub async fn an_order_that_waits_goes_on_waiting_when_it_becomes_known_of(subject: &Subject) {
    let batch = orders(2);
    note(subject, &batch, Publish).await;
    assert_eq!(note(subject, &batch, Know).await, [SAME; 2]);
    assert_eq!(to_publish(subject).await, batch);
}

pub async fn what_waits_is_given_in_the_order_in_which_it_came(subject: &Subject) {
    let batch = shuffled(20);
    for part in batch.chunks(7) {
        note(subject, part, Publish).await;
    }
    note(subject, &shuffled(3), Know).await;
    assert_eq!(to_publish(subject).await, batch);
    assert_eq!(subject.journal.to_publish(9).await.unwrap(), batch[..9]);
    assert_eq!(subject.journal.waiting().await.unwrap(), 20);
}

pub async fn what_was_published_waits_no_more_and_is_known_of(subject: &Subject) {
    let batch = shuffled(5);
    note(subject, &batch, Publish).await;
    assert_eq!(scanned(subject).await, []);
    let published = [batch[3].id, batch[0].id, order().id, batch[3].id];
    for _ in 0..2 {
        subject.journal.published(&published).await.unwrap();
        assert_eq!(to_publish(subject).await, [batch[1].clone(), batch[2].clone(), batch[4].clone()]);
        assert_eq!(scanned(subject).await, by_id(&[batch[0].clone(), batch[3].clone()]));
    }
}

pub async fn a_thousand_orders_are_put_in_at_once(subject: &Subject) {
    let batch = shuffled(1_000);
    assert_eq!(note(subject, &batch, Publish).await, vec![New; 1_000]);
    assert_eq!(note(subject, &batch, Publish).await, vec![SAME; 1_000]);
    assert_eq!(to_publish(subject).await, batch);
    subject.journal.published(&ids(&batch)).await.unwrap();
    assert_eq!(scanned(subject).await, by_id(&batch));
    let found = subject.journal.find_all(&ids(&batch)).await.unwrap();
    assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), batch);
}

pub async fn a_later_passage_takes_the_place_of_an_earlier_one(subject: &Subject) {
    let first = order();
    note(subject, std::slice::from_ref(&first), Know).await;
    let steps = after(&first, &[Stage::Scheduling]).history;
    let second = OrderRecord { passage: 2, history: steps, ..first.clone() };
    assert_eq!(note(subject, &[OrderRecord { passage: 2, ..other_of(&first) }], Know).await, [Other]);
    assert_eq!(find(subject, &first).await.as_ref(), Some(&first));
    assert_eq!(note(subject, std::slice::from_ref(&second), Know).await, [SAME]);
    assert_eq!(find(subject, &first).await.as_ref(), Some(&second));
    assert_eq!(note(subject, std::slice::from_ref(&first), Know).await, [SAME]);
    assert_eq!(find(subject, &first).await, Some(second));
}

pub async fn a_scan_gives_page_by_page_what_has_not_ended_and_does_not_wait(subject: &Subject) {
    let batch = by_id(&shuffled(20));
    note(subject, &batch, Know).await;
    note(subject, &batch[3..4], Publish).await;
    let ended: Vec<OrderRecord> = batch[5..12].iter().map(completed).collect();
    archive(subject, &ended).await;
    // Ended once, and tried again.
    let again = OrderRecord { passage: 2, ..batch[6].clone() };
    note(subject, std::slice::from_ref(&again), Know).await;

    let mut expected = batch[..3].to_vec();
    expected.push(batch[4].clone());
    expected.push(again);
    expected.extend_from_slice(&batch[12..]);
    for orders_max in [1, 4, 100] {
        let (mut seen, mut last) = (Vec::new(), None);
        loop {
            let page = subject.journal.scan(last, orders_max).await.unwrap();
            assert!(page.len() <= orders_max as usize);
            let Some(order) = page.last() else {
                break;
            };
            last = Some(order.id);
            seen.extend(page);
            assert!(seen.len() <= batch.len());
        }
        assert_eq!(seen, expected, "{orders_max} a page");
    }
}

pub async fn a_sweep_removes_what_has_ended_and_nothing_else(subject: &Subject) {
    let batch = shuffled(6);
    note(subject, &batch[..4], Know).await;
    note(subject, &batch[4..], Publish).await;
    let ended = [completed(&batch[0]), failed(&batch[2], "no stock"), completed(&batch[4])];
    archive(subject, &ended).await;
    assert_eq!(sweep(subject).await, 2);
    let left: HashSet<OrderId> =
        subject.journal.find_all(&ids(&batch)).await.unwrap().iter().flatten().map(|order| order.id).collect();
    assert_eq!(left, [1, 3, 4, 5].into_iter().map(|n: usize| batch[n].id).collect());
    // It ended all the same: the one that waits goes when it has been published.
    subject.journal.published(&[batch[4].id]).await.unwrap();
    assert_eq!(sweep(subject).await, 1);
    assert_eq!(find(subject, &batch[4]).await, None);
    assert_eq!(sweep(subject).await, 0);
}

pub async fn a_sweep_leaves_a_passage_that_has_not_ended(subject: &Subject) {
    let first = order();
    let second = OrderRecord { passage: 2, ..first.clone() };
    archive(subject, &[failed(&first, "no stock")]).await;
    note(subject, std::slice::from_ref(&second), Know).await;
    assert_eq!(sweep(subject).await, 0);
    assert_eq!(find(subject, &second).await, Some(second.clone()));
    // A later one has ended: so has this.
    archive(subject, &[OrderRecord { passage: 3, ..completed(&first) }]).await;
    assert_eq!(sweep(subject).await, 1);
    assert_eq!(find(subject, &second).await, None);
}

/// More than one step can look at, with what has ended at both ends.
pub async fn sweeps_come_to_an_end_and_miss_nothing(subject: &Subject) {
    let batch = by_id(&shuffled(12_000));
    for part in batch.chunks(1_000) {
        note(subject, part, Know).await;
    }
    let ended: Vec<OrderRecord> = batch[..10].iter().chain(&batch[11_990..]).map(completed).collect();
    archive(subject, &ended).await;
    assert_eq!(sweep(subject).await, 20);
    // Behind where the last one stopped, wherever that was.
    for n in [20, 6_000, 11_980, 30] {
        archive(subject, &[completed(&batch[n])]).await;
        assert_eq!(subject.journal.sweep().await.unwrap(), 1, "{n}");
        assert_eq!(find(subject, &batch[n]).await, None);
    }
    assert_eq!(sweep(subject).await, 0);
}

pub async fn no_orders_at_all_are_no_error(subject: &Subject) {
    assert_eq!(note(subject, &[], Publish).await, []);
    assert_eq!(subject.journal.find_all(&[]).await.unwrap(), []);
    subject.journal.published(&[]).await.unwrap();
    assert_eq!((to_publish(subject).await, scanned(subject).await), (vec![], vec![]));
    assert_eq!(sweep(subject).await, 0);
    subject.journal.takes().unwrap();
}

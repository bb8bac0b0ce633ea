//! What [`InFlight::scan`](ordering::ports::InFlight::scan) promises: every order that stays in flight is given, as a
//! message would carry it.

use std::collections::HashMap;
use std::time::Duration;

use ordering::domain::{OrderId, OrderRecord, Stage, Status, Timestamp};
use ordering::ports::{Recorded, Unmoved};

use super::in_flight::{FRESH, Subject, end, find, put, record};
use crate::support::{after, completed, done, failure, now, order, orders, retry, worker};

use Stage::{PostProcessing, PreProcessing, Processing, Scheduling};

macro_rules! suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            scan,
            $subject,
            an_empty_store_gives_no_orders,
            an_accepted_order_waits_since_it_was_placed,
            an_order_at_work_is_given_as_its_message_had_it,
            a_recorded_outcome_is_taken_in,
            an_order_to_be_tried_again_moves_when_its_wait_is_over,
            a_recorded_end_is_given_before_the_archive_has_it,
            an_order_restored_from_its_message_moved_with_its_last_step,
            orders_that_have_ended_are_not_given,
            all_orders_are_given_part_by_part_while_they_move_on,
        );
    };
}
pub(crate) use suite;

/// All that a scan gives, by id.
async fn scan(subject: &Subject) -> HashMap<OrderId, Unmoved> {
    let (mut cursor, mut orders) = (0, HashMap::new());
    loop {
        let scan = subject.in_flight.scan(cursor).await.unwrap();
        orders.extend(scan.orders.into_iter().map(|unmoved| (unmoved.order.id, unmoved)));
        match scan.next {
            Some(next) => cursor = next,
            None => return orders,
        }
    }
}

/// What it gives of one.
async fn unmoved(subject: &Subject, order: &OrderRecord) -> Option<Unmoved> {
    scan(subject).await.remove(&order.id)
}

/// The order as a scan gives it.
pub async fn scanned(subject: &Subject, order: &OrderRecord) -> Option<OrderRecord> {
    unmoved(subject, order).await.map(|unmoved| unmoved.order)
}

async fn begin(subject: &Subject, stage: Stage, order: &OrderRecord, at: Timestamp) {
    let orders = std::slice::from_ref(order);
    let begun = subject.in_flight.begin(stage, &worker("w"), at, orders).await.unwrap();
    assert_eq!(begun, [FRESH]);
}

pub async fn an_empty_store_gives_no_orders(subject: &Subject) {
    assert_eq!(scan(subject).await, HashMap::new());
}

pub async fn an_accepted_order_waits_since_it_was_placed(subject: &Subject) {
    let order = order();
    put(subject, &order).await;
    let expected = Unmoved { since: order.placed_at, is_at_work: false, order: order.clone() };
    assert_eq!(unmoved(subject, &order).await, Some(expected));
}

pub async fn an_order_at_work_is_given_as_its_message_had_it(subject: &Subject) {
    let order = after(&order(), &[Scheduling]);
    put(subject, &order).await;
    let entered_at = now().after(Duration::from_secs(60));
    begin(subject, PreProcessing, &order, entered_at).await;
    let expected = Unmoved { since: entered_at, is_at_work: true, order: order.clone() };
    assert_eq!(unmoved(subject, &order).await, Some(expected));
}

pub async fn a_recorded_outcome_is_taken_in(subject: &Subject) {
    let order = order();
    put(subject, &order).await;
    let outcome = done(Scheduling);
    begin(subject, Scheduling, &order, outcome.entered_at).await;
    record(subject, Scheduling, &order, &outcome).await;
    let mut advanced = order.clone();
    advanced.history.record(Scheduling, &outcome);
    let expected = Unmoved { since: outcome.finished_at, is_at_work: false, order: advanced.clone() };
    assert_eq!(unmoved(subject, &order).await, Some(expected));

    // And one more.
    let entered_at = now().after(Duration::from_secs(60));
    begin(subject, PreProcessing, &advanced, entered_at).await;
    let expected = Unmoved { since: entered_at, is_at_work: true, order: advanced.clone() };
    assert_eq!(unmoved(subject, &order).await, Some(expected));
}

pub async fn an_order_to_be_tried_again_moves_when_its_wait_is_over(subject: &Subject) {
    let order = order();
    put(subject, &order).await;
    let outcome = retry("busy");
    begin(subject, Scheduling, &order, outcome.entered_at).await;
    record(subject, Scheduling, &order, &outcome).await;
    let mut waiting = order.clone();
    waiting.history.record(Scheduling, &outcome);
    let over = outcome.finished_at.after(Duration::from_secs(2));
    let expected = Unmoved { since: over, is_at_work: false, order: waiting.clone() };
    assert_eq!(unmoved(subject, &order).await, Some(expected));

    let entered_at = over.after(Duration::from_secs(1));
    begin(subject, Scheduling, &waiting, entered_at).await;
    let unmoved = unmoved(subject, &order).await.unwrap();
    assert_eq!((unmoved.order, unmoved.since, unmoved.is_at_work), (waiting, entered_at, true));
}

pub async fn a_recorded_end_is_given_before_the_archive_has_it(subject: &Subject) {
    let (rejected, last) = (order(), after(&order(), &[Scheduling, PreProcessing, Processing]));
    let failure = failure("no stock");
    let done = done(PostProcessing);
    for (order, stage, outcome) in [(&rejected, Scheduling, &failure), (&last, PostProcessing, &done)] {
        put(subject, order).await;
        begin(subject, stage, order, outcome.entered_at).await;
        assert_eq!(record(subject, stage, order, outcome).await, Recorded::First);
        let mut ended = order.clone();
        ended.history.record(stage, outcome);
        assert!(ended.history.status().has_ended());
        let expected = Unmoved { since: outcome.finished_at, is_at_work: false, order: ended };
        assert_eq!(unmoved(subject, order).await, Some(expected));
        assert_eq!(find(subject, order).await.unwrap().history.status(), Status::In(stage));
    }
}

pub async fn an_order_restored_from_its_message_moved_with_its_last_step(subject: &Subject) {
    let order = after(&order(), &[Scheduling, PreProcessing]);
    put(subject, &order).await;
    let since = order.history.updated_at().unwrap();
    assert!(since > order.placed_at);
    let expected = Unmoved { since, is_at_work: false, order: order.clone() };
    assert_eq!(unmoved(subject, &order).await, Some(expected));
}

pub async fn orders_that_have_ended_are_not_given(subject: &Subject) {
    let (ended, stays) = (order(), order());
    put(subject, &ended).await;
    put(subject, &stays).await;
    begin(subject, Scheduling, &ended, now()).await;
    end(subject, &completed(&ended)).await;
    let scanned = scan(subject).await;
    assert_eq!(scanned.keys().collect::<Vec<_>>(), [&stays.id]);
}

pub async fn all_orders_are_given_part_by_part_while_they_move_on(subject: &Subject) {
    // More than one part, with orders that come, move and go between two of them.
    let stay = orders(900);
    for some in stay.chunks(300) {
        let goes = orders(40);
        subject.in_flight.put(&goes).await.unwrap();
        subject.in_flight.put(some).await.unwrap();
        let ended: Vec<_> = goes.iter().map(completed).collect();
        subject.in_flight.end(&ended).await.unwrap();
    }
    let (mut cursor, mut given, mut parts) = (0, HashMap::new(), 0);
    loop {
        let scan = subject.in_flight.scan(cursor).await.unwrap();
        given.extend(scan.orders.into_iter().map(|unmoved| (unmoved.order.id, unmoved.order)));
        parts += 1;
        // Replaced by what a message brings, and by what comes anew.
        let moved: Vec<_> = stay.iter().skip(parts).step_by(50).map(|order| after(order, &[Scheduling])).collect();
        subject.in_flight.put(&moved).await.unwrap();
        subject.in_flight.put(&orders(5)).await.unwrap();
        match scan.next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert!(parts > 1);
    for order in &stay {
        assert!(given.contains_key(&order.id), "{}", order.id);
    }
    assert!(given.values().all(|order| !order.history.status().has_ended()));
}

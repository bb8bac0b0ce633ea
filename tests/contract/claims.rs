//! What [`InFlight`] promises of ids that are derived from keys: the first content that has one keeps it, and an order is
//! never a mixture of two.

use ordering::domain::{OrderId, OrderRecord, Stage, Status};
use ordering::ports::{Begun, Claim, Recorded};
use uuid::Uuid;

use super::in_flight::{FRESH, Subject, begin, end, find, put, record, status};
use crate::support::{accepted, after, completed, done, failed, failure, now, order, worker};

use Stage::{PreProcessing, Processing, Scheduling};

macro_rules! suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            claims,
            $subject,
            the_first_to_claim_an_id_has_it,
            an_order_that_is_claimed_again_is_the_same_and_may_be_under_way,
            an_ended_order_that_is_claimed_again_is_the_same_and_under_way,
            an_id_of_another_content_is_not_given_away,
            of_the_orders_of_a_batch_with_one_id_the_first_has_it,
            of_many_that_claim_an_id_at_once_one_has_it,
            a_claim_of_nothing_is_nothing,
            a_record_that_nobody_has_begun_takes_the_content_that_is_begun,
            a_record_that_was_begun_keeps_its_content,
            an_outcome_of_another_content_is_not_recorded,
            a_record_that_nobody_has_begun_takes_the_content_whose_outcome_comes,
            another_content_that_has_come_further_does_not_take_a_record_that_was_begun,
            another_content_that_has_come_further_takes_a_record_that_nobody_has_begun,
            a_later_passage_brings_its_content,
            an_earlier_passage_of_another_content_has_passed,
            the_end_of_another_content_is_what_the_archive_has,
            orders_of_derived_ids_go_all_the_way_beside_others,
            large_orders_go_all_the_way,
        );
    };
}
pub(crate) use suite;

/// An order placed with `key` that was just accepted.
fn placed_with(key: &str, metadata: &str) -> OrderRecord {
    OrderRecord { id: OrderId::from_key(key), ..accepted(metadata) }
}

/// Two orders of different content that were placed with one key of their own.
fn rivals() -> [OrderRecord; 2] {
    let key = Uuid::now_v7().to_string();
    [placed_with(&key, "{\"n\":1}"), placed_with(&key, "{\"n\":2}")]
}

async fn claim(subject: &Subject, order: &OrderRecord) -> Claim {
    let mut claims = subject.in_flight.claim(std::slice::from_ref(order)).await.unwrap();
    assert_eq!(claims.len(), 1);
    claims.remove(0)
}

const WAITS: Claim = Claim::Same { is_under_way: false };
const UNDER_WAY: Claim = Claim::Same { is_under_way: true };

pub async fn the_first_to_claim_an_id_has_it(subject: &Subject) {
    let [order, _] = rivals();
    assert_eq!(claim(subject, &order).await, Claim::New);
    assert_eq!(find(subject, &order).await, Some(order.clone()));
    assert_eq!(begin(subject, Scheduling, &order).await, FRESH);
}

pub async fn an_order_that_is_claimed_again_is_the_same_and_may_be_under_way(subject: &Subject) {
    let [order, _] = rivals();
    claim(subject, &order).await;
    // Placed a moment later, it is the same all the same: the first one stays.
    let again = OrderRecord { placed_at: order.placed_at.after(std::time::Duration::from_secs(5)), ..order.clone() };
    assert_eq!(claim(subject, &again).await, WAITS);
    assert_eq!(find(subject, &order).await, Some(order.clone()));

    begin(subject, Scheduling, &order).await;
    assert_eq!(claim(subject, &again).await, UNDER_WAY);
    let outcome = done(Scheduling);
    record(subject, Scheduling, &order, &outcome).await;
    assert_eq!(claim(subject, &again).await, UNDER_WAY);
    let mut advanced = order.clone();
    advanced.history.record(Scheduling, &outcome);
    assert_eq!(find(subject, &order).await, Some(advanced));

    // And one whose record was restored from a message in the middle.
    let [order, _] = rivals();
    put(subject, &after(&order, &[Scheduling])).await;
    assert_eq!(claim(subject, &order).await, UNDER_WAY);
}

pub async fn an_ended_order_that_is_claimed_again_is_the_same_and_under_way(subject: &Subject) {
    let [order, other] = rivals();
    claim(subject, &order).await;
    let ended = failed(&order, "no stock");
    end(subject, &ended).await;
    assert_eq!(claim(subject, &order).await, UNDER_WAY);
    assert_eq!(claim(subject, &other).await, Claim::Other);
    assert_eq!(find(subject, &order).await, Some(ended));

    put(subject, &OrderRecord { passage: 2, ..order.clone() }).await;
    assert_eq!(claim(subject, &order).await, UNDER_WAY, "it is tried again");
}

pub async fn an_id_of_another_content_is_not_given_away(subject: &Subject) {
    let [order, other] = rivals();
    claim(subject, &order).await;
    assert_eq!(claim(subject, &other).await, Claim::Other);
    assert_eq!(find(subject, &order).await, Some(order.clone()));
    begin(subject, Scheduling, &order).await;
    assert_eq!(claim(subject, &other).await, Claim::Other);
    assert_eq!(status(subject, &order).await, Status::In(Scheduling));
}

pub async fn of_the_orders_of_a_batch_with_one_id_the_first_has_it(subject: &Subject) {
    let ([one, rival], [two, _], [known, _]) = (rivals(), rivals(), rivals());
    claim(subject, &known).await;
    let batch = [one.clone(), one.clone(), rival.clone(), two.clone(), known, one.clone()];
    let claims = subject.in_flight.claim(&batch).await.unwrap();
    assert_eq!(claims, [Claim::New, WAITS, Claim::Other, Claim::New, WAITS, WAITS]);
    assert_eq!(find(subject, &one).await, Some(one));
    assert_eq!(find(subject, &two).await, Some(two));
}

pub async fn of_many_that_claim_an_id_at_once_one_has_it(subject: &Subject) {
    let key = Uuid::now_v7().to_string();
    let mut tasks = Vec::new();
    for n in 0..8 {
        let (in_flight, order) = (subject.in_flight.clone(), placed_with(&key, &format!("{{\"n\":{n}}}")));
        tasks.push(tokio::spawn(async move {
            let claims = in_flight.claim(std::slice::from_ref(&order)).await.unwrap();
            (claims[0], order)
        }));
    }
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            (Claim::New, order) => winners.push(order),
            (claim, _) => assert_eq!(claim, Claim::Other),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(find(subject, &winners[0]).await.as_ref(), Some(&winners[0]));
}

pub async fn a_claim_of_nothing_is_nothing(subject: &Subject) {
    assert_eq!(subject.in_flight.claim(&[]).await.unwrap(), []);
}

pub async fn a_record_that_nobody_has_begun_takes_the_content_that_is_begun(subject: &Subject) {
    let [order, begun_first] = rivals();
    claim(subject, &order).await;
    assert_eq!(begin(subject, Scheduling, &begun_first).await, FRESH);
    assert_eq!(begin(subject, Scheduling, &order).await, Begun::Passed);

    assert_eq!(find(subject, &order).await.unwrap().order, begun_first.order);
    assert_eq!(record(subject, Scheduling, &begun_first, &done(Scheduling)).await, Recorded::First);
    assert_eq!(begin(subject, PreProcessing, &after(&begun_first, &[Scheduling])).await, FRESH);
}

pub async fn a_record_that_was_begun_keeps_its_content(subject: &Subject) {
    let [order, late] = rivals();
    claim(subject, &order).await;
    assert_eq!(begin(subject, Scheduling, &order).await, FRESH);
    assert_eq!(begin(subject, Scheduling, &late).await, Begun::Passed);
    put(subject, &late).await;
    assert_eq!(begin(subject, Scheduling, &order).await, Begun::Fresh { deliveries: 2 });

    let outcome = done(Scheduling);
    record(subject, Scheduling, &order, &outcome).await;
    assert_eq!(begin(subject, Scheduling, &late).await, Begun::Passed, "the outcome is not its own");
    let mut advanced = order.clone();
    advanced.history.record(Scheduling, &outcome);
    assert_eq!(find(subject, &order).await, Some(advanced));

    let ended = completed(&order);
    end(subject, &ended).await;
    assert_eq!(begin(subject, Scheduling, &late).await, Begun::Passed);
    assert_eq!(find(subject, &order).await, Some(ended));
}

pub async fn an_outcome_of_another_content_is_not_recorded(subject: &Subject) {
    let [order, late] = rivals();
    claim(subject, &order).await;
    begin(subject, Scheduling, &order).await;
    assert_eq!(record(subject, Scheduling, &late, &failure("late")).await, Recorded::Passed);
    let outcome = done(Scheduling);
    assert_eq!(record(subject, Scheduling, &order, &outcome).await, Recorded::First);
    assert_eq!(record(subject, Scheduling, &late, &failure("late")).await, Recorded::Passed);
    assert_eq!(begin(subject, Scheduling, &order).await, Begun::Recorded(outcome));
}

pub async fn a_record_that_nobody_has_begun_takes_the_content_whose_outcome_comes(subject: &Subject) {
    let [order, other] = rivals();
    claim(subject, &order).await;
    let outcome = done(Scheduling);
    assert_eq!(record(subject, Scheduling, &other, &outcome).await, Recorded::First);
    assert_eq!(begin(subject, Scheduling, &order).await, Begun::Passed);
    let mut advanced = other.clone();
    advanced.history.record(Scheduling, &outcome);
    assert_eq!(find(subject, &order).await, Some(advanced));
}

pub async fn another_content_that_has_come_further_does_not_take_a_record_that_was_begun(subject: &Subject) {
    let [order, other] = rivals();
    claim(subject, &order).await;
    begin(subject, Scheduling, &order).await;
    let further = after(&other, &[Scheduling, PreProcessing]);
    put(subject, &further).await;
    assert_eq!(begin(subject, Processing, &further).await, Begun::Passed);
    assert_eq!(record(subject, Processing, &further, &done(Processing)).await, Recorded::Passed);
    assert_eq!(begin(subject, Scheduling, &order).await, Begun::Fresh { deliveries: 2 });
    assert_eq!(find(subject, &order).await.unwrap().order, order.order);
}

pub async fn another_content_that_has_come_further_takes_a_record_that_nobody_has_begun(subject: &Subject) {
    let [order, other] = rivals();
    claim(subject, &order).await;
    let further = after(&other, &[Scheduling, PreProcessing]);
    assert_eq!(begin(subject, Processing, &further).await, FRESH);
    assert_eq!(begin(subject, Scheduling, &order).await, Begun::Passed);
    let found = find(subject, &order).await.unwrap();
    assert_eq!((found.order, found.history.status()), (other.order, Status::In(Processing)));
}

pub async fn a_later_passage_brings_its_content(subject: &Subject) {
    let [order, other] = rivals();
    claim(subject, &order).await;
    begin(subject, Scheduling, &order).await;
    let again = OrderRecord { passage: 2, ..other.clone() };
    assert_eq!(begin(subject, Scheduling, &again).await, FRESH);
    assert_eq!(begin(subject, Scheduling, &order).await, Begun::Passed);
    let found = find(subject, &order).await.unwrap();
    assert_eq!((found.passage, found.order), (2, other.order));
}

pub async fn an_earlier_passage_of_another_content_has_passed(subject: &Subject) {
    let [order, other] = rivals();
    let second = OrderRecord { passage: 2, ..order.clone() };
    put(subject, &second).await;
    assert_eq!(begin(subject, Scheduling, &other).await, Begun::Passed);
    assert_eq!(record(subject, Scheduling, &other, &done(Scheduling)).await, Recorded::Passed);
    assert_eq!(find(subject, &order).await, Some(second));
}

pub async fn the_end_of_another_content_is_what_the_archive_has(subject: &Subject) {
    let [order, archived] = rivals();
    claim(subject, &order).await;
    begin(subject, Scheduling, &order).await;
    let ended = completed(&archived);
    end(subject, &ended).await;
    assert_eq!(find(subject, &order).await, Some(ended));
    assert_eq!(begin(subject, Scheduling, &order).await, Begun::Passed);
    assert_eq!(claim(subject, &order).await, Claim::Other);
    assert_eq!(claim(subject, &archived).await, UNDER_WAY);
}

pub async fn orders_of_derived_ids_go_all_the_way_beside_others(subject: &Subject) {
    let mut batch = Vec::new();
    for n in 0..24 {
        batch.push(if n % 3 == 0 { order() } else { rivals()[0].clone() });
    }
    all_the_way(subject, batch).await;
}

pub async fn large_orders_go_all_the_way(subject: &Subject) {
    let note = "a metre of cable × ".repeat(700);
    let [mut one, mut other] = rivals();
    let large = accepted(&format!("{{\"note\":{note:?}}}")).order;
    one.order = large.clone();
    other.order = accepted(&format!("{{\"note\":{:?}}}", note.to_uppercase())).order;
    let random = OrderRecord { order: large, ..order() };

    claim(subject, &one).await;
    assert_eq!(begin(subject, Scheduling, &random).await, Begun::Absent);
    put(subject, &random).await;
    assert_eq!(begin(subject, Scheduling, &other).await, FRESH);
    let outcome = done(Scheduling);
    for expected in [Recorded::First, Recorded::Earlier(outcome.clone())] {
        assert_eq!(record(subject, Scheduling, &other, &outcome).await, expected);
    }
    assert_eq!(begin(subject, Scheduling, &other).await, Begun::Recorded(outcome));
    assert_eq!(begin(subject, Scheduling, &one).await, Begun::Passed);
    assert_eq!(claim(subject, &one).await, Claim::Other);
    assert_eq!(claim(subject, &other).await, UNDER_WAY);
    let further = after(&random, &[Scheduling]);
    assert_eq!(begin(subject, PreProcessing, &further).await, FRESH);

    all_the_way(subject, vec![order(), OrderRecord { id: order().id, ..random }, rivals()[0].clone()]).await;
}

/// Puts a batch, and takes it through all stages to its end.
async fn all_the_way(subject: &Subject, mut batch: Vec<OrderRecord>) {
    subject.in_flight.put(&batch).await.unwrap();
    for stage in Stage::ALL {
        let begun = subject.in_flight.begin(stage, &worker("worker-1"), now(), &batch).await.unwrap();
        assert_eq!(begun, vec![FRESH; batch.len()]);
        let outcomes: Vec<_> = batch.iter().map(|order| (order, done(stage))).collect();
        let recorded = subject.in_flight.record(stage, &outcomes).await.unwrap();
        assert_eq!(recorded, vec![Recorded::First; batch.len()]);
        let outcomes: Vec<_> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
        for (order, outcome) in batch.iter_mut().zip(&outcomes) {
            order.history.record(stage, outcome);
        }
    }
    subject.in_flight.end(&batch).await.unwrap();
    for order in &batch {
        assert_eq!(find(subject, order).await.as_ref(), Some(order));
    }
}

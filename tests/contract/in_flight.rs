//! What [`InFlight`] promises: of each attempt the first recorded outcome counts, and nothing goes backwards.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ordering::domain::{Decision, Json, OrderRecord, RecordedOutcome, Report, Stage, Status};
use ordering::ports::{Begun, InFlight, Recorded};

use super::scan::scanned;
use crate::support::{
    accepted, after, completed, done, failed, failure, now, order, orders, outcome_of, retry, worker,
};

use Stage::{PreProcessing, Processing, Scheduling};

/// An in-flight store of its own.
pub struct Subject {
    pub in_flight: Arc<dyn InFlight>,
    /// Loses all records, as a crash of a store in memory does; `None` where that cannot happen.
    pub wipe: Option<Wipe>,
    /// What must live as long as the store: its folder, for example.
    #[allow(dead_code, reason = "it is held, not read")]
    pub holds: Box<dyn std::any::Any + Send + Sync>,
}

pub type Wipe = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

macro_rules! suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            in_flight,
            $subject,
            a_record_is_found_as_it_was_put,
            an_unknown_order_has_no_record_and_gets_none,
            a_record_that_has_come_further_is_not_put_back,
            a_record_is_put_again_without_harm,
            the_step_at_work_is_found,
            the_first_recorded_outcome_counts,
            of_many_workers_that_record_at_once_one_is_first,
            a_redelivered_step_brings_its_recorded_outcome_back,
            an_order_that_went_on_has_passed_its_earlier_steps,
            an_ended_record_takes_nothing_more,
            an_end_makes_no_record,
            the_first_end_stays,
            a_record_restored_from_a_message_in_the_middle_goes_on_from_there,
            attempts_are_told_apart,
            an_earlier_attempt_has_passed_once_the_next_was_begun,
            deliveries_of_an_attempt_are_counted,
            a_record_that_missed_a_step_takes_the_message_in_when_the_next_begins,
            a_record_that_missed_a_step_takes_the_message_in_when_the_next_is_recorded,
            an_outcome_that_only_the_message_knows_has_passed,
            a_record_follows_the_message_where_its_own_outcome_was_not_carried_out,
            an_attempt_whose_work_takes_no_time_need_not_be_begun,
            a_later_passage_opens_an_ended_record,
            an_earlier_passage_has_passed,
            a_wiped_store_knows_nothing_and_takes_records_again,
            a_batch_of_256_orders_goes_all_the_way,
            the_orders_of_a_batch_have_replies_of_their_own,
            an_order_that_comes_twice_in_a_batch_is_fenced_as_in_two,
            content_and_reasons_come_back_to_the_letter,
            what_handlers_said_comes_back_to_the_letter,
            an_empty_batch_changes_nothing,
            the_store_says_that_it_is_well,
        );
    };
}
pub(crate) use suite;

pub const FRESH: Begun = Begun::Fresh { deliveries: 1 };

pub async fn put(subject: &Subject, order: &OrderRecord) {
    subject.in_flight.put(std::slice::from_ref(order)).await.unwrap();
}

pub async fn begin(subject: &Subject, stage: Stage, order: &OrderRecord) -> Begun {
    begin_as(subject, "worker-1", stage, order).await
}

async fn begin_as(subject: &Subject, name: &str, stage: Stage, order: &OrderRecord) -> Begun {
    let orders = std::slice::from_ref(order);
    let mut begun = subject.in_flight.begin(stage, &worker(name), now(), orders).await.unwrap();
    assert_eq!(begun.len(), 1);
    begun.remove(0)
}

pub async fn record(subject: &Subject, stage: Stage, order: &OrderRecord, outcome: &RecordedOutcome) -> Recorded {
    let outcomes = [(order, outcome.clone())];
    let mut recorded = subject.in_flight.record(stage, &outcomes).await.unwrap();
    assert_eq!(recorded.len(), 1);
    recorded.remove(0)
}

pub async fn end(subject: &Subject, order: &OrderRecord) {
    subject.in_flight.end(std::slice::from_ref(order)).await.unwrap();
}

pub async fn find(subject: &Subject, order: &OrderRecord) -> Option<OrderRecord> {
    subject.in_flight.find(order.id).await.unwrap()
}

pub async fn status(subject: &Subject, order: &OrderRecord) -> Status {
    find(subject, order).await.expect("a record").history.status()
}

pub async fn a_record_is_found_as_it_was_put(subject: &Subject) {
    let (one, other) = (order(), after(&order(), &[Scheduling]));
    subject.in_flight.put(&[one.clone(), other.clone()]).await.unwrap();
    assert_eq!(find(subject, &one).await, Some(one));
    assert_eq!(find(subject, &other).await, Some(other));
}

pub async fn an_unknown_order_has_no_record_and_gets_none(subject: &Subject) {
    let order = order();
    assert_eq!(find(subject, &order).await, None);
    assert_eq!(begin(subject, Scheduling, &order).await, Begun::Absent);
    assert_eq!(record(subject, Scheduling, &order, &done(Scheduling)).await, Recorded::Absent);
    assert_eq!(find(subject, &order).await, None);
    assert_eq!(begin(subject, Scheduling, &order).await, Begun::Absent);
}

pub async fn a_record_that_has_come_further_is_not_put_back(subject: &Subject) {
    let accepted = order();
    let further = after(&accepted, &[Scheduling, PreProcessing]);
    put(subject, &further).await;
    put(subject, &accepted).await;
    put(subject, &after(&accepted, &[Scheduling])).await;
    assert_eq!(find(subject, &further).await, Some(further.clone()));

    // Nor is one that came further by steps recorded in the store.
    assert_eq!(begin(subject, Processing, &further).await, FRESH);
    let outcome = done(Processing);
    assert_eq!(record(subject, Processing, &further, &outcome).await, Recorded::First);
    put(subject, &further).await;
    let mut expected = further.clone();
    expected.history.record(Processing, &outcome);
    assert_eq!(find(subject, &further).await, Some(expected));
}

pub async fn a_record_is_put_again_without_harm(subject: &Subject) {
    let order = order();
    put(subject, &order).await;
    assert_eq!(begin(subject, Scheduling, &order).await, FRESH);
    put(subject, &order).await;
    assert_eq!(status(subject, &order).await, Status::In(Scheduling));
    assert_eq!(begin(subject, Scheduling, &order).await, Begun::Fresh { deliveries: 2 });
}

pub async fn the_step_at_work_is_found(subject: &Subject) {
    let order = order();
    put(subject, &order).await;
    let entered_at = now();
    let orders = std::slice::from_ref(&order);
    subject.in_flight.begin(Scheduling, &worker("w \"7\" ü:é"), entered_at, orders).await.unwrap();

    let mut expected = order.clone();
    expected.history.enter(Scheduling, 1, entered_at, worker("w \"7\" ü:é"));
    assert_eq!(find(subject, &order).await, Some(expected));
}

pub async fn the_first_recorded_outcome_counts(subject: &Subject) {
    let order = order();
    put(subject, &order).await;
    assert_eq!(begin(subject, Scheduling, &order).await, FRESH);
    let first = done(Scheduling);
    assert_eq!(record(subject, Scheduling, &order, &first).await, Recorded::First);
    assert_eq!(record(subject, Scheduling, &order, &failure("too late")).await, Recorded::Earlier(first.clone()));

    let mut expected = order.clone();
    expected.history.record(Scheduling, &first);
    assert_eq!(find(subject, &order).await, Some(expected));
}

pub async fn of_many_workers_that_record_at_once_one_is_first(subject: &Subject) {
    let order = order();
    put(subject, &order).await;
    assert_eq!(begin(subject, Scheduling, &order).await, FRESH);

    let mut tasks = Vec::new();
    for n in 0..8 {
        let (in_flight, order) = (subject.in_flight.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            let outcome = outcome_of(&format!("worker-{n}"), Decision::Advance(PreProcessing));
            let recorded = in_flight.record(Scheduling, &[(&order, outcome.clone())]).await.unwrap();
            (outcome, recorded[0].clone())
        }));
    }
    let (mut first, mut earlier) = (Vec::new(), Vec::new());
    for task in tasks {
        match task.await.unwrap() {
            (outcome, Recorded::First) => first.push(outcome),
            (_, Recorded::Earlier(outcome)) => earlier.push(outcome),
            (_, other) => panic!("{other:?}"),
        }
    }
    assert_eq!(first.len(), 1);
    assert_eq!(earlier, vec![first[0].clone(); 7]);
}

pub async fn a_redelivered_step_brings_its_recorded_outcome_back(subject: &Subject) {
    for outcome in [done(Scheduling), retry("busy"), failure("no stock")] {
        let order = order();
        put(subject, &order).await;
        assert_eq!(begin(subject, Scheduling, &order).await, FRESH);
        assert_eq!(record(subject, Scheduling, &order, &outcome).await, Recorded::First);
        for _ in 0..2 {
            assert_eq!(begin_as(subject, "worker-2", Scheduling, &order).await, Begun::Recorded(outcome.clone()));
        }
    }
}

pub async fn an_order_that_went_on_has_passed_its_earlier_steps(subject: &Subject) {
    let accepted = order();
    put(subject, &accepted).await;
    begin(subject, Scheduling, &accepted).await;
    let outcome = done(Scheduling);
    record(subject, Scheduling, &accepted, &outcome).await;
    let mut advanced = accepted.clone();
    advanced.history.record(Scheduling, &outcome);
    assert_eq!(begin(subject, PreProcessing, &advanced).await, FRESH);

    assert_eq!(begin(subject, Scheduling, &accepted).await, Begun::Passed);
    assert_eq!(record(subject, Scheduling, &accepted, &done(Scheduling)).await, Recorded::Passed);
    assert_eq!(status(subject, &accepted).await, Status::In(PreProcessing));
}

pub async fn an_ended_record_takes_nothing_more(subject: &Subject) {
    let accepted = order();
    put(subject, &accepted).await;
    begin(subject, Scheduling, &accepted).await;
    let ended = completed(&accepted);
    end(subject, &ended).await;
    assert_eq!(find(subject, &accepted).await, Some(ended.clone()));

    let late = after(&accepted, &[Scheduling, PreProcessing]);
    put(subject, &late).await;
    for (stage, late) in [(Scheduling, &accepted), (Processing, &late)] {
        assert_eq!(begin(subject, stage, late).await, Begun::Passed);
        assert_eq!(record(subject, stage, late, &failure("late")).await, Recorded::Passed);
    }
    assert_eq!(find(subject, &accepted).await, Some(ended));
}

pub async fn an_end_makes_no_record(subject: &Subject) {
    let order = completed(&order());
    end(subject, &order).await;
    assert_eq!(find(subject, &order).await, None);
}

pub async fn the_first_end_stays(subject: &Subject) {
    let accepted = order();
    put(subject, &accepted).await;
    let ended = completed(&accepted);
    end(subject, &ended).await;
    end(subject, &failed(&accepted, "another end")).await;
    assert_eq!(find(subject, &accepted).await, Some(ended));
}

pub async fn a_record_restored_from_a_message_in_the_middle_goes_on_from_there(subject: &Subject) {
    let message = after(&order(), &[Scheduling, PreProcessing]);
    assert_eq!(begin(subject, Processing, &message).await, Begun::Absent);
    put(subject, &message).await;
    assert_eq!(begin(subject, Processing, &message).await, FRESH);
    assert_eq!(status(subject, &message).await, Status::In(Processing));
    let outcome = done(Processing);
    assert_eq!(record(subject, Processing, &message, &outcome).await, Recorded::First);

    let mut expected = message.clone();
    expected.history.record(Processing, &outcome);
    assert_eq!(find(subject, &message).await, Some(expected));
    let late = OrderRecord { history: Default::default(), ..message };
    assert_eq!(begin(subject, Scheduling, &late).await, Begun::Passed);
}

pub async fn attempts_are_told_apart(subject: &Subject) {
    let first = order();
    put(subject, &first).await;
    begin(subject, Scheduling, &first).await;
    let outcome = retry("busy");
    record(subject, Scheduling, &first, &outcome).await;
    let mut second = first.clone();
    second.history.record(Scheduling, &outcome);
    assert_eq!(find(subject, &first).await, Some(second.clone()));

    // The second attempt is a new one, with an outcome of its own.
    let (name, again) = (worker("worker-2"), now());
    let begun = subject.in_flight.begin(Scheduling, &name, again, std::slice::from_ref(&second)).await.unwrap();
    assert_eq!(begun, [FRESH]);
    let mut at_work = second.clone();
    at_work.history.enter(Scheduling, 2, again, name);
    assert_eq!(find(subject, &first).await, Some(at_work));
    let outcome = done(Scheduling);
    assert_eq!(record(subject, Scheduling, &second, &outcome).await, Recorded::First);
    assert_eq!(begin(subject, Scheduling, &second).await, Begun::Recorded(outcome.clone()));

    let mut expected = second.clone();
    expected.history.record(Scheduling, &outcome);
    assert_eq!(expected.history.steps()[0].attempts, 2);
    assert_eq!(find(subject, &first).await, Some(expected));
}

pub async fn an_earlier_attempt_has_passed_once_the_next_was_begun(subject: &Subject) {
    let first = order();
    put(subject, &first).await;
    begin(subject, Scheduling, &first).await;
    let outcome = retry("busy");
    record(subject, Scheduling, &first, &outcome).await;
    let mut second = first.clone();
    second.history.record(Scheduling, &outcome);
    assert_eq!(begin(subject, Scheduling, &second).await, FRESH);

    assert_eq!(begin(subject, Scheduling, &first).await, Begun::Passed);
    assert_eq!(record(subject, Scheduling, &first, &done(Scheduling)).await, Recorded::Passed);
}

pub async fn deliveries_of_an_attempt_are_counted(subject: &Subject) {
    let first = order();
    put(subject, &first).await;
    for deliveries in 1..=4 {
        let name = format!("worker-{deliveries}");
        assert_eq!(begin_as(subject, &name, Scheduling, &first).await, Begun::Fresh { deliveries });
    }
    // Who began it first is who is shown.
    let found = find(subject, &first).await.unwrap();
    assert_eq!(&*found.history.steps()[0].worker, "worker-1");

    let outcome = retry("busy");
    record(subject, Scheduling, &first, &outcome).await;
    let mut second = first.clone();
    second.history.record(Scheduling, &outcome);
    for deliveries in 1..=2 {
        assert_eq!(begin(subject, Scheduling, &second).await, Begun::Fresh { deliveries });
    }
}

pub async fn a_record_that_missed_a_step_takes_the_message_in_when_the_next_begins(subject: &Subject) {
    // Accepted and begun; then the store was out of reach until the next stage, and in a retry's case until the next
    // attempt.
    let accepted = order();
    put(subject, &accepted).await;
    begin(subject, Scheduling, &accepted).await;
    let message = after(&accepted, &[Scheduling, PreProcessing]);
    assert_eq!(begin(subject, Processing, &message).await, FRESH);
    let found = find(subject, &accepted).await.unwrap();
    assert_eq!(found.history.steps()[..2], *message.history.steps());
    assert_eq!(found.history.status(), Status::In(Processing));
    assert_eq!(begin(subject, Scheduling, &accepted).await, Begun::Passed);

    let first = order();
    put(subject, &first).await;
    begin(subject, Scheduling, &first).await;
    let mut second = first.clone();
    second.history.record(Scheduling, &retry("out of reach"));
    assert_eq!(begin(subject, Scheduling, &second).await, FRESH);
    let found = find(subject, &first).await.unwrap();
    assert_eq!(
        (found.history.steps()[0].attempts, found.history.steps()[0].reason.as_deref()),
        (2, Some("out of reach"))
    );
}

pub async fn a_record_that_missed_a_step_takes_the_message_in_when_the_next_is_recorded(subject: &Subject) {
    let accepted = order();
    put(subject, &accepted).await;
    let message = after(&accepted, &[Scheduling, PreProcessing]);
    let outcome = done(Processing);
    assert_eq!(record(subject, Processing, &message, &outcome).await, Recorded::First);
    let mut expected = message.clone();
    expected.history.record(Processing, &outcome);
    assert_eq!(find(subject, &accepted).await, Some(expected));
}

pub async fn an_outcome_that_only_the_message_knows_has_passed(subject: &Subject) {
    // The outcome of the first attempt was never recorded, but the message of the second one brought it.
    let first = order();
    let mut second = first.clone();
    second.history.record(Scheduling, &retry("busy"));
    put(subject, &second).await;
    assert_eq!(begin(subject, Scheduling, &first).await, Begun::Passed);
    assert_eq!(record(subject, Scheduling, &first, &done(Scheduling)).await, Recorded::Passed);
}

pub async fn a_record_follows_the_message_where_its_own_outcome_was_not_carried_out(subject: &Subject) {
    // One worker recorded that the attempt is to be made again; another, who could not reach the store, sent the order on.
    let outcome = done(PreProcessing);
    for has_begun_again in [false, true] {
        let accepted = order();
        put(subject, &accepted).await;
        begin(subject, Scheduling, &accepted).await;
        assert_eq!(record(subject, Scheduling, &accepted, &retry("busy")).await, Recorded::First);
        if has_begun_again {
            let mut second = accepted.clone();
            second.history.record(Scheduling, &retry("busy"));
            begin(subject, Scheduling, &second).await;
        }
        let message = after(&accepted, &[Scheduling]);
        assert_eq!(begin(subject, PreProcessing, &message).await, FRESH);
        assert_eq!(record(subject, PreProcessing, &message, &outcome).await, Recorded::First);
        let mut expected = message.clone();
        expected.history.record(PreProcessing, &outcome);
        assert_eq!(find(subject, &accepted).await, Some(expected.clone()));
        assert_eq!(scanned(subject, &accepted).await, Some(expected));
    }
    // The same, and the begin of the next stage was not noted either.
    let accepted = order();
    put(subject, &accepted).await;
    begin(subject, Scheduling, &accepted).await;
    record(subject, Scheduling, &accepted, &retry("busy")).await;
    let message = after(&accepted, &[Scheduling]);
    assert_eq!(record(subject, PreProcessing, &message, &outcome).await, Recorded::First);
    let mut expected = message.clone();
    expected.history.record(PreProcessing, &outcome);
    assert_eq!(scanned(subject, &accepted).await, Some(expected));

    // The other way round: recorded as done, and sent back to be tried again.
    let accepted = order();
    put(subject, &accepted).await;
    begin(subject, Scheduling, &accepted).await;
    record(subject, Scheduling, &accepted, &done(Scheduling)).await;
    let mut message = accepted.clone();
    message.history.record(Scheduling, &retry("busy"));
    assert_eq!(begin(subject, Scheduling, &message).await, FRESH);
    assert_eq!(scanned(subject, &accepted).await, Some(message));
}

pub async fn an_attempt_whose_work_takes_no_time_need_not_be_begun(subject: &Subject) {
    let mut order = order();
    put(subject, &order).await;
    // Tried again once, then through all stages; another stage of them is begun.
    let outcomes = [(Scheduling, retry("busy")), (Scheduling, done(Scheduling)), (PreProcessing, done(PreProcessing))];
    for (stage, outcome) in outcomes {
        assert_eq!(record(subject, stage, &order, &outcome).await, Recorded::First);
        assert_eq!(record(subject, stage, &order, &retry("late")).await, Recorded::Earlier(outcome.clone()));
        assert_eq!(begin(subject, stage, &order).await, Begun::Recorded(outcome.clone()));
        let before = order.clone();
        order.history.record(stage, &outcome);
        assert_eq!(find(subject, &order).await.as_ref(), Some(&order));
        assert_eq!(scanned(subject, &order).await.as_ref(), Some(&order));
        if stage == PreProcessing {
            assert_eq!(begin(subject, Processing, &order).await, FRESH);
            assert_eq!(record(subject, stage, &before, &retry("late")).await, Recorded::Passed);
        }
    }
    assert_eq!(record(subject, Processing, &order, &done(Processing)).await, Recorded::First);
    let unknown = crate::support::order();
    assert_eq!(record(subject, Scheduling, &unknown, &done(Scheduling)).await, Recorded::Absent);
}

pub async fn a_later_passage_opens_an_ended_record(subject: &Subject) {
    let accepted = order();
    put(subject, &accepted).await;
    end(subject, &failed(&accepted, "no stock")).await;

    let again = OrderRecord { passage: 2, ..accepted.clone() };
    put(subject, &again).await;
    assert_eq!(find(subject, &accepted).await, Some(again.clone()));
    assert_eq!(begin(subject, Scheduling, &again).await, FRESH);
    let outcome = done(Scheduling);
    assert_eq!(record(subject, Scheduling, &again, &outcome).await, Recorded::First);
    let mut expected = again.clone();
    expected.history.record(Scheduling, &outcome);
    assert_eq!(find(subject, &accepted).await, Some(expected));

    // And without having been put, when the store was out of reach at that moment.
    let accepted = order();
    put(subject, &accepted).await;
    end(subject, &failed(&accepted, "no stock")).await;
    let again = OrderRecord { passage: 2, ..accepted.clone() };
    assert_eq!(begin(subject, Scheduling, &again).await, FRESH);
    assert_eq!(status(subject, &accepted).await, Status::In(Scheduling));
    end(subject, &completed(&again)).await;
    assert_eq!(status(subject, &accepted).await, Status::Completed);
}

pub async fn an_earlier_passage_has_passed(subject: &Subject) {
    let first = order();
    let second = OrderRecord { passage: 2, ..first.clone() };
    put(subject, &second).await;
    put(subject, &first).await;
    assert_eq!(begin(subject, Scheduling, &first).await, Begun::Passed);
    assert_eq!(record(subject, Scheduling, &first, &done(Scheduling)).await, Recorded::Passed);
    end(subject, &completed(&first)).await;
    assert_eq!(find(subject, &first).await, Some(second));
}

pub async fn a_wiped_store_knows_nothing_and_takes_records_again(subject: &Subject) {
    let Some(wipe) = &subject.wipe else { return };
    let accepted = order();
    put(subject, &accepted).await;
    begin(subject, Scheduling, &accepted).await;
    wipe().await;

    assert_eq!(find(subject, &accepted).await, None);
    let outcome = done(Scheduling);
    assert_eq!(record(subject, Scheduling, &accepted, &outcome).await, Recorded::Absent);
    let mut advanced = accepted.clone();
    advanced.history.record(Scheduling, &outcome);
    assert_eq!(begin(subject, PreProcessing, &advanced).await, Begun::Absent);
    put(subject, &advanced).await;
    assert_eq!(begin(subject, PreProcessing, &advanced).await, FRESH);
    assert_eq!(begin(subject, Scheduling, &accepted).await, Begun::Passed);
}

pub async fn a_batch_of_256_orders_goes_all_the_way(subject: &Subject) {
    let mut batch = orders(256);
    subject.in_flight.put(&batch).await.unwrap();
    for stage in Stage::ALL {
        let begun = subject.in_flight.begin(stage, &worker("worker-1"), now(), &batch).await.unwrap();
        assert_eq!(begun, vec![FRESH; 256]);
        let outcomes: Vec<_> = batch.iter().map(|order| (order, done(stage))).collect();
        let recorded = subject.in_flight.record(stage, &outcomes).await.unwrap();
        assert_eq!(recorded, vec![Recorded::First; 256]);
        let outcomes: Vec<_> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
        for (order, outcome) in batch.iter_mut().zip(&outcomes) {
            order.history.record(stage, outcome);
        }
        for n in [0, 100, 255] {
            let found = find(subject, &batch[n]).await.unwrap();
            match stage.next() {
                Some(_) => assert_eq!(found, batch[n]),
                // The archive does not have it yet.
                None => assert_eq!(found.history.status(), Status::In(stage)),
            }
        }
    }
    subject.in_flight.end(&batch).await.unwrap();
    for n in [0, 100, 255] {
        assert_eq!(find(subject, &batch[n]).await.as_ref(), Some(&batch[n]));
    }
}

pub async fn the_orders_of_a_batch_have_replies_of_their_own(subject: &Subject) {
    let batch = orders(6);
    let [fresh, absent, recorded, passed, ended, behind] = &batch[..] else { panic!("six orders") };
    for order in [fresh, recorded, passed, ended, behind] {
        put(subject, order).await;
    }
    let outcome = done(Scheduling);
    record(subject, Scheduling, recorded, &outcome).await;
    put(subject, &after(passed, &[Scheduling, PreProcessing])).await;
    end(subject, &completed(ended)).await;
    let behind = OrderRecord { passage: 2, ..behind.clone() };

    let batch = [fresh, absent, recorded, passed, ended, &behind].map(Clone::clone);
    let begun = subject.in_flight.begin(Scheduling, &worker("worker-1"), now(), &batch).await.unwrap();
    let expected = [FRESH, Begun::Absent, Begun::Recorded(outcome.clone()), Begun::Passed, Begun::Passed, FRESH];
    assert_eq!(begun, expected);

    let outcomes: Vec<_> = batch.iter().map(|order| (order, failure("no"))).collect();
    let recorded = subject.in_flight.record(Scheduling, &outcomes).await.unwrap();
    let expected = [
        Recorded::First,
        Recorded::Absent,
        Recorded::Earlier(outcome),
        Recorded::Passed,
        Recorded::Passed,
        Recorded::First,
    ];
    assert_eq!(recorded, expected);
}

pub async fn an_order_that_comes_twice_in_a_batch_is_fenced_as_in_two(subject: &Subject) {
    let [order, unknown] = [order(), order()];
    subject.in_flight.put(&[order.clone(), order.clone()]).await.unwrap();
    let batch = [order.clone(), unknown.clone(), order.clone(), unknown];
    let begun = subject.in_flight.begin(Scheduling, &worker("worker-1"), now(), &batch).await.unwrap();
    assert_eq!(begun, [FRESH, Begun::Absent, Begun::Fresh { deliveries: 2 }, Begun::Absent]);
    let (first, second) = (done(Scheduling), failure("no"));
    let outcomes = [(&order, first.clone()), (&order, second)];
    let recorded = subject.in_flight.record(Scheduling, &outcomes).await.unwrap();
    assert_eq!(recorded, [Recorded::First, Recorded::Earlier(first)]);
    let ended = completed(&order);
    subject.in_flight.end(&[ended.clone(), failed(&order, "no")]).await.unwrap();
    assert_eq!(find(subject, &order).await, Some(ended));

    // Also where the record is behind both.
    let again = OrderRecord { passage: 2, ..order };
    let batch = [again.clone(), again];
    let begun = subject.in_flight.begin(Scheduling, &worker("worker-1"), now(), &batch).await.unwrap();
    assert_eq!(begun, [FRESH, Begun::Fresh { deliveries: 2 }]);
}

pub async fn content_and_reasons_come_back_to_the_letter(subject: &Subject) {
    let metadata = r#"{"b":1.50,"a":1e2,"a b":"\u00e9 é \ud83e\udd80 🦀 \/ \\ \" \t","":[true,null]}"#;
    let order = accepted(metadata);
    put(subject, &order).await;
    begin(subject, Scheduling, &order).await;
    let outcome = retry("\u{0} \"quoted\"\n注文 🦀 \u{7f}");
    record(subject, Scheduling, &order, &outcome).await;
    assert_eq!(begin(subject, Scheduling, &order).await, Begun::Recorded(outcome.clone()));

    let found = find(subject, &order).await.unwrap();
    assert_eq!(found.order.json(), order.order.json());
    assert_eq!(found.order.total(), order.order.total());
    assert_eq!(found.placed_at, order.placed_at);
    let mut expected = order.clone();
    expected.history.record(Scheduling, &outcome);
    assert_eq!(found, expected);
    let ended = failed(&order, "\u{0}\u{fffd}'");
    end(subject, &ended).await;
    assert_eq!(find(subject, &order).await, Some(ended));
}

pub async fn what_handlers_said_comes_back_to_the_letter(subject: &Subject) {
    let mut order = order();
    put(subject, &order).await;
    let result = Json::parse(r#"{"b":1.50,"a":"\u00e9 注文 🦀 ],\"end\"]"}"#).unwrap();
    let report = Report::default().with_note("\"done\" 🦀").with_result(result);
    for stage in Stage::ALL {
        let down = retry("down");
        let Decision::Retry { reason, delay, counts: _ } = down.decision.clone() else { panic!("a retry") };
        let uncounted = RecordedOutcome { decision: Decision::Retry { reason, delay, counts: false }, ..down };
        let said = RecordedOutcome { report: report.clone(), ..done(stage) };
        for outcome in [retry("busy"), uncounted, said] {
            assert_eq!(begin(subject, stage, &order).await, FRESH);
            assert_eq!(record(subject, stage, &order, &outcome).await, Recorded::First);
            assert_eq!(begin(subject, stage, &order).await, Begun::Recorded(outcome.clone()));
            order.history.record(stage, &outcome);
            // An end is shown when the archive has it.
            if order.history.finished_at().is_none() {
                assert_eq!(find(subject, &order).await.as_ref(), Some(&order));
            }
        }
    }
    end(subject, &order).await;
    assert_eq!(find(subject, &order).await, Some(order));
}

pub async fn an_empty_batch_changes_nothing(subject: &Subject) {
    subject.in_flight.put(&[]).await.unwrap();
    let begun = subject.in_flight.begin(Scheduling, &worker("worker-1"), now(), &[]).await;
    assert_eq!(begun.unwrap(), []);
    assert_eq!(subject.in_flight.record(Scheduling, &[]).await.unwrap(), []);
    subject.in_flight.end(&[]).await.unwrap();
}

pub async fn the_store_says_that_it_is_well(subject: &Subject) {
    subject.in_flight.check().await.unwrap();
}

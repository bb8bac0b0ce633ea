//! What [`Cancellations`] and [`InFlight::cancel`](ordering::ports::InFlight::cancel) promise: what was asked for is kept
//! until the order has ended, and no attempt begins after the mark.

use std::sync::Arc;

use ordering::domain::{Cancellation, OrderRecord, Stage, Status};
use ordering::ports::{AskedCancellation, Begun, Cancellations, Cancelling, Recorded};

use super::in_flight::{self, FRESH, begin, end, find, put, record};
use super::scan::scanned;
use crate::support::{after, completed, done, failed, now, order, orders, retry};

use Stage::{PostProcessing, PreProcessing, Scheduling};

/// A store of its own.
pub struct Subject {
    pub cancellations: Arc<dyn Cancellations>,
    /// What must live as long as the store: its folder, for example.
    #[allow(dead_code, reason = "it is held, not read")]
    pub holds: Box<dyn std::any::Any + Send + Sync>,
}

macro_rules! suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            cancellations,
            $subject,
            what_was_asked_for_first_stays,
            it_is_found_by_order_and_passage_until_it_is_settled,
            what_is_open_is_read_in_parts,
        );
    };
}
pub(crate) use suite;

macro_rules! marks_suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            cancellations,
            $subject,
            an_order_that_waits_is_marked_and_nobody_begins_it,
            an_attempt_at_work_is_recorded_and_not_carried_out,
            an_outcome_that_was_recorded_before_leads_nowhere,
            an_end_that_is_recorded_stands,
            what_has_ended_or_is_not_there_is_not_marked,
            a_message_that_knows_more_does_not_lift_a_mark,
            a_later_passage_is_not_marked,
            a_marked_order_is_still_scanned,
        );
    };
}
pub(crate) use marks_suite;

fn why(text: &str) -> Cancellation {
    Cancellation { at: now(), reason: Some(text.into()) }
}

fn asked(order: &OrderRecord, text: &str) -> AskedCancellation {
    AskedCancellation { id: order.id, passage: order.passage, cancellation: why(text) }
}

pub async fn what_was_asked_for_first_stays(subject: &Subject) {
    let order = order();
    let (first, second) = (asked(&order, "\"first\""), asked(&order, "second"));
    assert_eq!(subject.cancellations.ask(&first).await.unwrap(), first);
    assert_eq!(subject.cancellations.ask(&second).await.unwrap(), first);
    let later = AskedCancellation { passage: 2, ..second };
    assert_eq!(subject.cancellations.ask(&later).await.unwrap(), later);
    assert_eq!(subject.cancellations.ask(&first).await.unwrap(), later);
    let silent = AskedCancellation { cancellation: Cancellation { at: now(), reason: None }, ..asked(&order, "") };
    let silent = AskedCancellation { id: crate::support::order().id, ..silent };
    assert_eq!(subject.cancellations.ask(&silent).await.unwrap(), silent);
}

pub async fn it_is_found_by_order_and_passage_until_it_is_settled(subject: &Subject) {
    let (one, other) = (order(), order());
    let asked = asked(&one, "twice");
    subject.cancellations.ask(&asked).await.unwrap();
    let question = [(other.id, 1), (one.id, 1), (one.id, 2)];
    let of = async || subject.cancellations.of(&question).await.unwrap();
    assert_eq!(of().await, [None, Some(asked.cancellation.clone()), None]);
    subject.cancellations.settle(&[(other.id, 1), (one.id, 0)]).await.unwrap();
    assert_eq!(of().await[1], Some(asked.cancellation.clone()));
    subject.cancellations.settle(&[(one.id, 1)]).await.unwrap();
    assert_eq!(of().await, [None, None, None]);
    assert_eq!(subject.cancellations.of(&[]).await.unwrap(), []);
}

pub async fn what_is_open_is_read_in_parts(subject: &Subject) {
    let mut all: Vec<AskedCancellation> = orders(5).iter().map(|order| asked(order, "no")).collect();
    for asked in &all {
        subject.cancellations.ask(asked).await.unwrap();
    }
    all.sort_by_key(|asked| asked.id);
    let open = async |after, max| subject.cancellations.open(after, max).await.unwrap();
    assert_eq!(open(None, 3).await, all[..3]);
    assert_eq!(open(Some(all[2].id), 3).await, all[3..]);
    assert_eq!(open(Some(all[4].id), 3).await, []);
}

async fn cancel(subject: &in_flight::Subject, order: &OrderRecord, why: &Cancellation) -> Cancelling {
    subject.in_flight.cancel(order.id, order.passage, why).await.unwrap()
}

fn cancelled(order: &OrderRecord, why: &Cancellation) -> OrderRecord {
    let mut order = order.clone();
    order.history.cancel(why.clone());
    order
}

pub async fn an_order_that_waits_is_marked_and_nobody_begins_it(subject: &in_flight::Subject) {
    // Accepted; between two stages; to be tried again.
    let accepted = order();
    let mut again = order();
    again.history.record(Scheduling, &retry("busy"));
    for (order, stage) in [(accepted, Scheduling), (after(&order(), &[Scheduling]), PreProcessing), (again, Scheduling)]
    {
        put(subject, &order).await;
        let (first, second) = (why("twice \"ordered\""), why("other"));
        let ended = cancelled(&order, &first);
        assert_eq!(cancel(subject, &order, &first).await, Cancelling::Waits(Box::new(ended.clone())));
        assert_eq!(cancel(subject, &order, &second).await, Cancelling::Waits(Box::new(ended.clone())));
        let begun = Begun::Cancelled { cancellation: first, outcome: None };
        assert_eq!(begin(subject, stage, &order).await, begun);
        assert_eq!(begin(subject, stage, &order).await, begun);
        // Its end is shown when the archive has it.
        assert!(!find(subject, &order).await.unwrap().history.status().has_ended());
        end(subject, &ended).await;
        assert_eq!(find(subject, &order).await, Some(ended));
        assert_eq!(begin(subject, stage, &order).await, Begun::Passed);
    }
}

pub async fn an_attempt_at_work_is_recorded_and_not_carried_out(subject: &in_flight::Subject) {
    for (stage, outcome) in
        [(Scheduling, done(Scheduling)), (Scheduling, retry("busy")), (PostProcessing, done(PostProcessing))]
    {
        let order = match stage {
            Scheduling => order(),
            _ => after(&order(), &Stage::ALL[..3]),
        };
        put(subject, &order).await;
        assert_eq!(begin(subject, stage, &order).await, FRESH);
        let cancellation = why("twice");
        assert_eq!(cancel(subject, &order, &cancellation).await, Cancelling::AtWork);
        // The worker died: the next one does not begin.
        let begun = begin(subject, stage, &order).await;
        assert_eq!(begun, Begun::Cancelled { cancellation: cancellation.clone(), outcome: None });
        let recorded = Recorded::Cancelled { cancellation: cancellation.clone(), outcome: outcome.clone() };
        assert_eq!(record(subject, stage, &order, &outcome).await, recorded);
        // The first outcome counts here too.
        assert_eq!(record(subject, stage, &order, &retry("late")).await, recorded);
        let begun = begin(subject, stage, &order).await;
        assert_eq!(begun, Begun::Cancelled { cancellation: cancellation.clone(), outcome: Some(outcome.clone()) });
        let mut ended = order.clone();
        ended.history.record(stage, &outcome);
        ended.history.cancel(cancellation.clone());
        assert_eq!(cancel(subject, &order, &cancellation).await, Cancelling::Waits(Box::new(ended.clone())));
        assert_eq!(ended.history.status(), Status::Cancelled);
    }
}

pub async fn an_outcome_that_was_recorded_before_leads_nowhere(subject: &in_flight::Subject) {
    let order = order();
    put(subject, &order).await;
    begin(subject, Scheduling, &order).await;
    let outcome = done(Scheduling);
    record(subject, Scheduling, &order, &outcome).await;
    let (cancellation, mut sent_on) = (why("twice"), order.clone());
    sent_on.history.record(Scheduling, &outcome);
    let waits = Cancelling::Waits(Box::new(cancelled(&sent_on, &cancellation)));
    assert_eq!(cancel(subject, &order, &cancellation).await, waits);
    let begun = Begun::Cancelled { cancellation: cancellation.clone(), outcome: None };
    assert_eq!(begin(subject, PreProcessing, &sent_on).await, begun);
    // A worker died before it sent the order on.
    let begun = Begun::Cancelled { cancellation, outcome: Some(outcome) };
    assert_eq!(begin(subject, Scheduling, &order).await, begun);
}

pub async fn an_end_that_is_recorded_stands(subject: &in_flight::Subject) {
    for (stage, outcome) in
        [(PostProcessing, done(PostProcessing)), (PostProcessing, crate::support::failure("no stock"))]
    {
        let order = after(&order(), &Stage::ALL[..3]);
        put(subject, &order).await;
        begin(subject, stage, &order).await;
        record(subject, stage, &order, &outcome).await;
        assert_eq!(cancel(subject, &order, &why("too late")).await, Cancelling::AtWork);
        assert_eq!(begin(subject, stage, &order).await, Begun::Recorded(outcome));
    }
}

pub async fn what_has_ended_or_is_not_there_is_not_marked(subject: &in_flight::Subject) {
    let unknown = order();
    assert_eq!(cancel(subject, &unknown, &why("no")).await, Cancelling::Absent);
    assert_eq!(find(subject, &unknown).await, None);
    for ended in [completed(&order()), failed(&order(), "no")] {
        put(subject, &OrderRecord { history: Default::default(), ..ended.clone() }).await;
        end(subject, &ended).await;
        assert_eq!(cancel(subject, &ended, &why("no")).await, Cancelling::Ended);
    }
}

pub async fn a_message_that_knows_more_does_not_lift_a_mark(subject: &in_flight::Subject) {
    let order = order();
    put(subject, &order).await;
    let cancellation = why("twice");
    cancel(subject, &order, &cancellation).await;
    let further = after(&order, &[Scheduling]);
    put(subject, &further).await;
    let begun = begin(subject, PreProcessing, &further).await;
    assert_eq!(begun, Begun::Cancelled { cancellation: cancellation.clone(), outcome: None });
    let outcome = done(PreProcessing);
    let recorded = record(subject, PreProcessing, &further, &outcome).await;
    assert_eq!(recorded, Recorded::Cancelled { cancellation, outcome });
}

pub async fn a_later_passage_is_not_marked(subject: &in_flight::Subject) {
    let first = failed(&order(), "no");
    put(subject, &OrderRecord { history: Default::default(), ..first.clone() }).await;
    cancel(subject, &first, &why("of the first passage")).await;
    let second = first.next_passage(Stage::FIRST, now()).unwrap();
    assert_eq!(cancel(subject, &second, &why("no record of it yet")).await, Cancelling::Absent);
    put(subject, &second).await;
    assert_eq!(cancel(subject, &first, &why("late")).await, Cancelling::Ended);
    assert_eq!(begin(subject, Stage::FIRST, &second).await, FRESH);
    assert_eq!(begin(subject, Stage::FIRST, &first).await, Begun::Passed);
    assert_eq!(find(subject, &second).await.unwrap().history.earlier(), second.history.earlier());
}

pub async fn a_marked_order_is_still_scanned(subject: &in_flight::Subject) {
    let order = order();
    put(subject, &order).await;
    cancel(subject, &order, &why("twice")).await;
    assert_eq!(scanned(subject, &order).await, Some(order));
}

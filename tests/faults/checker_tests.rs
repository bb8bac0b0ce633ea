//! Whoever trusts the checker wants to have seen it find what it is for.

use std::time::Duration;

use super::checker::{Verdict, Violation, check};
use super::log::{Answer, Log, Outcome, Promise, Read, Row, Step, View};

const STAGES: [&str; 4] = ["scheduling", "pre_processing", "processing", "post_processing"];
/// The order that something happens to.
const N: usize = 7;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn done(stage: usize, worker: &str) -> Step {
    let outcome = Outcome {
        name: "done".into(),
        attempts: 1,
        finished_at: format!("2026-11-24T08:15:30.{stage:03}Z"),
        worker: worker.into(),
    };
    Step { stage: STAGES[stage].into(), outcome: Some(outcome) }
}

/// An order after so many stages, at work at the next one.
fn in_flight(stages: usize) -> View {
    let mut steps: Vec<Step> = (0..stages).map(|stage| done(stage, "w")).collect();
    steps.push(Step { stage: STAGES[stages].into(), outcome: None });
    View { status: STAGES[stages].into(), steps, differing: Vec::new() }
}

fn completed() -> View {
    View { status: "completed".into(), steps: (0..4).map(|stage| done(stage, "w")).collect(), differing: Vec::new() }
}

fn failed() -> View {
    let mut view = in_flight(2);
    let rejected = Outcome { name: "rejected".into(), attempts: 5, finished_at: "later".into(), worker: "w".into() };
    view.steps[2].outcome = Some(rejected);
    view.status = "failed".into();
    view
}

fn read(number: usize, asked_at: u64, answer: Answer) -> Read {
    Read { number, asked_at: at(asked_at), answered_at: at(asked_at + 5), answer }
}

/// Twenty orders that were placed, promised, read all along and archived as they should.
fn good() -> Log {
    let mut log = Log { placed: 20, ..Log::default() };
    for number in 0..20 {
        let id = format!("id-{number}");
        log.promises.push(Promise { number, id: id.clone(), at: at(10) });
        for (n, stages) in (0..4).enumerate() {
            log.reads.push(read(number, 20 + 10 * n as u64, Answer::Found(in_flight(stages))));
        }
        log.reads.push(read(number, 70, Answer::CannotTell));
        log.reads.push(read(number, 80, Answer::Silence));
        log.reads.push(read(number, 90, Answer::Found(completed())));
        log.rows.push(Row { id, number: Some(number), view: completed() });
    }
    log
}

/// The only kind of violation, and what is said of it.
fn only(verdict: &Verdict, violation: Violation) -> String {
    for other in Violation::ALL {
        let expected = usize::from(other == violation);
        assert_eq!(verdict.cases(other).len(), expected, "{}: {:?}", other.as_str(), verdict.cases(other));
    }
    assert!(!verdict.is_clean());
    verdict.cases(violation)[0].clone()
}

#[test]
fn a_good_log_is_clean() {
    let verdict = check(&good());
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!((verdict.accepted, verdict.archived), (20, 20));
}

#[test]
fn an_order_of_unknown_fate_may_be_there_or_not() {
    let mut log = good();
    log.placed += 2;
    log.rows.push(Row { id: "id-20".into(), number: Some(20), view: failed() });
    assert!(check(&log).is_clean());
}

#[test]
fn a_missing_order_is_found() {
    let mut log = good();
    log.rows.remove(N);
    assert!(only(&check(&log), Violation::Missing).starts_with("order 7, id-7: promised at 0.010 s, last read: Found"));
}

#[test]
fn an_order_with_two_rows_or_two_ids_is_found() {
    let mut log = good();
    log.rows.push(Row { id: "another".into(), number: Some(N), view: completed() });
    assert!(only(&check(&log), Violation::Twice).contains("order 7"));

    log.promises.push(Promise { number: N, id: "another".into(), at: at(50) });
    assert_eq!(check(&log).cases(Violation::Twice).len(), 2);
}

#[test]
fn a_promise_under_another_id_than_that_of_the_row_is_missing() {
    let mut log = good();
    log.rows[N].id = "another".into();
    assert_eq!(check(&log).cases(Violation::Missing).len(), 1);
}

#[test]
fn a_row_that_nobody_placed_is_found() {
    for number in [None, Some(20)] {
        let mut log = good();
        log.rows.push(Row { id: "id-20".into(), number, view: completed() });
        assert!(only(&check(&log), Violation::Stranger).contains("id-20"));
    }
}

#[test]
fn an_altered_order_is_found_in_the_archive_and_by_its_readers() {
    let mut log = good();
    log.rows[N].view.differing = vec!["total".into()];
    assert_eq!(only(&check(&log), Violation::Differing), "order 7, row id-7: total");

    let mut log = good();
    let view = View { differing: vec!["items/3/quantity".into()], ..completed() };
    log.reads.push(read(N, 200, Answer::Found(view)));
    assert!(only(&check(&log), Violation::Differing).contains("items/3/quantity"));
}

#[test]
fn a_status_that_goes_backwards_is_found() {
    let mut log = good();
    log.reads.push(read(N, 200, Answer::Found(in_flight(3))));
    let said = only(&check(&log), Violation::Backwards);
    assert!(said.contains("order 7: completed") && said.contains("then post_processing"), "{said}");
}

#[test]
fn an_outcome_that_is_forgotten_again_is_found_though_the_status_is_the_same() {
    let mut log = good();
    let mut between = in_flight(0);
    between.steps = vec![done(0, "w")];
    log.reads.retain(|read| read.number != N);
    log.reads.push(read(N, 20, Answer::Found(between)));
    log.reads.push(read(N, 30, Answer::Found(in_flight(0))));
    only(&check(&log), Violation::Backwards);
}

#[test]
fn reads_that_overlap_may_be_answered_in_any_order() {
    let mut log = good();
    log.reads.push(read(N, 88, Answer::Found(in_flight(3))));
    log.reads.push(read(N, 92, Answer::Found(in_flight(3))));
    assert!(check(&log).is_clean());
}

#[test]
fn another_end_than_the_one_that_was_read_is_found() {
    let mut log = good();
    log.reads.push(read(N, 200, Answer::Found(View { status: "cancelled".into(), ..completed() })));
    only(&check(&log), Violation::Backwards);
}

#[test]
fn a_404_after_a_202_is_found_and_one_before_it_is_none() {
    let mut log = good();
    log.reads.push(read(N, 2, Answer::NotFound));
    assert!(check(&log).is_clean());
    log.reads.push(read(N, 15, Answer::NotFound));
    assert!(only(&check(&log), Violation::NotFound).contains("id-7"));
}

#[test]
fn a_step_with_two_outcomes_is_found_between_readers_and_between_a_reader_and_the_archive() {
    let mut log = good();
    let mut other = in_flight(3);
    other.steps[1] = done(1, "another worker");
    log.reads.push(read(N, 52, Answer::Found(other)));
    let said = only(&check(&log), Violation::TwoOutcomes);
    assert!(said.contains("order 7, pre_processing") && said.contains("another worker"), "{said}");

    let mut log = good();
    log.rows[N].view.steps[3] = done(3, "another worker");
    only(&check(&log), Violation::TwoOutcomes);
}

#[test]
fn a_history_that_does_not_lead_to_its_end_is_found() {
    let mut log = good();
    log.rows[N].view.steps.remove(3);
    only(&check(&log), Violation::BrokenHistory);

    let mut log = good();
    log.rows[N].view.status = "failed".into();
    only(&check(&log), Violation::BrokenHistory);

    let mut log = good();
    log.rows[N].view.steps[2].stage = "scheduling".into();
    assert_eq!(check(&log).cases(Violation::BrokenHistory).len(), 1);
}

#[test]
fn an_odd_answer_is_found() {
    let mut log = good();
    log.reads.push(read(N, 55, Answer::Odd("500".into())));
    only(&check(&log), Violation::OddAnswer);
}

#[test]
fn an_end_that_the_service_did_not_say_is_found() {
    let rejected = |attempts| {
        let mut view = in_flight(1);
        let outcome = Outcome { name: "rejected".into(), attempts, finished_at: "later".into(), worker: "w".into() };
        view.steps[1].outcome = Some(outcome);
        view.status = "failed".into();
        view
    };
    let with = |view: View, is_declined: bool| {
        let mut log = good();
        log.reads.retain(|read| read.number != N);
        log.rows[N].view = view;
        log.declined.extend(is_declined.then_some(N));
        check(&log)
    };
    assert!(with(rejected(1), true).is_clean());
    assert!(with(rejected(5), false).is_clean(), "its attempts are used up");
    assert!(only(&with(rejected(4), false), Violation::NotAsSaid).contains("order 7"));
    assert!(only(&with(completed(), true), Violation::NotAsSaid).contains("order 7"));
}

use std::time::Duration;

use super::*;
use crate::domain::Delay;

fn record(at: i64, decision: Decision) -> RecordedOutcome {
    RecordedOutcome {
        entered_at: Timestamp::from_millis(at),
        finished_at: Timestamp::from_millis(at + 1),
        worker: "w1".into(),
        decision,
        report: Report::default(),
    }
}

fn busy(counts: bool) -> Decision {
    Decision::Retry { reason: "busy".into(), delay: Delay::at_least(Duration::ZERO), counts }
}

#[test]
fn four_steps_done_complete_an_order() {
    let mut history = History::default();
    assert_eq!(history.status(), Status::Accepted);
    for (n, stage) in Stage::ALL.into_iter().enumerate() {
        assert!(history.is_at(stage));
        let decision = stage.next().map_or(Decision::End(End::Completed), Decision::Advance);
        history.record(stage, &record(10 * n as i64, decision));
        assert!(!history.is_at(stage));
    }
    assert_eq!(history.status(), Status::Completed);
    assert_eq!(history.finished_at(), Some(Timestamp::from_millis(31)));
    assert_eq!(History::of(history.steps().to_vec()), Some(history));
}

#[test]
fn a_rejected_step_fails_the_order_and_says_why() {
    let mut history = History::default();
    history.record(Stage::Scheduling, &record(1, Decision::End(End::Failed { reason: "no stock".into() })));
    assert_eq!(history.status(), Status::Failed);
    assert_eq!(history.failure(), Some(Failure { stage: Stage::Scheduling, reason: "no stock".into() }));
    assert!(!history.is_at(Stage::PreProcessing));
}

#[test]
fn attempts_add_up_in_one_step_that_keeps_its_first_moment() {
    let mut history = History::default();
    history.record(Stage::Scheduling, &record(5, busy(true)));
    assert_eq!(history.next_attempt(Stage::Scheduling), 2);
    assert_eq!(history.status(), Status::In(Stage::Scheduling));
    history.record(Stage::Scheduling, &record(50, Decision::Advance(Stage::PreProcessing)));
    let [step] = history.steps() else { panic!("one step") };
    assert_eq!((step.attempts, step.entered_at, step.reason.as_deref()), (2, Timestamp::from_millis(5), None));
}

#[test]
fn a_step_keeps_why_it_was_tried_again_and_what_did_not_count() {
    let mut history = History::default();
    for n in 1..=25 {
        history.record(Stage::Scheduling, &record(10 * n, busy(n % 5 > 0)));
    }
    assert_eq!(history.next_attempts(Stage::Scheduling), Attempts { number: 26, uncounted: 5 });
    history.enter(Stage::Scheduling, 26, Timestamp::from_millis(300), "w2".into());
    assert_eq!(history.steps()[0].retries.len(), RETRIES_KEPT);
    let report = Report::default().with_note("at last");
    let done = record(300, Decision::Advance(Stage::PreProcessing));
    history.record_attempt(Stage::Scheduling, 26, &RecordedOutcome { report: report.clone(), ..done });
    let [step] = history.steps() else { panic!("one step") };
    assert_eq!((step.attempts, step.uncounted, &step.report, &step.reason), (26, 5, &report, &None));
    let (at, reason) = (Timestamp::from_millis(61), "busy".to_owned());
    assert_eq!(step.retries[0], RetriedAttempt { attempt: 6, at, reason, counts: true });
    assert!(step.words_bytes() > report.size_bytes() + RETRIES_KEPT * 4);
    assert_eq!(history.next_attempts(Stage::PreProcessing), Attempts { number: 1, uncounted: 0 });
}

#[test]
fn an_end_is_not_shown_before_the_archive_has_it() {
    let (mut history, worker, at) = (History::default(), Arc::from("w2"), Timestamp::from_millis(3));
    let failed = record(3, Decision::End(End::Failed { reason: "no".into() }));
    history.show_attempt(Stage::Scheduling, 1, at, &worker, Some(&failed));
    assert_eq!(history.status(), Status::In(Stage::Scheduling));
    let done = record(3, Decision::Advance(Stage::PreProcessing));
    history.show_attempt(Stage::Scheduling, 1, at, &worker, Some(&done));
    assert!(history.is_at(Stage::PreProcessing));
}

#[test]
fn a_failed_order_goes_on_in_another_passage_that_keeps_the_first() {
    let mut history = History::default();
    history.record(Stage::Scheduling, &record(1, Decision::Advance(Stage::PreProcessing)));
    assert_eq!(history.next_passage(1, Stage::Scheduling, Timestamp::from_millis(5)), None, "it has not failed");
    history.record(Stage::PreProcessing, &record(3, Decision::End(End::Failed { reason: "no".into() })));
    assert_eq!(history.next_passage(1, Stage::Processing, Timestamp::from_millis(5)), None, "it did not come that far");
    let again = history.next_passage(1, Stage::PreProcessing, Timestamp::from_millis(5)).unwrap();
    assert_eq!((again.steps(), again.status()), (&history.steps()[..1], Status::In(Stage::Scheduling)));
    assert!(again.is_at(Stage::PreProcessing));
    assert_eq!(again.next_attempt(Stage::PreProcessing), 1);
    assert_eq!(
        again.earlier(),
        [EarlierPassage { passage: 1, steps: history.steps().to_vec(), retried_at: Timestamp::from_millis(5) }]
    );
    assert_eq!(again.all_steps().count(), 3);
    let from_the_start = history.next_passage(1, Stage::Scheduling, Timestamp::from_millis(5)).unwrap();
    assert_eq!(from_the_start.status(), Status::Accepted);
    let mut last = again;
    for passage in 2..20 {
        last.record(Stage::PreProcessing, &record(9, Decision::End(End::Failed { reason: "no".into() })));
        last = last.next_passage(passage, Stage::PreProcessing, Timestamp::from_millis(5)).unwrap();
    }
    let kept: Vec<u32> = last.earlier().iter().map(|earlier| earlier.passage).collect();
    assert_eq!(kept, Vec::from_iter(10..20));
}

#[test]
fn a_cancelled_order_has_ended_wherever_it_was() {
    let cancellation = |at| Cancellation { at: Timestamp::from_millis(at), reason: Some("twice".into()) };
    let mut history = History::default();
    history.cancel(cancellation(7));
    history.cancel(cancellation(8));
    assert_eq!((history.status(), history.finished_at()), (Status::Cancelled, Some(Timestamp::from_millis(7))));
    assert!(!history.is_at(Stage::FIRST));

    let mut history = History::default();
    history.record(Stage::Scheduling, &record(8, Decision::End(End::Failed { reason: "no".into() })));
    history.cancel(cancellation(7));
    assert_eq!((history.status(), history.failure()), (Status::Cancelled, None));
    assert_eq!(history.finished_at(), Some(Timestamp::from_millis(9)), "the call under way ended later");
    assert_eq!(history.next_passage(1, Stage::Scheduling, Timestamp::from_millis(5)), None);
}

#[test]
fn steps_out_of_order_are_no_history() {
    let mut history = History::default();
    history.record(Stage::Scheduling, &record(1, Decision::Advance(Stage::PreProcessing)));
    let step = history.steps()[0].clone();
    assert!(History::of(vec![step.clone(), step.clone()]).is_none());
    assert!(History::of(vec![Step { stage: Stage::Processing, ..step.clone() }]).is_none());
    assert!(History::of(vec![Step { finished_at: None, ..step }]).is_none());
}

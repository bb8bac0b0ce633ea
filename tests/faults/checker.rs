//! Says what a log shows that must not be. Pure: it sees nothing but the log, and knows none of the program's types.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::log::{ATTEMPTS_MAX, Answer, Log, Number, Outcome, Read, SERVED, View};

const STAGES: [&str; 4] = ["scheduling", "pre_processing", "processing", "post_processing"];
const ENDS: [&str; 3] = ["completed", "failed", "cancelled"];

/// What was counted, and every violation by its kind.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Orders with a 202.
    pub accepted: usize,
    /// Rows of the archive.
    pub archived: usize,
    violations: BTreeMap<Violation, Vec<String>>,
}

/// What must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// Promised, and not in the archive.
    Missing,
    /// One order that was placed has two ids or two rows.
    Twice,
    /// A row of an order that nobody placed.
    Stranger,
    /// It is not what was placed.
    Differing,
    /// Two outcomes of one stage were seen.
    TwoOutcomes,
    /// It came to another end than the service of a stage said.
    NotAsSaid,
    /// The steps of a row don't lead to its end.
    BrokenHistory,
    /// A 404 for what was promised before it was asked for.
    NotFound,
    /// It had come further when somebody else, or the same reader, had seen it before.
    Backwards,
    /// An answer that no reader should get.
    OddAnswer,
}

impl Violation {
    pub const ALL: [Violation; 10] = [
        Violation::Missing,
        Violation::Twice,
        Violation::Stranger,
        Violation::Differing,
        Violation::TwoOutcomes,
        Violation::NotAsSaid,
        Violation::BrokenHistory,
        Violation::NotFound,
        Violation::Backwards,
        Violation::OddAnswer,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Violation::Missing => "missing",
            Violation::Twice => "twice",
            Violation::Stranger => "never placed",
            Violation::Differing => "contents differing",
            Violation::TwoOutcomes => "steps with two outcomes",
            Violation::NotAsSaid => "ends that no service said",
            Violation::BrokenHistory => "histories that do not lead to their end",
            Violation::NotFound => "404s after a 202",
            Violation::Backwards => "statuses that went backwards",
            Violation::OddAnswer => "odd answers to readers",
        }
    }
}

impl Verdict {
    /// Every case of `violation`, with what is known of it.
    pub fn cases(&self, violation: Violation) -> &[String] {
        self.violations.get(&violation).map_or(&[], Vec::as_slice)
    }

    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    fn found(&mut self, violation: Violation, what: String) {
        self.violations.entry(violation).or_default().push(what);
    }
}

/// Holds the log against the promises.
pub fn check(log: &Log) -> Verdict {
    let mut verdict = Verdict { archived: log.rows.len(), ..Verdict::default() };
    let mut ids: BTreeMap<Number, BTreeSet<&str>> = BTreeMap::new();
    for promise in &log.promises {
        ids.entry(promise.number).or_default().insert(&promise.id);
    }
    verdict.accepted = ids.len();
    check_rows(log, &ids, &mut verdict);
    check_reads(log, &ids, &mut verdict);
    check_outcomes(log, &mut verdict);
    verdict
}

fn check_rows(log: &Log, promised: &BTreeMap<Number, BTreeSet<&str>>, verdict: &mut Verdict) {
    let mut rows: HashMap<Number, Vec<&str>> = HashMap::new();
    for row in &log.rows {
        let Some(number) = row.number.filter(|number| *number < log.placed) else {
            verdict.found(Violation::Stranger, format!("row {} of an order that nobody placed", row.id));
            continue;
        };
        rows.entry(number).or_default().push(&row.id);
        if !row.view.differing.is_empty() {
            let what = format!("order {number}, row {}: {}", row.id, row.view.differing.join(", "));
            verdict.found(Violation::Differing, what);
        }
        if !is_as_said(&row.view, log.declined.contains(&number)) {
            verdict.found(Violation::NotAsSaid, format!("order {number}, row {}: {:?}", row.id, row.view));
        }
        if !leads_to_its_end(&row.view) {
            verdict.found(Violation::BrokenHistory, format!("order {number}, row {}: {:?}", row.id, row.view));
        }
    }
    for (number, ids) in promised {
        let rows = rows.get(number).map_or(&[][..], Vec::as_slice);
        for id in ids.iter().filter(|id| !rows.contains(id)) {
            verdict.found(Violation::Missing, format!("order {number}, {id}: {}", last_seen(log, *number)));
        }
        if ids.len() > 1 {
            verdict.found(Violation::Twice, format!("order {number} was promised as {ids:?}"));
        }
    }
    for (number, ids) in rows.iter().filter(|(_, ids)| ids.len() > 1) {
        verdict.found(Violation::Twice, format!("order {number} has the rows {ids:?}"));
    }
}

/// For who looks for an order that is gone.
fn last_seen(log: &Log, number: Number) -> String {
    let promised = log.promises.iter().find(|promise| promise.number == number).map(|promise| promise.at);
    let last = log.reads.iter().filter(|read| read.number == number).max_by_key(|read| read.answered_at);
    let read = last.map(|read| format!("{:?} at {:.3} s", read.answer, read.answered_at.as_secs_f64()));
    format!(
        "promised at {:.3} s, last read: {}",
        promised.unwrap_or_default().as_secs_f64(),
        read.unwrap_or_else(|| "never".into())
    )
}

/// Completed: every stage done, once, in order. Failed: done up to a stage that was not. Cancelled: done up to anywhere.
fn leads_to_its_end(view: &View) -> bool {
    let in_order =
        view.steps.len() <= STAGES.len() && view.steps.iter().zip(STAGES).all(|(step, stage)| step.stage == stage);
    let outcomes: Vec<Option<&str>> =
        view.steps.iter().map(|step| step.outcome.as_ref().map(|outcome| outcome.name.as_str())).collect();
    let done = outcomes.iter().take_while(|outcome| **outcome == Some("done")).count();
    in_order
        && match view.status.as_str() {
            "completed" => done == STAGES.len(),
            "failed" => done + 1 == outcomes.len() && outcomes[done] == Some("rejected"),
            "cancelled" => done + 1 >= outcomes.len(),
            _ => false,
        }
}

/// What the service declines is rejected there or before; nothing else is, unless all its attempts came to nothing.
fn is_as_said(view: &View, is_declined: bool) -> bool {
    let outcome = view.steps.iter().find(|step| step.stage == SERVED).and_then(|step| step.outcome.as_ref());
    outcome.is_none_or(|outcome| match outcome.name.as_str() {
        "rejected" => is_declined || outcome.attempts >= ATTEMPTS_MAX,
        _ => !is_declined,
    })
}

fn check_reads(log: &Log, promised: &BTreeMap<Number, BTreeSet<&str>>, verdict: &mut Verdict) {
    let mut reads_of: BTreeMap<Number, Vec<&Read>> = BTreeMap::new();
    let promised_at: HashMap<Number, Duration> =
        log.promises.iter().rev().map(|promise| (promise.number, promise.at)).collect();
    for read in &log.reads {
        let at = read.answered_at.as_secs_f64();
        match &read.answer {
            Answer::Found(view) => {
                if !view.differing.is_empty() {
                    let what = format!("order {}, read at {at:.3} s: {}", read.number, view.differing.join(", "));
                    verdict.found(Violation::Differing, what);
                }
                reads_of.entry(read.number).or_default().push(read);
            }
            Answer::NotFound if promised_at.get(&read.number).is_some_and(|promised| *promised <= read.asked_at) => {
                let ids = promised.get(&read.number);
                verdict.found(Violation::NotFound, format!("order {}, {ids:?}, at {at:.3} s", read.number));
            }
            Answer::Odd(what) => {
                verdict.found(Violation::OddAnswer, format!("order {} at {at:.3} s: {what}", read.number));
            }
            Answer::NotFound | Answer::CannotTell | Answer::Silence => {}
        }
    }
    for (number, reads) in &mut reads_of {
        check_order_of_reads(*number, reads, verdict);
    }
}

/// A read that was asked for after another one had been answered must not show less: not even to another reader.
fn check_order_of_reads(number: Number, reads: &mut [&Read], verdict: &mut Verdict) {
    fn view(read: &Read) -> &View {
        match &read.answer {
            Answer::Found(view) => view,
            Answer::NotFound | Answer::CannotTell | Answer::Silence | Answer::Odd(_) => {
                unreachable!("only views are kept")
            }
        }
    }
    let mut by_answer = reads.to_vec();
    by_answer.sort_by_key(|read| read.answered_at);
    reads.sort_by_key(|read| read.asked_at);
    let mut answered = by_answer.into_iter().peekable();
    let mut furthest: Option<&Read> = None;
    for read in reads {
        while let Some(earlier) = answered.next_if(|earlier| earlier.answered_at <= read.asked_at) {
            if furthest.is_none_or(|furthest| progress(view(furthest)) < progress(view(earlier))) {
                furthest = Some(earlier);
            }
        }
        let Some(before) = furthest else { continue };
        let (was, is) = (view(before), view(read));
        let other_end = ENDS.contains(&was.status.as_str()) && was.status != is.status;
        if progress(is) < progress(was) || other_end {
            let what = format!(
                "order {number}: {} with {} outcomes, answered at {:.3} s, then {} with {}, asked for at {:.3} s",
                was.status,
                progress(was).1,
                before.answered_at.as_secs_f64(),
                is.status,
                progress(is).1,
                read.asked_at.as_secs_f64()
            );
            verdict.found(Violation::Backwards, what);
        }
    }
}

/// How far an order has come: the place of its status in the way of an order, and how many stages have come to an outcome.
fn progress(view: &View) -> (usize, usize) {
    let status = match view.status.as_str() {
        "accepted" => 0,
        end if ENDS.contains(&end) => STAGES.len() + 1,
        stage => STAGES.iter().position(|name| *name == stage).map_or(0, |n| n + 1),
    };
    (status, view.steps.iter().filter(|step| step.outcome.is_some()).count())
}

/// Of every stage of an order there must be one outcome, whoever looks and whenever. Handlers are not seen from here:
/// one may well be called twice, but what it came to counts once.
fn check_outcomes(log: &Log, verdict: &mut Verdict) {
    let mut outcomes: BTreeMap<(Number, &str), BTreeSet<&Outcome>> = BTreeMap::new();
    let read = log.reads.iter().filter_map(|read| match &read.answer {
        Answer::Found(view) => Some((read.number, view)),
        Answer::NotFound | Answer::CannotTell | Answer::Silence | Answer::Odd(_) => None,
    });
    let archived = log.rows.iter().filter_map(|row| Some((row.number?, &row.view)));
    for (number, view) in read.chain(archived) {
        for step in &view.steps {
            if let Some(outcome) = &step.outcome {
                outcomes.entry((number, &step.stage)).or_default().insert(outcome);
            }
        }
    }
    for ((number, stage), outcomes) in outcomes.into_iter().filter(|(_, outcomes)| outcomes.len() > 1) {
        verdict.found(Violation::TwoOutcomes, format!("order {number}, {stage}: {outcomes:?}"));
    }
}

//! What a run prints: a line for each fault while it lasts, and the table at its end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::checker::{Verdict, Violation};
use super::kinds::Kind;
use super::log::{Answer, Log};

/// Cases of a violation that are told in full.
const CASES_MAX: usize = 10;

/// A fault that was carried out. Times are those of the log.
#[derive(Clone, Debug)]
pub struct Struck {
    pub kind: Kind,
    pub target: String,
    pub from: Duration,
    /// When the part ran again.
    pub healed: Duration,
    /// When every process said that it was ready; `None` if that did not come.
    pub ready: Option<Duration>,
}

impl Struck {
    fn until(&self) -> Duration {
        self.ready.unwrap_or(self.healed)
    }
}

/// The longest time within `from` and `until` in which no order was accepted. A silence counts as a whole, even if it
/// began before.
pub fn longest_gap(accepted_at: &[Duration], from: Duration, until: Duration) -> Duration {
    let mut times: Vec<Duration> = accepted_at.to_vec();
    times.sort();
    let first = times.iter().rposition(|at| *at <= from).unwrap_or(0);
    let last = times.iter().position(|at| *at >= until).map_or(times.len(), |n| n + 1);
    let mut before = times.get(first).copied().filter(|at| *at <= from).unwrap_or(from);
    let mut longest = Duration::ZERO;
    for at in times[first.min(last)..last].iter().copied().filter(|at| *at > from).chain((last == times.len()).then_some(until)) {
        longest = longest.max(at.saturating_sub(before));
        before = before.max(at);
    }
    longest
}

/// Everything that a run came to.
pub struct Outcome<'a> {
    pub log: &'a Log,
    pub verdict: &'a Verdict,
    pub struck: &'a [Struck],
    /// From the end of the load until all that was accepted was in the archive; `None` if that did not come.
    pub drained_in: Option<Duration>,
    /// What else must not be, in words.
    pub complaints: &'a [String],
    pub refused: usize,
    pub unanswered: usize,
}

impl Outcome<'_> {
    pub fn is_good(&self) -> bool {
        self.verdict.is_clean() && self.complaints.is_empty() && self.drained_in.is_some()
    }

    /// The table, and what is known of every violation.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |what: &str, value: String| writeln!(text, "{what:<40} {value:>10}").expect("memory takes it");
        line("placed", self.log.placed.to_string());
        line("accepted", self.verdict.accepted.to_string());
        line("archived", self.verdict.archived.to_string());
        for violation in Violation::ALL {
            line(violation.as_str(), self.verdict.cases(violation).len().to_string());
        }
        line("other complaints", self.complaints.len().to_string());
        line("seconds to drain", self.drained_in.map_or("never".into(), seconds));
        line("requests refused with 503", self.refused.to_string());
        line("requests without an answer", self.unanswered.to_string());
        line("reads", self.log.reads.len().to_string());
        for (what, count) in self.answers() {
            line(&format!("  {what}"), count.to_string());
        }
        text.push_str(&self.faults());
        for violation in Violation::ALL {
            let cases = self.verdict.cases(violation);
            for case in cases.iter().take(CASES_MAX) {
                let _ = writeln!(text, "{}: {case}", violation.as_str());
            }
            if cases.len() > CASES_MAX {
                let _ = writeln!(text, "{}: {} more", violation.as_str(), cases.len() - CASES_MAX);
            }
        }
        for complaint in self.complaints {
            let _ = writeln!(text, "complaint: {complaint}");
        }
        text
    }

    fn answers(&self) -> BTreeMap<&'static str, usize> {
        let mut answers = BTreeMap::new();
        for read in &self.log.reads {
            let what = match &read.answer {
                Answer::Found(_) => "200",
                Answer::NotFound => "404",
                Answer::CannotTell => "503",
                Answer::Silence => "no answer",
                Answer::Odd(_) => "odd",
            };
            *answers.entry(what).or_default() += 1;
        }
        answers
    }

    /// A line for each kind of fault.
    fn faults(&self) -> String {
        let accepted_at: Vec<Duration> = self.log.promises.iter().map(|promise| promise.at).collect();
        let mut kinds: BTreeMap<Kind, Vec<&Struck>> = BTreeMap::new();
        for struck in self.struck {
            kinds.entry(struck.kind).or_default().push(struck);
        }
        let mut text = format!(
            "\n{:<22} {:>5} {:>24} {:>24}\n",
            "fault", "times", "seconds without service", "seconds until all ready"
        );
        for (kind, times) in kinds {
            let gap = times.iter().map(|struck| longest_gap(&accepted_at, struck.from, struck.until())).max();
            let ready = times.iter().map(|struck| struck.ready.map(|ready| ready.saturating_sub(struck.healed)));
            let slowest = if times.iter().any(|struck| struck.ready.is_none()) { None } else { ready.flatten().max() };
            let _ = writeln!(
                text,
                "{:<22} {:>5} {:>24} {:>24}",
                kind.name(),
                times.len(),
                seconds(gap.unwrap_or_default()),
                slowest.map_or("never".into(), seconds)
            );
        }
        text.push('\n');
        text
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64())
}

#[test]
fn the_longest_gap_is_that_of_the_time_asked_for() {
    let at = Duration::from_secs;
    let accepted: Vec<Duration> = [1, 2, 3, 9, 10, 11, 30].map(at).to_vec();
    assert_eq!(longest_gap(&accepted, at(2), at(10)), at(6));
    assert_eq!(longest_gap(&accepted, at(5), at(6)), at(6), "it began before and lasted longer");
    assert_eq!(longest_gap(&accepted, at(9), at(11)), at(1));
    assert_eq!(longest_gap(&accepted, at(10), at(40)), at(19));
    assert_eq!(longest_gap(&accepted, at(31), at(40)), at(10), "nothing came any more");
    assert_eq!(longest_gap(&[], at(3), at(8)), at(5));
}

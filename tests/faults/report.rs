//! What a run prints: a line for each fault while it lasts, and the table at its end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::checker::{Verdict, Violation};
use super::kinds::Kind;
use super::log::{Answer, Log, Promise};

/// Cases of a violation that are told in full.
const CASES_MAX: usize = 10;

/// A fault that was carried out. Times are those of the log.
#[derive(Clone, Debug)]
pub struct Struck {
    pub kind: Kind,
    pub from: Duration,
    /// When all that was broken in its round ran again.
    pub healed: Duration,
    /// When every process said that it was ready; `None` if that did not come.
    pub ready: Option<Duration>,
}

impl Struck {
    /// The longest time without service while it lasted, and until all was ready again.
    pub fn longest_gap(&self, promises: &[Promise]) -> Duration {
        let accepted_at: Vec<Duration> = promises.iter().map(|promise| promise.at).collect();
        longest_gap(&accepted_at, self.from, self.ready.unwrap_or(self.healed))
    }
}

/// The longest time within `from` and `until` in which no order was accepted. A silence counts as a whole, even if it
/// began before.
fn longest_gap(accepted_at: &[Duration], from: Duration, until: Duration) -> Duration {
    let mut times = accepted_at.to_vec();
    times.sort();
    let begin = times.iter().rfind(|at| **at <= from).copied().unwrap_or(from);
    let after = times.iter().find(|at| **at >= until).copied().unwrap_or(until);
    let (mut before, mut longest) = (begin, Duration::ZERO);
    for at in times.into_iter().filter(|at| (begin..after).contains(at)).chain([after]) {
        longest = longest.max(at - before);
        before = at;
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
    /// See [`super::processes::Fleet::panics_of_libraries`].
    pub panics_of_libraries: usize,
    pub refused: usize,
    pub unanswered: usize,
    /// How the service that cannot be relied on answered how many calls.
    pub told: &'a [(&'static str, usize)],
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
        line("panics of libraries, got over", self.panics_of_libraries.to_string());
        line("seconds to drain", self.drained_in.map_or("never".into(), seconds));
        line("requests refused with 503", self.refused.to_string());
        line("requests without an answer", self.unanswered.to_string());
        line("reads", self.log.reads.len().to_string());
        for (what, count) in self.answers() {
            line(&format!("  {what}"), count.to_string());
        }
        line("calls of the service", self.told.iter().map(|(_, count)| count).sum::<usize>().to_string());
        for (how, count) in self.told {
            line(&format!("  answered {how}"), count.to_string());
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
        let mut kinds: BTreeMap<Kind, Vec<&Struck>> = BTreeMap::new();
        for struck in self.struck {
            kinds.entry(struck.kind).or_default().push(struck);
        }
        let mut text = format!(
            "\n{:<22} {:>5} {:>24} {:>24}\n",
            "fault", "times", "seconds without service", "seconds until all ready"
        );
        for (kind, times) in kinds {
            let gap = times.iter().map(|struck| struck.longest_gap(&self.log.promises)).max();
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

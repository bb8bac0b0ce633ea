//! Many orders under way at once: what is read is sent, what comes back is told and counted.
//!
//! # Failure handling
//! An order whose answer got lost is sent again with its Idempotency-Key (see [`super::send`]). When the server has
//! answered nothing for as long as one order is tried, or gives answers that are none, sending stops: what follows
//! would fare no better.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::http::ProblemDocument;
use super::input::{Input, Read};
use super::printable;
use super::report::{Report, Tally};
use super::send::{Sender, Sent};
use super::wait::Waited;
use crate::domain::OrderId;

/// So many useless answers in a row are not about the orders.
const USELESS_ANSWERS_MAX: u32 = 10;
/// How long requests under way may take to end after Ctrl-C.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// One call of `submit`.
pub struct Sending {
    sender: Arc<Sender>,
    report: Arc<Report>,
    tally: Tally,
    /// `None` if nobody waits.
    waited: Option<Waited>,
    /// Orders that were accepted or refused.
    answered: u64,
    useless_in_a_row: u32,
    /// Whether nothing more is to be sent.
    is_over: bool,
}

/// An order that is done with.
struct Finished {
    line: u64,
    /// [`Sending::answered`] when it was first sent.
    answered_before: u64,
    sent: Sent,
}

impl Sending {
    pub fn new(sender: Sender, report: Arc<Report>, waits: bool) -> Sending {
        Sending {
            sender: Arc::new(sender),
            report,
            tally: Tally::default(),
            waited: waits.then(Waited::new),
            answered: 0,
            useless_in_a_row: 0,
            is_over: false,
        }
    }

    /// What became of the orders, and those to wait for if somebody does.
    pub fn into_result(self) -> (Tally, Option<Waited>) {
        (self.tally, self.waited)
    }

    /// Sends all that is read, at most `at_once` at a time, until everything has its answer or `stop` is cancelled.
    pub async fn run(&mut self, mut input: Input, at_once: usize, stop: &CancellationToken) {
        let mut under_way = JoinSet::new();
        let mut is_read = false;
        loop {
            let is_more_to_come = !is_read && !self.is_over;
            if !is_more_to_come && under_way.is_empty() {
                break;
            }
            let takes_more = is_more_to_come && under_way.len() < at_once;
            tokio::select! {
                () = stop.cancelled() => break,
                Some(finished) = under_way.join_next(), if !under_way.is_empty() => self.finish(finished),
                read = input.orders.recv(), if takes_more => match read {
                    Some(read) => self.begin(read, &mut under_way),
                    None => is_read = true,
                },
            }
            self.report.progress(input.bytes_read.load(Ordering::Relaxed), &self.tally);
        }
        if !stop.is_cancelled() {
            return;
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while let Ok(Some(finished)) = timeout_at(deadline, under_way.join_next()).await {
            self.finish(finished);
        }
        if !under_way.is_empty() {
            let count = under_way.len();
            self.tally.not_sent += count as u64;
            self.report
                .error(&format!("{count} orders were under way and have no answer: they may have been accepted"));
        }
    }

    fn begin(&mut self, read: Read, under_way: &mut JoinSet<Finished>) {
        match read {
            Read::Order { line, json } => {
                let sender = self.sender.clone();
                let answered_before = self.answered;
                under_way.spawn(async move { Finished { line, answered_before, sent: sender.send(json).await } });
            }
            Read::Unusable { line, why } => {
                self.tally.refused += 1;
                self.report.error(&format!("line {line}: not sent: {why}"));
            }
            Read::Broken(why) => {
                self.tally.not_sent += 1;
                self.report.error(&format!("error: {why}"));
            }
        }
    }

    fn finish(&mut self, finished: Result<Finished, JoinError>) {
        let Finished { line, answered_before, sent } = match finished {
            Ok(finished) => finished,
            Err(error) => {
                self.tally.not_sent += 1;
                self.report.error(&format!("error: sending an order failed: {error}"));
                return;
            }
        };
        match sent {
            Sent::Accepted(accepted) => {
                self.answered += 1;
                self.useless_in_a_row = 0;
                self.tally.accepted += 1;
                self.report.status(line, &accepted.id, &printable(&accepted.status));
                if let (Some(waited), Some(id)) = (&mut self.waited, OrderId::parse(&accepted.id)) {
                    waited.insert(line, id);
                }
            }
            Sent::Refused(problem) => {
                self.answered += 1;
                self.useless_in_a_row = 0;
                self.tally.refused += 1;
                self.report.error(&refusal(line, &problem));
            }
            Sent::GivenUp(trouble) => {
                self.tally.not_sent += 1;
                self.report.error(&format!("line {line}: not sent: {trouble}"));
                self.useless_in_a_row += 1;
                let answers_nobody = trouble.is_passing && self.answered == answered_before;
                if answers_nobody || self.useless_in_a_row >= USELESS_ANSWERS_MAX {
                    self.give_up(trouble.is_unreachable);
                }
            }
            Sent::Stopped => {
                self.tally.not_sent += 1;
                self.report.error(&format!("line {line}: not sent: stopped"));
            }
        }
    }

    fn give_up(&mut self, is_unreachable: bool) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.report.error("error: giving up: what follows is not sent");
        if is_unreachable {
            self.report.error(super::WHAT_TO_DO);
        }
    }
}

/// Every problem of an order on a line of its own.
fn refusal(line: u64, problem: &ProblemDocument) -> String {
    let mut text = format!("line {line}: refused: {}", problem.text());
    for error in &problem.errors {
        let pointer = match error.pointer.as_str() {
            "" => "the whole order".to_owned(),
            pointer => printable(pointer),
        };
        text.push_str(&format!("\nline {line}:   {pointer}: {}", printable(&error.detail)));
    }
    text
}

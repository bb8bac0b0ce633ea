//! Waits until orders have ended.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::http::{Found, Server};
use super::report::{Ends, Report};
use crate::domain::OrderId;

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Orders to wait for, by the line they came from.
pub type Waited = BTreeMap<u64, OrderId>;

/// Asks for all of them in rounds, so that one that takes long keeps none from being seen; tells each end. Stops when
/// all have ended, at `deadline`, or when it is told to.
pub async fn wait(
    server: &Server,
    mut waited: Waited,
    at_once: usize,
    deadline: Instant,
    stop: &CancellationToken,
    report: &Report,
) -> Ends {
    let mut ends = Ends::default();
    let mut pause = PAUSE_MIN;
    let mut in_trouble = false;
    let mut lost = 0;
    while !waited.is_empty() {
        let ended_before = ends.count() + lost;
        let round: Vec<(u64, OrderId)> = waited.iter().map(|(line, id)| (*line, *id)).collect();
        let mut answers = futures_util::stream::iter(round)
            .map(|(line, id)| async move { (line, id, server.get(id).await) })
            .buffer_unordered(at_once);
        let mut asked_to_wait = Duration::ZERO;
        loop {
            let answer = tokio::select! {
                answer = answers.next() => answer,
                () = tokio::time::sleep_until(deadline) => return ends.with_rest(waited.len() as u64 + lost),
                () = stop.cancelled() => return ends.with_rest(waited.len() as u64 + lost),
            };
            let Some((line, id, found)) = answer else {
                break;
            };
            match found {
                Found::Order(order, _) => {
                    in_trouble = false;
                    if !order.has_ended() {
                        continue;
                    }
                    waited.remove(&line);
                    match order.status.as_str() {
                        "completed" => ends.completed += 1,
                        "cancelled" => ends.cancelled += 1,
                        _ => ends.failed += 1,
                    }
                    report.status(line, &id.to_string(), &order.status);
                    if let Some(failure) = order.failure_text() {
                        report.error(&format!("line {line}: order {id} failed {failure}"));
                    }
                }
                Found::NoSuchOrder => {
                    waited.remove(&line);
                    lost += 1;
                    report.error(&format!("line {line}: the server knows no order {id}"));
                }
                Found::Trouble(trouble) if trouble.is_passing => {
                    // The rest of the round would meet the same trouble.
                    asked_to_wait = trouble.retry_after.unwrap_or(PAUSE_MAX);
                    if !std::mem::replace(&mut in_trouble, true) {
                        report.error(&format!("{trouble}; trying again"));
                    }
                    break;
                }
                Found::Trouble(trouble) => {
                    waited.remove(&line);
                    lost += 1;
                    report.error(&format!("line {line}: order {id}: {trouble}"));
                }
            }
        }
        drop(answers);
        pause = match ends.count() + lost > ended_before {
            true => PAUSE_MIN,
            false => (pause * 2).min(PAUSE_MAX),
        };
        if !waited.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(pause.max(asked_to_wait)) => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = stop.cancelled() => {}
            }
        }
    }
    ends.with_rest(lost)
}

impl Ends {
    fn count(&self) -> u64 {
        self.completed + self.failed + self.cancelled
    }

    fn with_rest(self, not_ended: u64) -> Ends {
        Ends { not_ended, ..self }
    }
}

//! The in-flight store: one narrow row for each order, which says how far it has come.
//!
//! # Layout
//! A message brings the history up to the attempt it is for, recorded outcomes included. So a row needs to hold no more
//! than that history and the one attempt after it (begun when, by whom, with which outcome), and `begin` replaces
//! the lot. What the customer placed is written once, beside it. Measured with 30,000 orders of 600 bytes, in groups
//! of 256, through four stages: 8.8 KiB written for each order; with events appended to the row 9.0, with a row for
//! each event 12.7 (and 1.5 to 2 times the time), with the content in the same row 15.0.
//!
//! # Invariants
//! - `progress` of a row only grows, but for a put or a step of a later passage over an order that has ended.
//! - `outcome` belongs to the attempt `progress` points at, and the first one written stays.
//! - A row with `expires_at` takes nothing more. It is kept for its time to live, and not deleted at once, because it is
//!   what tells a late duplicate, and above all a late `put`, that the order has ended. Its content goes at once if
//!   the archive, in the same file, has it: then `find` reads it there.
//! - A row of a derived id belongs to one content: another one comes in only as long as nobody has begun it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;

use super::archive;
use super::database::unavailable_row;
use super::readers::Readers;
use super::rows::{self, Attempt, Known, Row};
use super::stored_order::{Stored, UnreadableRow, find_in_flight, find_unmoved, scan_in_flight};
use super::writer::Writer;
use crate::domain::{Cancellation, Decision, OrderId, OrderRecord, Progress, RecordedOutcome, Stage, Timestamp};
use crate::ports::{Begun, Cancelling, Claim, Clock, InFlight, Recorded, Scan, SystemClock, Unavailable, Unmoved};
use crate::wire;

/// Orders of one part of a scan: a few hundred KiB of them.
const ORDERS_PER_SCAN: u32 = 256;

/// [`InFlight`] over SQLite. Made by [`super::Embedded::open`].
pub struct EmbeddedInFlight {
    writer: Writer,
    readers: Arc<Readers>,
    ended_ttl: Duration,
}

impl EmbeddedInFlight {
    pub(super) fn new(writer: Writer, readers: Arc<Readers>, ended_ttl: Duration) -> Self {
        EmbeddedInFlight { writer, readers, ended_ttl }
    }
}

#[async_trait]
impl InFlight for EmbeddedInFlight {
    async fn put(&self, orders: &[OrderRecord]) -> Result<(), Unavailable> {
        let rows: Vec<Row> = orders.iter().map(Row::of).collect();
        let write = move |connection: &Connection| {
            for row in &rows {
                put(connection, row)?;
            }
            Ok(())
        };
        Ok(self.writer.write(size_bytes(orders), write).await?)
    }

    async fn claim(&self, orders: &[OrderRecord]) -> Result<Vec<Claim>, Unavailable> {
        let rows: Vec<Row> = orders.iter().map(Row::of).collect();
        let write = move |connection: &Connection| {
            rows.iter().map(|row| claim(connection, row)).collect::<rusqlite::Result<Vec<_>>>()
        };
        Ok(self.writer.write(size_bytes(orders), write).await?)
    }

    async fn begin(
        &self,
        stage: Stage,
        worker: &Arc<str>,
        at: Timestamp,
        orders: &[OrderRecord],
    ) -> Result<Vec<Begun>, Unavailable> {
        let attempts: Vec<(Row, Attempt)> =
            orders.iter().map(|order| (Row::of(order), Attempt::next_of(order, stage, at, worker.clone()))).collect();
        let write = move |connection: &Connection| {
            attempts.iter().map(|(row, attempt)| begin(connection, row, attempt)).collect::<rusqlite::Result<Vec<_>>>()
        };
        let begun = self.writer.write(size_bytes(orders), write).await?;
        begun
            .into_iter()
            .zip(orders)
            .map(|(begun, order)| {
                Ok(match begun {
                    Found::Nothing => Begun::Absent,
                    Found::Passed => Begun::Passed,
                    Found::Outcome(json) => Begun::Recorded(decode_outcome(order.id, &json)?),
                    Found::Written(deliveries) => Begun::Fresh { deliveries },
                    Found::Cancelled { cancellation, outcome } => Begun::Cancelled {
                        cancellation: decode_cancellation(order.id, &cancellation)?,
                        outcome: outcome.map(|json| decode_outcome(order.id, &json)).transpose()?,
                    },
                })
            })
            .collect()
    }

    async fn record(
        &self,
        stage: Stage,
        outcomes: &[(&OrderRecord, RecordedOutcome)],
    ) -> Result<Vec<Recorded>, Unavailable> {
        let mut size = 0;
        let attempts: Vec<(Row, Attempt, String)> = outcomes
            .iter()
            .map(|(order, outcome)| {
                size += order.size_bytes();
                let at = outcome.entered_at;
                let attempt = Attempt::next_of(order, stage, at, outcome.worker.clone());
                (Row::of(order), attempt, wire::encode_outcome(outcome))
            })
            .collect();
        let write = move |connection: &Connection| {
            attempts
                .iter()
                .map(|(row, attempt, outcome)| record(connection, row, attempt, outcome))
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        let recorded = self.writer.write(size, write).await?;
        recorded
            .into_iter()
            .zip(outcomes)
            .map(|(recorded, (order, outcome))| {
                Ok(match recorded {
                    Found::Nothing => Recorded::Absent,
                    Found::Passed => Recorded::Passed,
                    Found::Outcome(json) => Recorded::Earlier(decode_outcome(order.id, &json)?),
                    Found::Written(()) => Recorded::First,
                    Found::Cancelled { cancellation, outcome: recorded } => Recorded::Cancelled {
                        cancellation: decode_cancellation(order.id, &cancellation)?,
                        outcome: match recorded {
                            Some(json) => decode_outcome(order.id, &json)?,
                            None => outcome.clone(),
                        },
                    },
                })
            })
            .collect()
    }

    async fn cancel(&self, id: OrderId, passage: u32, cancellation: &Cancellation) -> Result<Cancelling, Unavailable> {
        let (key, json) = (id.to_string(), wire::encode_cancellation(cancellation));
        let marked = self.writer.write(json.len(), move |connection| cancel(connection, &key, passage, &json)).await?;
        let (cancellation, unmoved) = match marked {
            Marked::Nothing => return Ok(Cancelling::Absent),
            Marked::Ended => return Ok(Cancelling::Ended),
            Marked::Ends => return Ok(Cancelling::AtWork),
            Marked::Cancelled(cancellation, unmoved) => (cancellation, unmoved),
        };
        let mut unmoved = unmoved.map_err(|_| unavailable_row("in-flight record", id, "it cannot be read"))?;
        if unmoved.is_at_work {
            return Ok(Cancelling::AtWork);
        }
        unmoved.order.history.cancel(decode_cancellation(id, &cancellation)?);
        Ok(Cancelling::Waits(Box::new(unmoved.order)))
    }

    async fn end(&self, orders: &[OrderRecord]) -> Result<(), Unavailable> {
        let rows: Vec<Row> = orders.iter().map(Row::of).collect();
        let expires_at = SystemClock.now().after(self.ended_ttl);
        let write = move |connection: &Connection| {
            for row in &rows {
                end(connection, row, expires_at)?;
            }
            Ok(())
        };
        Ok(self.writer.write(size_bytes(orders), write).await?)
    }

    /// The records are as durable as the messages: they were never lost.
    async fn whole_since(&self, _now: Timestamp) -> Result<Timestamp, Unavailable> {
        Ok(Timestamp::from_millis(0))
    }

    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        let read = move |connection: &Connection| {
            // Both looks see the same state of the database.
            let transaction = connection.unchecked_transaction()?;
            let key = id.to_string();
            Ok(match find_in_flight(&transaction, &key)? {
                None => None,
                Some(Stored::InArchive) => archive::find(&transaction, &key)?,
                Some(Stored::Here(order)) => Some(*order),
            })
        };
        let Some(found) = self.readers.read(read).await? else {
            return Ok(None);
        };
        found.map(Some).map_err(|reason| unavailable_row("in-flight record", id, &reason))
    }

    /// Along the numbers of the contents: an order has one as long as it is in flight, and always the same.
    async fn scan(&self, cursor: u64) -> Result<Scan, Unavailable> {
        let after = i64::try_from(cursor).unwrap_or(i64::MAX);
        let page = self.readers.read(move |connection| scan_in_flight(connection, after, ORDERS_PER_SCAN)).await?;
        let next = page.last().map(|(n, _)| n.unsigned_abs()).filter(|_| page.len() == ORDERS_PER_SCAN as usize);
        let mut orders = Vec::with_capacity(page.len());
        for (_, unmoved) in page {
            match unmoved {
                Ok(unmoved) => orders.push(unmoved),
                Err(unreadable) => {
                    tracing::warn!(order = unreadable.id, "an in-flight record is unreadable: passed over")
                }
            }
        }
        Ok(Scan { orders, next })
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.writer.check().await
    }
}

/// What a step found.
enum Found<T> {
    Nothing,
    Passed,
    Outcome(String),
    /// Nothing in its way: it is written.
    Written(T),
    /// The order is to go no further; both as JSON. Without an outcome: none but the given one, if there is one.
    Cancelled {
        cancellation: String,
        outcome: Option<String>,
    },
}

/// What marking a row came to.
enum Marked {
    Nothing,
    Ended,
    /// Its end is recorded.
    Ends,
    /// The mark, as JSON, and how the order stands.
    Cancelled(String, Box<Result<Unmoved, UnreadableRow>>),
}

fn cancel(connection: &Connection, id: &str, passage: u32, json: &str) -> rusqlite::Result<Marked> {
    let Some(known) = rows::look(connection, id)?.filter(|known| known.passage >= passage) else {
        return Ok(Marked::Nothing);
    };
    if known.ended || known.passage > passage {
        return Ok(Marked::Ended);
    }
    let mark = match known.cancelled {
        Some(first) => first,
        None => {
            let outcome = known.outcome.and_then(|outcome| wire::decode_outcome(&outcome).ok());
            if outcome.is_some_and(|outcome| matches!(outcome.decision, Decision::End(_))) {
                return Ok(Marked::Ends);
            }
            rows::cancel(connection, id, json)?;
            json.to_owned()
        }
    };
    Ok(match find_unmoved(connection, id)? {
        Some(unmoved) => Marked::Cancelled(mark, Box::new(unmoved)),
        None => Marked::Nothing,
    })
}

/// What a step of an order that is to go no further finds; `None` if it may go on.
fn cancelled<T>(known: &mut Known, row: &Row, attempt: &Attempt) -> Option<Found<T>> {
    if known.ended || known.passage != row.passage || known.progress > attempt.finished {
        return None;
    }
    let cancellation = known.cancelled.take()?;
    let outcome = known.outcome.take().filter(|_| known.progress == attempt.finished);
    Some(Found::Cancelled { cancellation, outcome })
}

fn put(connection: &Connection, row: &Row) -> rusqlite::Result<()> {
    let known = rows::look(connection, &row.id)?;
    if let Some(known) = &known
        && ((known.cancelled.is_some() && known.passage == row.passage)
            || !is_behind(known, row.passage, row.progress)
            || whose(connection, row, known)? == Whose::AnotherForGood)
    {
        return Ok(());
    }
    rows::replace(connection, row, known.as_ref())
}

fn claim(connection: &Connection, row: &Row) -> rusqlite::Result<Claim> {
    let Some(known) = rows::look(connection, &row.id)? else {
        rows::replace(connection, row, None)?;
        return Ok(Claim::New);
    };
    Ok(if rows::is_same_content(connection, row, &known)? {
        // In a later passage it was begun in an earlier one.
        Claim::Same { is_under_way: known.is_begun() || known.passage > row.passage }
    } else {
        Claim::Other
    })
}

/// To which order of its id a row belongs.
#[derive(PartialEq, Eq)]
enum Whose {
    Its,
    /// One of other content, which makes way: nobody has begun it, or its passage is over.
    Another,
    AnotherForGood,
}

fn whose(connection: &Connection, row: &Row, known: &Known) -> rusqlite::Result<Whose> {
    // The ids of all others are of one order only: nothing to look at.
    Ok(if !row.is_derived || rows::is_same_content(connection, row, known)? {
        Whose::Its
    } else if row.passage > known.passage || (row.passage == known.passage && !known.is_begun()) {
        Whose::Another
    } else {
        Whose::AnotherForGood
    })
}

/// Lets the order of a message into a row that belongs to another one and makes way; says whether the row is the order's.
fn enter_row(connection: &Connection, row: &Row) -> rusqlite::Result<bool> {
    if !row.is_derived {
        return Ok(true);
    }
    let Some(known) = rows::look(connection, &row.id)? else {
        return Ok(true);
    };
    match whose(connection, row, &known)? {
        Whose::Its => Ok(true),
        Whose::Another => rows::replace(connection, row, Some(&known)).map(|()| true),
        Whose::AnotherForGood => Ok(false),
    }
}

fn begin(connection: &Connection, row: &Row, attempt: &Attempt) -> rusqlite::Result<Found<u32>> {
    if !enter_row(connection, row)? {
        return Ok(Found::Passed);
    }
    if rows::enter_if_new(connection, row, attempt)? {
        return Ok(Found::Written(1));
    }
    let Some(mut known) = rows::look(connection, &row.id)? else {
        return Ok(Found::Nothing);
    };
    if let Some(cancelled) = cancelled(&mut known, row, attempt) {
        return Ok(cancelled);
    }
    if known.progress == attempt.entered && !known.ended {
        return rows::deliver_again(connection, &row.id).map(Found::Written);
    }
    if !is_behind(&known, row.passage, attempt.entered) {
        return Ok(outcome_or_passed(known, attempt));
    }
    rows::replace(connection, row, Some(&known))?;
    rows::enter_if_new(connection, row, attempt)?;
    Ok(Found::Written(1))
}

fn record(connection: &Connection, row: &Row, attempt: &Attempt, outcome: &str) -> rusqlite::Result<Found<()>> {
    if !enter_row(connection, row)? {
        return Ok(Found::Passed);
    }
    if rows::record_if_entered(connection, &row.id, attempt, outcome)? {
        return Ok(Found::Written(()));
    }
    // Its begin was not noted: its work took no time, or the store was out of reach then.
    if rows::enter_if_new(connection, row, attempt)? {
        rows::record_if_entered(connection, &row.id, attempt, outcome)?;
        return Ok(Found::Written(()));
    }
    let Some(mut known) = rows::look(connection, &row.id)? else {
        return Ok(Found::Nothing);
    };
    if let Some(cancelled) = cancelled(&mut known, row, attempt) {
        if known.progress == attempt.entered {
            rows::record_of_cancelled(connection, &row.id, attempt, outcome)?;
        }
        return Ok(cancelled);
    }
    if !is_behind(&known, row.passage, attempt.finished) {
        return Ok(outcome_or_passed(known, attempt));
    }
    // The attempt's begin was not noted: the store was out of reach then.
    rows::replace(connection, row, Some(&known))?;
    rows::enter_if_new(connection, row, attempt)?;
    rows::record_if_entered(connection, &row.id, attempt, outcome)?;
    Ok(Found::Written(()))
}

/// Whether an order at `progress` of `passage` is news to the row.
fn is_behind(known: &Known, passage: u32, progress: Progress) -> bool {
    if known.ended { known.passage < passage } else { known.progress < progress }
}

/// What the row says of an attempt that it is not behind of.
fn outcome_or_passed<T>(known: Known, attempt: &Attempt) -> Found<T> {
    match known.outcome {
        Some(outcome) if !known.ended && known.progress == attempt.finished => Found::Outcome(outcome),
        // Without an outcome its history came with a message, which was sent after the outcome was carried out.
        _ => Found::Passed,
    }
}

fn end(connection: &Connection, row: &Row, expires_at: Timestamp) -> rusqlite::Result<()> {
    let Some(known) = rows::look(connection, &row.id)? else {
        return Ok(());
    };
    if known.passage > row.passage || (known.ended && known.passage == row.passage) {
        return Ok(());
    }
    let archived = archive::has(connection, &row.id, row.passage)?;
    rows::end(connection, row, &known, expires_at, archived)
}

fn decode_cancellation(id: OrderId, json: &str) -> Result<Cancellation, Unavailable> {
    wire::decode_cancellation(json).map_err(|reason| unavailable_row("in-flight record", id, &reason))
}

fn decode_outcome(id: OrderId, json: &str) -> Result<RecordedOutcome, Unavailable> {
    wire::decode_outcome(json).map_err(|reason| unavailable_row("in-flight record", id, &reason))
}

/// About what an operation on `orders` holds in memory.
fn size_bytes(orders: &[OrderRecord]) -> usize {
    orders.iter().map(OrderRecord::size_bytes).sum()
}

//! The live feed of a single process: the last events, in memory.
//!
//! # Failure handling
//! It ends with the process. Who comes back after a restart is told that there is a gap.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::domain::Event;
use crate::ports::{Clock, Feed, Page, Position, SystemClock, Told, Unavailable};

/// Events kept: some 20 MiB.
const EVENTS_MAX: usize = 100_000;
/// Events read at a time.
const PAGE: usize = 1_000;
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// [`Feed`] in memory.
pub struct EmbeddedFeed {
    /// Tells the feeds of one process after another apart, and grows.
    major: u64,
    kept: Mutex<Kept>,
    /// The number of the last event.
    last: watch::Sender<u64>,
}

struct Kept {
    /// The number of the first of `events`; numbers begin at 1.
    first: u64,
    events: VecDeque<Event>,
    events_max: usize,
}

impl Default for EmbeddedFeed {
    fn default() -> Self {
        EmbeddedFeed::of(EVENTS_MAX)
    }
}

impl EmbeddedFeed {
    /// One that keeps so many events.
    pub fn of(events_max: usize) -> EmbeddedFeed {
        EmbeddedFeed {
            major: u64::try_from(SystemClock.now().as_millis()).unwrap_or(0),
            kept: Mutex::new(Kept { first: 1, events: VecDeque::new(), events_max }),
            last: watch::Sender::new(0),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn position(&self, number: u64) -> Position {
        Position { major: self.major, minor: number, index: 0 }
    }
}

#[async_trait]
impl Feed for EmbeddedFeed {
    fn tell(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut kept = self.kept();
        kept.events.extend(events);
        let too_many = kept.events.len().saturating_sub(kept.events_max);
        kept.events.drain(..too_many);
        kept.first += too_many as u64;
        let last = kept.first + kept.events.len() as u64 - 1;
        drop(kept);
        // Never back, should another one have been faster.
        self.last.send_if_modified(|known| {
            let is_later = last > *known;
            *known = last.max(*known);
            is_later
        });
    }

    fn dropped(&self) -> u64 {
        0
    }

    async fn end(&self) -> Result<Position, Unavailable> {
        let kept = self.kept();
        Ok(self.position(kept.first + kept.events.len() as u64 - 1))
    }

    async fn read(&self, after: Position) -> Result<Page, Unavailable> {
        let kept = self.kept();
        let end = kept.first + kept.events.len() as u64;
        let mut page = Page::default();
        let is_known = after.major == self.major && (kept.first - 1..end).contains(&after.minor);
        let from = match is_known {
            true => after.minor + 1,
            false => kept.first,
        };
        if !is_known && after != Position::START {
            let before = self.position(kept.first - 1);
            page.told.push((before, Told::Gap));
            page.next = Some(before);
        }
        let skipped = usize::try_from(from - kept.first).unwrap_or(usize::MAX);
        for (number, event) in (from..end).zip(kept.events.iter().skip(skipped)).take(PAGE) {
            let position = self.position(number);
            page.told.push((position, Told::Event(event.clone())));
            page.next = Some(position);
        }
        Ok(page)
    }

    async fn wait(&self, after: Position) {
        let mut last = self.last.subscribe();
        let is_later = last.wait_for(|last| *last > after.minor || after.major != self.major);
        let _ = tokio::time::timeout(WAIT_MAX, is_later).await;
    }
}

//! The live feed in Redis: one stream `{namespace}:events` that every process writes to and every process reads.
//!
//! Events that are told while others are being written are written together: one script, one entry. So a loaded process
//! makes some tens of entries a second, whatever it does. The stream keeps the last [`EVENTS_MAX`] events (whole entries
//! of them), counted in `{namespace}:events:count`.
//!
//! It has a connection of its own, so that no order waits behind what is told of others.
//!
//! # Failure handling
//! What cannot be written, or finds no room in the line, is dropped; the next entry says how many that were. When Redis
//! has lost the stream, whoever reads finds that the entry he read last is not there, and is told of a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fred::types::{Key, Value};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::RedisOptions;
use super::calls::number;
use super::connection::{Connection, Script};
use crate::domain::Event;
use crate::ports::{Feed, Page, Position, Told, Unavailable};
use crate::wire;

/// What it is called in errors and logs: the same server, and another connection that may be lost alone.
const PART: &str = "Redis (events)";
/// Events kept, about: 10 to 20 MiB.
const EVENTS_MAX: u64 = 100_000;
/// Batches of events that may wait to be written; each is as large as what a worker does at once.
const WAITING_MAX: usize = 256;
/// Events of one entry, about: at full load a process tells some thousands in [`WRITE_EVERY`].
const EVENTS_PER_ENTRY: usize = 8_192;
/// The least time between two entries of a process. What comes meanwhile goes together.
const WRITE_EVERY: Duration = Duration::from_millis(25);
/// Entries read at a time, and bytes past which no further one is.
const ENTRIES_PER_READ: u64 = 64;
const BYTES_PER_READ: u64 = 512 << 10;
/// How often the stream is looked at while somebody listens.
const READ_EVERY: Duration = Duration::from_millis(100);

static TELL: Script = Script::that_takes_memory(include_str!("tell.lua"));
static LISTEN: Script = Script::that_takes_no_memory(include_str!("listen.lua"));
static LAST: Script = Script::that_takes_no_memory(include_str!("last.lua"));

/// [`Feed`] on Redis.
pub struct RedisFeed {
    connection: Arc<Connection>,
    stream: Key,
    waiting: mpsc::Sender<Vec<Event>>,
    dropped: Arc<AtomicU64>,
    _writer: AbortOnDropHandle<()>,
}

impl RedisFeed {
    /// Connects in the background; it comes back at once. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with the options; final.
    pub fn start(options: &RedisOptions) -> Result<RedisFeed, String> {
        Self::start_with(options, EVENTS_MAX)
    }

    /// As [`RedisFeed::start`], keeping so many events, about.
    ///
    /// # Errors
    /// As [`RedisFeed::start`].
    pub fn start_with(options: &RedisOptions, events_max: u64) -> Result<RedisFeed, String> {
        let connection = Connection::start(&RedisOptions { connections: 1, ..options.clone() }, PART)?;
        let (connection, dropped) = (Arc::new(connection), Arc::new(AtomicU64::new(0)));
        let stream = Key::from(format!("{}:events", options.namespace));
        let (waiting, events) = mpsc::channel(WAITING_MAX);
        let writer = Writer {
            connection: connection.clone(),
            keys: vec![stream.clone(), Key::from(format!("{}:events:count", options.namespace))],
            events_max,
            dropped: dropped.clone(),
            dropped_and_told: 0,
        };
        let writer = AbortOnDropHandle::new(tokio::spawn(writer.run(events)));
        Ok(RedisFeed { connection, stream, waiting, dropped, _writer: writer })
    }
}

struct Writer {
    connection: Arc<Connection>,
    keys: Vec<Key>,
    events_max: u64,
    dropped: Arc<AtomicU64>,
    /// How many of them listeners were told of.
    dropped_and_told: u64,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Vec<Event>>) {
        while let Some(mut events) = waiting.recv().await {
            while events.len() < EVENTS_PER_ENTRY
                && let Ok(more) = waiting.try_recv()
            {
                events.extend(more);
            }
            self.write(&events).await;
            tokio::time::sleep(WRITE_EVERY).await;
        }
    }

    async fn write(&mut self, events: &[Event]) {
        let count = events.len() as u64;
        let dropped = self.dropped.load(Ordering::Relaxed);
        let arguments = vec![
            number(count),
            number(dropped - self.dropped_and_told),
            Value::Bytes(wire::encode_events(events).into()),
            number(self.events_max),
        ];
        match self.connection.run(&TELL, self.keys.clone(), arguments).await {
            Ok(_) => self.dropped_and_told = dropped,
            // It may have been written: events that are told twice are recognised, a gap that is none does no harm.
            Err(unavailable) => {
                tracing::debug!(%unavailable, events = count, "events are not told");
                self.dropped.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}

#[async_trait]
impl Feed for RedisFeed {
    fn tell(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        if let Err(error) = self.waiting.try_send(events) {
            self.dropped.fetch_add(error.into_inner().len() as u64, Ordering::Relaxed);
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    async fn end(&self) -> Result<Position, Unavailable> {
        match self.connection.run(&LAST, vec![self.stream.clone()], Vec::new()).await? {
            Value::Null => Ok(Position::START),
            id => position(&id).ok_or_else(unreadable),
        }
    }

    async fn read(&self, after: Position) -> Result<Page, Unavailable> {
        let id = format!("{}-{}", after.major, after.minor);
        let is_inclusive = after.index != Position::WHOLE;
        let arguments =
            vec![id.into(), number(u64::from(is_inclusive)), number(ENTRIES_PER_READ), number(BYTES_PER_READ)];
        let Value::Array(reply) = self.connection.run(&LISTEN, vec![self.stream.clone()], arguments).await? else {
            return Err(unreadable());
        };
        let mut reply = reply.into_iter();
        let is_known = reply.next().and_then(|known| known.as_u64()).ok_or_else(unreadable)? == 1;
        let entries = reply.map(Entry::read).collect::<Option<Vec<_>>>().ok_or_else(unreadable)?;
        let mut page = Page::default();
        // An empty stream that somebody has read in is one that was lost: with its first entry, it is told.
        if !is_known && after != Position::START && !entries.is_empty() {
            page.told.push((Position::START, Told::Gap));
        }
        for Entry { position, dropped, events } in entries {
            let at = |index: usize| Position { index: u32::try_from(index).unwrap_or(0), ..position };
            // Where the entry is read a second time, for the rest of it, its gap was told the first time.
            if dropped > 0 && at(0) > after {
                page.told.push((at(0), Told::Gap));
            }
            let told = events.into_iter().enumerate().map(|(n, event)| (at(n), Told::Event(event)));
            page.told.extend(told.filter(|(at, _)| !is_known || *at > after));
            page.next = Some(position);
        }
        Ok(page)
    }

    async fn wait(&self, _after: Position) {
        tokio::time::sleep(READ_EVERY).await;
    }
}

/// Events that were written together.
struct Entry {
    /// Past all of them.
    position: Position,
    dropped: u64,
    events: Vec<Event>,
}

impl Entry {
    fn read(reply: Value) -> Option<Entry> {
        let Value::Array(parts) = reply else { return None };
        let [id, dropped, events] = <[Value; 3]>::try_from(parts).ok()?;
        let bytes: Bytes = events.into_bytes()?;
        // What a newer release tells is passed over, as a gap.
        let (dropped, events) = match wire::decode_events(&bytes) {
            Ok(events) => (dropped.as_string()?.parse().ok()?, events),
            Err(_) => (1, Vec::new()),
        };
        Some(Entry { position: position(&id)?, dropped, events })
    }
}

fn position(id: &Value) -> Option<Position> {
    let id = id.as_string()?;
    let (major, minor) = id.split_once('-')?;
    Some(Position { major: major.parse().ok()?, minor: minor.parse().ok()?, index: Position::WHOLE })
}

fn unreadable() -> Unavailable {
    Unavailable::new(PART, "a reply that is no part of the feed")
}

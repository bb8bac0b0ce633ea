//! Streams of server-sent events: what goes over the wire, how many there may be, and when they end.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::problem::Problem;

/// How long a client is to wait before it connects again. Milliseconds.
const RETRY_MS: u32 = 2_000;
/// A comment, which clients pass over: it keeps proxies from closing a silent connection.
const HEARTBEAT: &[u8] = b": alive\n\n";

/// How streams are treated.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Open at once.
    pub streams_max: usize,
    /// The longest silence.
    pub heartbeat: Duration,
}

/// All streams of a process.
pub struct Streams {
    slots: Arc<Semaphore>,
    heartbeat: Duration,
    stopping: CancellationToken,
}

/// What keeps a stream going: its place among the others, its heartbeat and its end.
pub struct Pulse {
    _slot: OwnedSemaphorePermit,
    heartbeat: Duration,
    stopping: CancellationToken,
    beat_at: Instant,
}

/// What woke a stream that waited.
pub enum Woken<T> {
    /// What it waited for.
    Up(T),
    /// It is to say that it lives.
    Beat,
    /// The process stops.
    Stopping,
}

impl Streams {
    pub fn new(options: StreamOptions, stopping: CancellationToken) -> Streams {
        Streams { slots: Arc::new(Semaphore::new(options.streams_max)), heartbeat: options.heartbeat, stopping }
    }

    /// A place for one more.
    pub fn open(&self) -> Result<Pulse, Problem> {
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| Problem::too_many_streams())?;
        Ok(Pulse {
            _slot: slot,
            heartbeat: self.heartbeat,
            stopping: self.stopping.clone(),
            beat_at: Instant::now() + self.heartbeat,
        })
    }
}

impl Pulse {
    /// Waits for `something`, but no longer than until the next heartbeat or the end.
    pub async fn wait<T>(&mut self, something: impl Future<Output = T>) -> Woken<T> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Woken::Stopping,
            woken = something => Woken::Up(woken),
            () = sleep_until(self.beat_at) => {
                self.beat_at = Instant::now() + self.heartbeat;
                Woken::Beat
            }
        }
    }
}

/// The `Last-Event-ID` of a client that connects again; `None` without one, or for one that `read` can make nothing of:
/// it is from elsewhere, and says nothing of what the client has seen.
pub fn last_event_id<T>(request: &HttpRequest, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    request.headers().get("last-event-id").and_then(|id| id.to_str().ok()).and_then(read)
}

/// An event as it goes over the wire. `data` has no line breaks.
pub fn frame(id: Option<&str>, kind: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len() + 96);
    if let Some(id) = id {
        bytes.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    bytes.extend_from_slice(format!("event: {kind}\ndata: ").as_bytes());
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\n\n");
    bytes
}

/// What a stream says first, so that the client knows at once that it is connected.
pub fn hello() -> Vec<u8> {
    format!("retry: {RETRY_MS}\n\n").into_bytes()
}

pub fn heartbeat() -> Vec<u8> {
    HEARTBEAT.to_vec()
}

/// The answer whose body is `frames`.
pub fn answer(frames: impl Stream<Item = Vec<u8>> + 'static) -> HttpResponse {
    use futures_util::StreamExt;
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        // Some proxies collect an answer before they pass it on.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(frames.map(|frame| Ok::<_, std::convert::Infallible>(web::Bytes::from(frame))))
}

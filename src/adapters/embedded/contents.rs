//! Reads messages for a subscription, and knows when what was read is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::mpsc;

use super::messages;
use crate::domain::OrderRecord;
use crate::ports::{Delivery, Unreadable};
use crate::wire;

/// What is read at a time: the message that goes past it is the last.
const READ_BYTES_MAX: usize = 1 << 20;

/// What was read.
pub(super) struct Read {
    pub(super) messages: Vec<Message>,
    /// How many of the ids were looked up.
    pub(super) examined: usize,
}

pub(super) struct Message {
    pub(super) id: i64,
    pub(super) contents: Result<Vec<OrderRecord>, Unreadable>,
    /// Whether the orders were dropped, every one of them, and that after the channel was closed: then the worker never saw
    /// them, or has dropped them since.
    pub(super) dropped: Arc<AtomicBool>,
}

/// Reads and decodes messages; those that are gone (somebody deleted them by hand) are passed over.
pub(super) fn read(
    connection: &Connection,
    ids: &[i64],
    channel: &mpsc::WeakSender<Delivery>,
) -> rusqlite::Result<Read> {
    let mut read = Read { messages: Vec::with_capacity(ids.len()), examined: 0 };
    let mut size_bytes = 0;
    for id in ids {
        if size_bytes >= READ_BYTES_MAX {
            break;
        }
        read.examined += 1;
        let bytes = match messages::body(connection, *id) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
                // It must not stop those behind it, and there are no bytes to bury: it stays where it is, passed over
                // until the next start.
                tracing::error!(id, %error, "a message is damaged and cannot be delivered");
                continue;
            }
            Err(error) => return Err(error),
        };
        size_bytes += bytes.len();
        let dropped = Arc::new(AtomicBool::new(false));
        let body = Bytes::from_owner(Body { bytes, channel: channel.clone(), dropped: dropped.clone() });
        read.messages.push(Message { id: *id, contents: wire::decode_batch(&body), dropped });
    }
    Ok(read)
}

/// The bytes of a message, which every order in it shares.
struct Body {
    bytes: Vec<u8>,
    channel: mpsc::WeakSender<Delivery>,
    dropped: Arc<AtomicBool>,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.channel.upgrade().is_none_or(|channel| channel.is_closed()) {
            self.dropped.store(true, Ordering::Release);
        }
    }
}

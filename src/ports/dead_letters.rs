//! What no worker can make sense of, kept for a person to look at.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use super::{Source, Unavailable};
use crate::domain::Timestamp;

/// Names a dead letter for good: however often it is delivered to whoever keeps it, it is one letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadLetterId(Uuid);

impl DeadLetterId {
    pub const fn from_uuid(uuid: Uuid) -> Self {
        DeadLetterId(uuid)
    }

    pub fn as_uuid(self) -> Uuid {
        self.0
    }

    /// Reads the hyphenated form, upper or lower case; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        // The uuid crate would also read other forms: one letter, one address.
        (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten().map(DeadLetterId)
    }

    /// A new one; `random` makes it the only one of its millisecond.
    pub fn new(at: Timestamp, random: [u8; 10]) -> Self {
        let ms = u64::try_from(at.as_millis()).unwrap_or(0);
        DeadLetterId(uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid())
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

/// A message that nobody can read, and where and why it was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub id: DeadLetterId,
    /// The queue it was taken from, and goes back to when it is replayed.
    pub source: Source,
    pub reason: String,
    pub at: Timestamp,
    pub bytes: Bytes,
}

/// Which dead letters to list, newest first.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetterPage {
    /// Only those of this queue.
    pub source: Option<Source>,
    /// Only those older than this one: the last of the page before.
    pub before: Option<(Timestamp, DeadLetterId)>,
    /// At most so many.
    pub letters_max: u32,
}

/// Keeps dead letters until a person has decided what becomes of them.
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Keeps these, all in one transaction. One that is kept already (by its id) changes nothing.
    ///
    /// # Errors
    /// [`Unavailable`]; all of them were kept, or none.
    async fn keep(&self, letters: &[DeadLetter]) -> Result<(), Unavailable>;

    /// A page of them, newest first.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn list(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, Unavailable>;

    /// One of them; `None` if there is none of this id.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn find(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, Unavailable>;

    /// Removes one; whether it was there.
    ///
    /// # Errors
    /// [`Unavailable`]; it is gone, or not.
    async fn remove(&self, id: DeadLetterId) -> Result<bool, Unavailable>;

    /// How many there are.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn count(&self) -> Result<u64, Unavailable>;
}

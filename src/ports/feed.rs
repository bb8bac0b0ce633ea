//! What happens to all orders, for those who listen at the moment.

use std::fmt;

use async_trait::async_trait;

use super::Unavailable;
use crate::domain::Event;

/// Tells events to everybody who listens, in whichever process. It keeps the last of them for those who come back after
/// a while, and promises no more than that: it is for screens. What must arrive is what [`super::Webhooks`] is for.
#[async_trait]
pub trait Feed: Send + Sync + 'static {
    /// Takes events to be told. It neither waits nor fails: no order is held up by who listens. What finds no room, or
    /// cannot be told, is dropped and counted, and listeners are told that there is a gap.
    fn tell(&self, events: Vec<Event>);

    /// How many events this process has dropped.
    fn dropped(&self) -> u64;

    /// Where the feed ends now.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn end(&self) -> Result<Position, Unavailable>;

    /// What came after `after`, some of it at a time.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn read(&self, after: Position) -> Result<Page, Unavailable>;

    /// Waits until there may be something after `after`; not for long.
    async fn wait(&self, after: Position);
}

/// A part of the feed.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In the order in which it was told, each with its position.
    pub told: Vec<(Position, Told)>,
    /// Where to go on reading; `None` if nothing came.
    pub next: Option<Position>,
}

/// What the feed has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Event(Event),
    /// Here something is missing: it was dropped, or it is not kept any more.
    Gap,
}

/// A place in the feed. Greater ones come later, as long as the feed is not lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub major: u64,
    pub minor: u64,
    /// Which of the events that were told together.
    pub index: u32,
}

impl Position {
    /// The beginning, wherever that is: nothing is missing before what comes first.
    pub const START: Position = Position { major: 0, minor: 0, index: Position::WHOLE };
    /// Past all events that were told together.
    pub const WHOLE: u32 = u32::MAX;

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Position> {
        let mut numbers = text.split('-');
        let position = Position {
            major: numbers.next()?.parse().ok()?,
            minor: numbers.next()?.parse().ok()?,
            index: numbers.next()?.parse().ok()?,
        };
        numbers.next().is_none().then_some(position)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.major, self.minor, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let position = Position { major: 1_764_000_000_007, minor: 3, index: 255 };
        assert_eq!(Position::parse(&position.to_string()), Some(position));
        for wrong in ["", "1", "1-2", "1-2-3-4", "1-2-x", "1000003", "-1-2-3"] {
            assert_eq!(Position::parse(wrong), None, "{wrong}");
        }
    }
}

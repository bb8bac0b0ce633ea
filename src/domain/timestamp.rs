//! A moment, to the millisecond: the resolution in which the whole system speaks of time.

use std::fmt;
use std::time::Duration;

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest and latest moments RFC 3339 can write (years 0001 to 9999), in milliseconds.
    const RANGE_MS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_207_200_000;

    /// A moment `ms` milliseconds after the Unix epoch; moments outside the years 1 to 9999 are moved to the nearest.
    pub fn from_millis(ms: i64) -> Self {
        Timestamp(ms.clamp(*Self::RANGE_MS.start(), *Self::RANGE_MS.end()))
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// The moment `delay` later.
    pub fn after(self, delay: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long ago `earlier` was, zero if it is later than this moment (clocks of two machines differ).
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    /// Reads an RFC 3339 moment with any offset; digits past the millisecond are dropped.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|t| Self::from_millis(t.as_millisecond()))
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-11-24T08:15:30.250Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = jiff::Timestamp::from_millisecond(self.0).expect("the constructor keeps it in range");
        write!(f, "{moment:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_in_utc_with_milliseconds_and_read_back() {
        let moment = Timestamp::from_millis(1_764_000_000_007);
        assert_eq!(moment.to_string(), "2025-11-24T16:00:00.007Z");
        assert_eq!(Timestamp::parse("2025-11-24T17:00:00.0079+01:00"), Some(moment));
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn moments_no_calendar_holds_are_moved_into_it() {
        for ms in [i64::MIN, i64::MAX] {
            Timestamp::from_millis(ms).to_string();
        }
        assert_eq!(Timestamp::from_millis(5).since(Timestamp::from_millis(9)), Duration::ZERO);
    }
}

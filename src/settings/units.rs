//! Durations and sizes as people write them: `1m30s`, `256KiB`.

use std::time::Duration;

/// Largest first, in milliseconds: the order in which a duration is written.
const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Largest first, in bytes.
const SIZE_UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Reads `250ms`, `10s`, `5m`, `1h30m`, `30d`; `None` for anything else, a bare number included: a number without its
/// unit has been read as seconds by one person and as milliseconds by another too often.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut millis: u64 = 0;
    let mut rest = text;
    // Each unit at most once and from large to small, so that `5s1m` is not taken for what it may not mean.
    let mut units = DURATION_UNITS.as_slice();
    while !rest.is_empty() {
        let (number, tail) = split_number(rest)?;
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let place = units.iter().position(|(name, _)| *name == unit)?;
        millis = millis.checked_add(number.checked_mul(units[place].1)?)?;
        units = &units[place + 1..];
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_millis(millis))
}

/// Writes a duration so that [`parse_duration`] reads it back, to the millisecond.
pub fn format_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, size) in DURATION_UNITS {
        if millis >= size {
            text.push_str(&format!("{}{name}", millis / size));
            millis %= size;
        }
    }
    text
}

/// Reads `256KiB`, `1MiB` or a plain number of bytes; `None` for anything else.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    let unit = unit.trim_start();
    if unit.is_empty() || unit == "B" {
        return Some(number);
    }
    let (_, size) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(size)
}

/// Writes a size in the largest unit that holds it exactly.
pub fn format_size(bytes: u64) -> String {
    let unit = SIZE_UNITS.into_iter().find(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size));
    match unit {
        Some((name, size)) => format!("{}{name}", bytes / size),
        None => bytes.to_string(),
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, tail) = text.split_at(end);
    Some((digits.parse().ok()?, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_back() {
        for (text, millis) in [
            ("0s", 0),
            ("250ms", 250),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("15m", 900_000),
            ("1h30m", 5_400_000),
            ("30d", 2_592_000_000),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Some(duration), "{text}");
            assert_eq!(format_duration(duration), text);
        }
        assert_eq!(parse_duration("90s"), Some(Duration::from_secs(90)));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "10",
            "s",
            "10 s",
            "1.5s",
            "-1s",
            "5s1m",
            "1s1s",
            "10S",
            "5 parsecs",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_and_written_back() {
        for (text, bytes) in
            [("0", 0), ("1000", 1000), ("1KiB", 1024), ("256KiB", 262_144), ("3MiB", 3 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(format_size(bytes), text);
        }
        assert_eq!(parse_size("64 KiB"), Some(65_536));
        assert_eq!(parse_size("512B"), Some(512));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "KiB", "256KB", "256kib", "1.5MiB", "-1", "99999999999999999GiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}

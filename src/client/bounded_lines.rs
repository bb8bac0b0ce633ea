//! Lines of a stream, none of them larger in memory than a bound.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// One line.
pub enum Line {
    /// Without its end, `\n` or `\r\n`.
    Whole(Vec<u8>),
    /// It is larger than the bound, and was skipped.
    TooLarge,
}

/// Reads lines of a stream and counts what it has read.
pub struct BoundedLines<R> {
    input: R,
    bytes_max: usize,
    bytes_read: u64,
}

impl<R: AsyncBufRead + Unpin> BoundedLines<R> {
    pub fn new(input: R, bytes_max: usize) -> Self {
        BoundedLines { input, bytes_max, bytes_read: 0 }
    }

    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The next line; `None` at the end. Must not be cancelled: what was read of a line would be lost.
    ///
    /// # Errors
    /// As reading the stream.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        let mut is_too_large = false;
        let mut has_begun = false;
        loop {
            let chunk = self.input.fill_buf().await?;
            if chunk.is_empty() && !has_begun {
                return Ok(None);
            }
            has_begun = true;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            is_too_large |= line.len() + part.len() > self.bytes_max;
            if is_too_large {
                line = Vec::new();
            } else {
                line.extend_from_slice(part);
            }
            let is_last = chunk.is_empty() || end.is_some();
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.input.consume(used);
            self.bytes_read += used as u64;
            if is_last {
                break;
            }
        }
        if is_too_large {
            return Ok(Some(Line::TooLarge));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(Line::Whole(line)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    async fn lines(text: &str, buffer: usize) -> Vec<Option<String>> {
        let mut lines = BoundedLines::new(BufReader::with_capacity(buffer, text.as_bytes()), 5);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(match line {
                Line::Whole(line) => Some(String::from_utf8(line).unwrap()),
                Line::TooLarge => None,
            });
        }
        assert_eq!(lines.bytes_read(), text.len() as u64);
        all
    }

    #[tokio::test]
    async fn lines_are_the_same_however_they_arrive() {
        for buffer in 1..20 {
            let read = lines("one\r\n\n12345\n123456\nlast", buffer).await;
            let expected = [Some("one"), Some(""), Some("12345"), None, Some("last")];
            assert_eq!(read, expected.map(|line| line.map(str::to_owned)), "{buffer}");
        }
        assert_eq!(lines("a\n", 8).await.len(), 1);
        assert!(lines("", 8).await.is_empty());
    }
}

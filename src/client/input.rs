//! Orders out of a file or stdin: one, perhaps over many lines, or one in each line. A stream of lines is never in
//! memory as a whole.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncBufRead, BufReader};
use tokio::sync::mpsc;

use super::bounded_lines::{BoundedLines, Line};

/// The largest order a server can be set to take (`api.body_max`).
const ORDER_BYTES_MAX: usize = 16 << 20;
const LINES_AHEAD: usize = 64;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Something that was read.
pub enum Read {
    Order {
        line: u64,
        json: Bytes,
    },
    /// A line that holds no order that could be sent, and why.
    Unusable {
        line: u64,
        why: &'static str,
    },
    /// Nothing more can be read.
    Broken(String),
}

/// Orders as they are read, and how far reading has come.
pub struct Input {
    pub orders: mpsc::Receiver<Read>,
    pub bytes_read: Arc<AtomicU64>,
    /// `None` if it is not known.
    pub bytes_total: Option<u64>,
}

/// Begins to read a file, or stdin for `-`.
///
/// # Errors
/// If it cannot be opened.
pub async fn open(path: &Path) -> io::Result<Input> {
    let (sender, orders) = mpsc::channel(LINES_AHEAD);
    let bytes_read = Arc::new(AtomicU64::new(0));
    let mut bytes_total = None;
    if path.as_os_str() == "-" {
        let input = BufReader::new(tokio::io::stdin());
        tokio::spawn(read(input, sender, bytes_read.clone()));
    } else {
        let file = File::open(path).await?;
        let metadata = file.metadata().await?;
        if metadata.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        // Pipes and devices say 0.
        bytes_total = Some(metadata.len()).filter(|len| *len > 0);
        let input = BufReader::with_capacity(64 << 10, file);
        tokio::spawn(read(input, sender, bytes_read.clone()));
    }
    Ok(Input { orders, bytes_read, bytes_total })
}

async fn read<R>(input: R, sender: mpsc::Sender<Read>, bytes_read: Arc<AtomicU64>)
where
    R: AsyncBufRead + Unpin,
{
    let mut lines = BoundedLines::new(input, ORDER_BYTES_MAX);
    let mut orders = Orders::default();
    loop {
        let found = match lines.next().await {
            Ok(Some(line)) => orders.take(line),
            Ok(None) => break,
            Err(error) => Found::Last(Read::Broken(format!("reading failed: {error}"))),
        };
        bytes_read.store(lines.bytes_read(), Ordering::Relaxed);
        let (read, is_last) = match found {
            Found::Nothing => continue,
            Found::Order(read) => (read, false),
            Found::Last(read) => (read, true),
        };
        // Nobody receives any more: sending has stopped.
        if sender.send(read).await.is_err() || is_last {
            return;
        }
    }
    if let Some(read) = orders.end() {
        let _ = sender.send(read).await;
    }
}

/// Makes orders of lines.
#[derive(Default)]
struct Orders {
    lines: u64,
    /// Whether a line with something in it was seen.
    has_begun: bool,
    /// What came so far of one order that takes many lines, and the line it began in.
    open: Option<(u64, Vec<u8>)>,
}

/// What a line brings.
enum Found {
    Nothing,
    Order(Read),
    /// After this nothing can be read.
    Last(Read),
}

impl Orders {
    fn take(&mut self, line: Line) -> Found {
        self.lines += 1;
        let line = match line {
            Line::Whole(line) => Some(line),
            Line::TooLarge => None,
        };
        if let Some((began, order)) = &mut self.open {
            let Some(text) = line.filter(|line| order.len() + line.len() < ORDER_BYTES_MAX) else {
                return Found::Last(Read::Unusable {
                    line: *began,
                    why: "no complete JSON, and with what follows it is too large to be one order",
                });
            };
            order.push(b'\n');
            order.extend_from_slice(&text);
            return Found::Nothing;
        }
        let Some(text) = line else {
            self.has_begun = true;
            return Found::Order(Read::Unusable { line: self.lines, why: "larger than any server takes (16 MiB)" });
        };
        let order = match text.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) if self.lines == 1 => rest.trim_ascii(),
            _ => text.trim_ascii(),
        };
        if order.is_empty() {
            return Found::Nothing;
        }
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if is_first && is_beginning(order) {
            self.open = Some((self.lines, order.to_vec()));
            return Found::Nothing;
        }
        Found::Order(Read::Order { line: self.lines, json: Bytes::copy_from_slice(order) })
    }

    fn end(self) -> Option<Read> {
        let (line, order) = self.open?;
        Some(match order.starts_with(b"[") {
            true => Read::Unusable { line, why: "an array; write one order in each line, as `jq -c '.[]' FILE` does" },
            false => Read::Order { line, json: order.into() },
        })
    }
}

/// Whether more lines are needed to make it JSON. What is no JSON at all is a line of its own: the server says what is
/// wrong with it.
fn is_beginning(text: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(text).is_err_and(|error| error.is_eof())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &[u8]) -> Vec<String> {
        let (sender, mut orders) = mpsc::channel(4);
        let reading = read(text, sender, Arc::default());
        let mut seen = Vec::new();
        let collecting = async {
            while let Some(read) = orders.recv().await {
                seen.push(match read {
                    Read::Order { line, json } => {
                        format!("{line} {}", String::from_utf8_lossy(&json))
                    }
                    Read::Unusable { line, why } => format!("{line} unusable: {}", &why[..8]),
                    Read::Broken(why) => why,
                });
            }
        };
        tokio::join!(reading, collecting);
        seen
    }

    #[tokio::test]
    async fn one_order_in_each_line() {
        let read = all(b"\xef\xbb\xbf{\"a\":1}\r\n\r\n  \n{\"b\":2}\nnonsense {\n{\"c\":").await;
        assert_eq!(read, ["1 {\"a\":1}", "4 {\"b\":2}", "5 nonsense {", "6 {\"c\":"]);
    }

    #[tokio::test]
    async fn one_order_over_many_lines() {
        assert_eq!(all(b"\n{\n \"a\": 1\n}\n").await, ["2 {\n \"a\": 1\n}"]);
        assert_eq!(all(b"{").await, ["1 {"]);
        assert!(all(b"\n \n").await.is_empty());
    }

    #[tokio::test]
    async fn an_array_is_not_taken_for_an_order() {
        assert_eq!(all(b"[\n{}\n]").await, ["1 unusable: an array"]);
    }

    #[tokio::test]
    async fn a_first_line_cut_short_does_not_draw_the_whole_file_into_memory() {
        let mut text = b"{\"a\":\n".to_vec();
        text.resize(ORDER_BYTES_MAX + 10, b'x');
        assert_eq!(all(&text).await, ["1 unusable: no compl"]);
        let mut text = vec![b'x'; ORDER_BYTES_MAX + 1];
        text.extend_from_slice(b"\n{}");
        assert_eq!(all(&text).await, ["1 unusable: larger t", "2 {}"]);
    }
}

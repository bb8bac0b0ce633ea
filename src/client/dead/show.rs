//! `ordering dead show`.

use std::fmt::Write as _;
use std::io::{Write, stdout};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use reqwest::Method;
use serde::Deserialize;

use super::{Failure, letter_id};
use crate::client::http::Server;
use crate::client::output::{print, print_line};
use crate::client::{ServerArgs, printable};
use crate::ports::DeadLetterId;

/// What is shown of a message, in bytes: enough to see what it is.
const SHOWN_MAX: usize = 4_096;

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The id that `list` shows
    #[arg(value_parser = letter_id)]
    id: DeadLetterId,

    /// Write the message's bytes as they are, and nothing else
    #[arg(long)]
    raw: bool,

    /// Print the server's JSON as it is
    #[arg(long, conflicts_with = "raw")]
    json: bool,

    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// What is shown of a letter. Fields that are not known here are left alone: the server may be newer.
#[derive(Deserialize)]
struct Letter {
    id: String,
    at: String,
    queue: String,
    reason: String,
    orders: Option<Vec<String>>,
    base64: String,
}

pub(super) async fn run(server: &Server, args: ShowArgs) -> Result<(), Failure> {
    let path = format!("/{}", args.id);
    let found = server.dead_letters::<Letter>(Method::GET, &path, &[]).await;
    let (letter, body) = found?;
    if args.json {
        print_line(&body);
        return Ok(());
    }
    let not_understood = |_| Failure::Failed("the server's answer has no bytes in it that could be read".to_owned());
    let bytes = STANDARD.decode(&letter.base64).map_err(not_understood)?;
    if !args.raw {
        print(&letter.to_text(&bytes));
        return Ok(());
    }
    // A file that is not whole must not look as if it were.
    let written = stdout().write_all(&bytes).and_then(|()| stdout().flush());
    written.map_err(|error| Failure::Failed(format!("cannot write the message: {error}")))
}

impl Letter {
    fn to_text(&self, bytes: &[u8]) -> String {
        let mut text = format!("dead letter {}\n", printable(&self.id));
        let orders = match &self.orders {
            Some(orders) => orders.join(", "),
            None => "none that the server could read".to_owned(),
        };
        let rows = [
            ("queue", self.queue.clone()),
            ("when", self.at.clone()),
            ("reason", self.reason.clone()),
            ("size", format!("{} bytes", bytes.len())),
            ("orders", orders),
        ];
        for (name, value) in rows {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<10} {}", printable(&value));
        }
        text.push('\n');
        text.push_str(&shown(bytes));
        text
    }
}

/// The beginning of a message, safe to print: its lines where it is text, else its bytes with escapes.
fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(SHOWN_MAX)];
    let text = match std::str::from_utf8(bytes) {
        // The last character may be cut in two.
        Ok(_) => String::from_utf8_lossy(start)
            .trim_end_matches('\u{fffd}')
            .lines()
            .map(printable)
            .collect::<Vec<_>>()
            .join("\n"),
        Err(_) => start.escape_ascii().to_string(),
    };
    match bytes.len() - start.len() {
        0 => format!("{text}\n"),
        more => format!("{text}\n({more} more bytes: --raw writes all)\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_steer_the_terminal_whatever_is_in_it() {
        assert_eq!(shown(b"{\n\"a\": \x1b[31m1}"), "{\n\"a\":  [31m1}\n");
        assert_eq!(shown(b"\x00\xff\x1b[31m"), "\\x00\\xff\\x1b[31m\n");
        assert_eq!(shown(b""), "\n");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = "ä".repeat(SHOWN_MAX);
        let odd = format!("a{long}");
        assert_eq!(shown(long.as_bytes()), format!("{}\n(4096 more bytes: --raw writes all)\n", "ä".repeat(2_048)));
        assert_eq!(shown(odd.as_bytes()), format!("a{}\n(4097 more bytes: --raw writes all)\n", "ä".repeat(2_047)));
    }
}

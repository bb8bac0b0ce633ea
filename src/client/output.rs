//! What is said on stdout, and advice for whoever reads an error.

use std::io::{Write, stdout};

use super::WHAT_TO_DO;
use super::http::Trouble;

/// The trouble, and what to do where the server is not there at all.
pub fn with_advice(trouble: &Trouble) -> String {
    match trouble.is_unreachable {
        true => format!("{trouble}\n{WHAT_TO_DO}"),
        false => trouble.to_string(),
    }
}

/// A reader who closes the pipe early is no failure.
pub fn print(text: &str) {
    let _ = stdout().write_all(text.as_bytes());
    let _ = stdout().flush();
}

/// As [`print`], and ends the line.
pub fn print_line(bytes: &[u8]) {
    let mut line = bytes.trim_ascii_end().to_vec();
    line.push(b'\n');
    let _ = stdout().write_all(&line);
    let _ = stdout().flush();
}

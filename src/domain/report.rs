//! What a handler says beside its verdict: a note for people, a result for the stages behind it, a reason.
//!
//! All of it travels with the order in every message and every record, so all of it is bounded here, whoever wrote it.

use std::sync::Arc;

use super::json_tree::Node;
use super::validation::{has_nul, without_whitespace};

/// The longest note or reason, in characters; what is longer is cut.
pub const TEXT_CHARS_MAX: usize = 500;

/// The largest result, in bytes of JSON.
pub const RESULT_BYTES_MAX: usize = 16 << 10;

/// What a handler has to say of work that is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    note: Option<Arc<str>>,
    result: Option<Json>,
}

impl Report {
    /// With a note for people, cleaned as [`text`] does; an empty one is none.
    pub fn with_note(mut self, note: &str) -> Self {
        let note = text(note);
        self.note = (!note.is_empty()).then(|| note.into());
        self
    }

    /// With a result for the stages behind this one, and for readers of the order; `null` is none.
    pub fn with_result(mut self, result: Json) -> Self {
        self.result = (result.as_str() != "null").then_some(result);
        self
    }

    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    pub fn result(&self) -> Option<&Json> {
        self.result.as_ref()
    }

    /// About what it takes in a message, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.note().map_or(0, str::len) + self.result().map_or(0, |result| result.as_str().len())
    }
}

/// One JSON value as the text it is, of at most [`RESULT_BYTES_MAX`], in a form that every reader of JSON can read.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Arc<str>);

impl Json {
    /// Checks and takes a JSON value; white space between its tokens goes.
    ///
    /// # Errors
    /// [`NotKept`] with the reason. Final.
    pub fn parse(json: &str) -> Result<Json, NotKept> {
        let json = json.trim_matches([' ', '\t', '\n', '\r']);
        // Deep nesting, half a surrogate pair and numbers that no float holds are refused by this.
        let node: Node = serde_json::from_str(json).map_err(|_| NotKept::Unreadable)?;
        if has_nul(&node) {
            return Err(NotKept::Unreadable);
        }
        let compact = without_whitespace(json);
        if compact.len() > RESULT_BYTES_MAX {
            return Err(NotKept::TooLarge);
        }
        Ok(Json(compact.into()))
    }

    /// A value that was checked before: as [`Json::as_str`] gave it.
    pub fn from_checked(json: &str) -> Json {
        Json(json.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Says how large it is, never what is in it: an order's content has no place in a log.
impl std::fmt::Debug for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Json({} bytes)", self.0.len())
    }
}

/// Why a result cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    #[error("it is larger than {} KiB", RESULT_BYTES_MAX >> 10)]
    TooLarge,
    /// No JSON, nested too deeply, or with something in it that some reader of JSON cannot hold (U+0000, half a
    /// surrogate pair, a number beyond all floats).
    #[error("it is no JSON that everybody can read")]
    Unreadable,
}

/// Somebody else's words as one line of at most [`TEXT_CHARS_MAX`] characters: control characters and runs of white
/// space become one space, what is too long ends in `…`.
pub fn text(words: &str) -> String {
    let mut line = String::with_capacity(words.len().min(4 * TEXT_CHARS_MAX));
    let mut chars = 0;
    for word in words.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        let space = (chars > 0).then_some(' ');
        for c in space.into_iter().chain(word.chars()) {
            if chars == TEXT_CHARS_MAX {
                line.pop();
                line.push('…');
                return line;
            }
            line.push(c);
            chars += 1;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_one_short_line() {
        assert_eq!(text("  no\r\n stock\u{7}\u{1b}[31m \0 left "), "no stock [31m left");
        assert_eq!(text(" \n"), "");
        let fits = "ä".repeat(TEXT_CHARS_MAX);
        assert_eq!(text(&fits), fits);
        let cut = text(&format!("{fits}ä"));
        assert!(cut.chars().count() == TEXT_CHARS_MAX && cut.ends_with("ä…"), "{cut}");
        assert_eq!(Report::default().with_note(" \t ").note(), None);
    }

    #[test]
    fn a_result_is_any_json_that_every_reader_can_hold() {
        assert_eq!(Json::parse(" { \"a b\" : [ 1.50, null ] }\n").unwrap().as_str(), r#"{"a b":[1.50,null]}"#);
        let (deep, large) = ("[".repeat(5_000) + &"]".repeat(5_000), format!("\"{}\"", "x".repeat(RESULT_BYTES_MAX)));
        for (wrong, why) in [
            ("", NotKept::Unreadable),
            ("{\"a\":}", NotKept::Unreadable),
            ("1 2", NotKept::Unreadable),
            ("\"\\u0000\"", NotKept::Unreadable),
            ("\"\\ud800\"", NotKept::Unreadable),
            ("1e999", NotKept::Unreadable),
            (&deep, NotKept::Unreadable),
            (&large, NotKept::TooLarge),
        ] {
            assert_eq!(Json::parse(wrong), Err(why), "{:.20}", wrong);
        }
    }

    #[test]
    fn a_result_does_not_show_its_content_in_a_log() {
        let report = Report::default().with_result(Json::parse("\"secret\"").unwrap());
        assert!(!format!("{report:?}").contains("secret"));
    }
}

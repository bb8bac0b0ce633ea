//! What a service's answer means for the order it is about.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx | done, with what a body `{"note","result"}` says |
//! | 400, 404, 409, 410, 422 | rejected, for the reason in the body |
//! | 408, 425, 429, 5xx | again later, not before `Retry-After` |
//! | anything else | rejected: nobody knows what it means, and trying again would not tell |
//!
//! No answer at all is no matter of this module: see [`super::http`].

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::report::{NotKept, text};
use crate::domain::{Json, Outcome, Report};

/// The largest body of an answer that is read, in bytes.
pub const BODY_BYTES_MAX: usize = 16 << 10;

/// An answer as far as it was read.
pub struct Answer<'a> {
    pub status: u16,
    pub content_type: Option<&'a str>,
    pub retry_after: Option<&'a str>,
    /// `None` if it is larger than [`BODY_BYTES_MAX`].
    pub body: Option<&'a [u8]>,
}

/// What it means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Final(Outcome),
    Later {
        /// What happened, without a word of the service's: fit for a log.
        what: String,
        /// What the service had to say of it.
        words: Option<String>,
        least_wait: Option<Duration>,
        /// Whether the service seems to be down for every order, not only for this one or for the moment.
        is_down: bool,
    },
}

impl Verdict {
    /// There was no answer.
    pub fn none(what: String) -> Verdict {
        Verdict::Later { what, words: None, least_wait: None, is_down: true }
    }
}

/// What `answer`, received at `now`, means.
pub fn read(answer: &Answer<'_>, now: SystemTime) -> Verdict {
    let status = answer.status;
    match status {
        200..=299 => Verdict::Final(Outcome::Done(report(answer.body))),
        400 | 404 | 409 | 410 | 422 => {
            let reason = words(answer).unwrap_or_else(|| format!("answered {status}"));
            Verdict::Final(Outcome::Reject { reason })
        }
        408 | 425 | 429 | 500..=599 => Verdict::Later {
            what: format!("answered {status}"),
            words: words(answer),
            least_wait: answer.retry_after.and_then(|value| wait(value, now)),
            is_down: status >= 500,
        },
        _ => Verdict::Final(Outcome::Reject { reason: format!("answered {status}, which means nothing here") }),
    }
}

#[derive(Deserialize)]
struct DoneBody<'a> {
    #[serde(borrow, default)]
    note: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
}

/// Work that is done is done, whatever the body says: one that cannot be kept is passed over with a note.
fn report(body: Option<&[u8]>) -> Report {
    let without = |why: NotKept| Report::default().with_note(&format!("the body of the answer was not kept: {why}"));
    let Some(body) = body else { return without(NotKept::TooLarge) };
    if body.trim_ascii().is_empty() {
        return Report::default();
    }
    // An array would be read as the fields in their order.
    let read = match body.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice::<DoneBody>(body).ok(),
        _ => None,
    };
    let Some(DoneBody { note, result }) = read else {
        return Report::default().with_note("the body of the answer was not kept: it is no object of note and result");
    };
    let report = note.map_or_else(Report::default, |note| Report::default().with_note(&note));
    match result.map(|result| Json::parse(result.get())) {
        None => report,
        Some(Ok(result)) => report.with_result(result),
        Some(Err(why)) => without(why),
    }
}

/// The service's own words: of problem details (RFC 9457) or of a JSON object like them, or a short plain text.
fn words(answer: &Answer<'_>) -> Option<String> {
    const MEMBERS: [&str; 5] = ["detail", "title", "reason", "message", "error"];
    let media_type = answer.content_type.unwrap_or("text/plain").split(';').next().unwrap_or_default();
    let media_type = media_type.trim().to_ascii_lowercase();
    let body = std::str::from_utf8(answer.body?).ok()?;
    let words = if media_type == "application/json" || media_type.ends_with("+json") {
        let document: serde_json::Value = serde_json::from_str(body).ok()?;
        text(MEMBERS.iter().find_map(|member| document.get(member)?.as_str())?)
    } else if media_type == "text/plain" {
        text(body)
    } else {
        // A page for people to look at.
        return None;
    };
    (!words.is_empty()).then_some(words)
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3). What is neither is none.
fn wait(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 784_111_700;

    fn verdict(status: u16, content_type: &str, retry_after: Option<&str>, body: &str) -> Verdict {
        let answer = Answer { status, content_type: Some(content_type), retry_after, body: Some(body.as_bytes()) };
        read(&answer, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))
    }

    fn done(body: &str) -> Report {
        match verdict(200, "application/json", None, body) {
            Verdict::Final(Outcome::Done(report)) => report,
            other => panic!("{other:?}"),
        }
    }

    fn rejected(status: u16, content_type: &str, body: &str) -> String {
        match verdict(status, content_type, None, body) {
            Verdict::Final(Outcome::Reject { reason }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_done_is_kept_with_note_and_result() {
        let report = done("{\"note\": \"charged\\n twice\", \"result\": {\"id\": 1.50}, \"more\": 1}");
        assert_eq!(report.note(), Some("charged twice"));
        assert_eq!(report.result().unwrap().as_str(), "{\"id\":1.50}");
        for nothing in ["", " \n", "{}", "{\"ok\":true}", "{\"note\":null,\"result\":null}"] {
            assert_eq!(done(nothing), Report::default(), "{nothing}");
        }
        for status in [201, 202, 204, 299] {
            assert_eq!(verdict(status, "text/html", None, ""), Verdict::Final(Outcome::done()));
        }
    }

    #[test]
    fn a_body_of_another_form_does_not_undo_what_was_done() {
        for other in
            ["<html>", "[\"note\",1]", "\"note\"", "{\"note\":7}", "{\"note\":\"x\"", "{\"result\":\"\\ud800\"}"]
        {
            let report = done(other);
            assert!(report.note().unwrap().starts_with("the body of the answer was not kept"), "{other}: {report:?}");
            assert_eq!(report.result(), None);
        }
        let large = Answer { status: 200, content_type: None, retry_after: None, body: None };
        let Verdict::Final(Outcome::Done(report)) = read(&large, SystemTime::UNIX_EPOCH) else { panic!("done") };
        assert!(report.note().unwrap().ends_with("larger than 16 KiB"));
    }

    #[test]
    fn a_rejection_gives_the_reason_in_the_services_words() {
        for status in [400, 404, 409, 410, 422] {
            let details = r#"{"type":"about:blank","title":"Declined","detail":"card\u0000 expired","status":422}"#;
            assert_eq!(rejected(status, "application/problem+json; charset=utf-8", details), "card expired");
            assert_eq!(rejected(status, "application/json", r#"{"title":"Declined"}"#), "Declined");
            assert_eq!(rejected(status, "text/plain", "no\nstock"), "no stock");
            for wordless in ["", "[1]", "{\"detail\":7}"] {
                assert_eq!(rejected(status, "application/json", wordless), format!("answered {status}"));
            }
            assert_eq!(rejected(status, "text/html", "<h1>no</h1>"), format!("answered {status}"));
        }
        assert_eq!(rejected(422, "text/plain", &"x".repeat(9_000)).chars().count(), 500);
    }

    #[test]
    fn what_means_nothing_is_rejected_and_says_so() {
        for status in [100, 300, 302, 304, 401, 403, 405, 418, 451, 600, 999] {
            let reason = rejected(status, "text/plain", "words");
            assert_eq!(reason, format!("answered {status}, which means nothing here"));
        }
    }

    #[test]
    fn what_may_pass_is_tried_again_and_not_before_it_was_asked_to() {
        for (status, down) in [(408, false), (425, false), (429, false), (500, true), (503, true), (599, true)] {
            let later = |retry_after| match verdict(status, "text/plain", retry_after, "busy") {
                Verdict::Later { what, words, least_wait, is_down } => {
                    assert_eq!((what, words.as_deref()), (format!("answered {status}"), Some("busy")));
                    assert_eq!(is_down, down);
                    least_wait.map(|wait| wait.as_secs())
                }
                Verdict::Final(outcome) => panic!("{outcome:?}"),
            };
            assert_eq!(later(None), None);
            assert_eq!(later(Some(" 17 ")), Some(17));
            assert_eq!(later(Some("99999999999999999999999")), Some(u64::MAX));
            assert_eq!(later(Some("Sun, 06 Nov 1994 08:49:37 GMT")), Some(784_111_777 - NOW));
            assert_eq!(later(Some("Sun, 06 Nov 1994 08:48:17 GMT")), Some(0));
            for none in ["", "soon", "-1", "1.5"] {
                assert_eq!(later(Some(none)), None, "{none}");
            }
        }
    }
}

//! What a call over HTTP carries, and how to show it without its secrets.

use std::fmt;

use reqwest::header::{HeaderName, HeaderValue};

use crate::handlers::request::RESERVED_HEADERS;
use crate::handlers::signature::{SECRET_BYTES, SECRET_PREFIX, Secret};

/// A header whose value may be a password: shown, it is masked.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretHeader {
    pub name: HeaderName,
    /// Marked as sensitive, so that it is masked in debug prints as well.
    pub value: HeaderValue,
}

impl fmt::Display for SecretHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ***", self.name)
    }
}

/// Reads `Name: value` lines.
///
/// # Errors
/// What is wrong, without the values.
pub fn read_headers(text: &str) -> Result<Vec<SecretHeader>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.enumerate().map(|(n, line)| read_header(n + 1, line)).collect()
}

fn read_header(number: usize, line: &str) -> Result<SecretHeader, String> {
    let Some((name, value)) = line.split_once(':') else {
        return Err(format!("has no colon in header {number}; write `Name: value`"));
    };
    // What is no name may be a value whose name was forgotten: it is not shown.
    let Ok(name) = name.trim().parse::<HeaderName>() else {
        return Err(format!("has no name of a header before the first colon of header {number}"));
    };
    if RESERVED_HEADERS.contains(&name.as_str()) {
        return Err(format!("sets `{name}`, which is set by the handler itself"));
    }
    match HeaderValue::from_str(value.trim()) {
        Ok(mut value) => {
            value.set_sensitive(true);
            Ok(SecretHeader { name, value })
        }
        Err(_) => Err(format!("gives `{name}` a value that no header can have")),
    }
}

/// Reads signing secrets separated by spaces.
///
/// # Errors
/// What is wrong, without the secrets.
pub fn read_secrets(text: &str) -> Result<Vec<Secret>, String> {
    let secrets = text.split_whitespace().map(Secret::parse).collect::<Option<Vec<_>>>();
    secrets.ok_or_else(|| {
        format!(
            "must be `{SECRET_PREFIX}` and {} to {} bytes in base64; one is made by \
             `echo {SECRET_PREFIX}$(openssl rand -base64 32)`",
            SECRET_BYTES.start(),
            SECRET_BYTES.end()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_shown_without_their_values() {
        let headers = read_headers("Authorization: Bearer a:b\n\n x-team :payments \n").unwrap();
        let shown: Vec<String> = headers.iter().map(SecretHeader::to_string).collect();
        assert_eq!(shown, ["authorization: ***", "x-team: ***"]);
        assert_eq!(headers[0].value, "Bearer a:b");
        assert!(!format!("{headers:?}").contains("Bearer"));
    }

    #[test]
    fn what_is_no_header_is_refused_without_being_shown() {
        for (wrong, why) in [
            ("pass-word", "no colon"),
            ("x: y\npass word: z", "no name"),
            ("Idempotency-Key: 1", "`idempotency-key`"),
            ("content-length: 1", "`content-length`"),
            ("x: pass\u{7}word", "no header can have"),
        ] {
            let error = read_headers(wrong).unwrap_err();
            assert!(error.contains(why) && !error.contains("pass"), "{error}");
        }
    }

    #[test]
    fn secrets_are_read_and_what_is_none_is_not_shown() {
        assert_eq!(
            read_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
                .unwrap()
                .len(),
            2
        );
        let error = read_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw pass").unwrap_err();
        assert!(error.contains("whsec_") && !error.contains("pass"), "{error}");
    }
}

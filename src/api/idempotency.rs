//! The header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a client that sends the same key again
//! means the same order.

use actix_web::http::header::HeaderMap;

use super::problem::Problem;

const NAME: &str = "idempotency-key";

/// Enough for any UUID, digest or order number; a bound, since it is hashed for every request.
const KEY_CHARS_MAX: usize = 255;

/// The key of a request; `None` if it has none.
///
/// The draft says that it is a structured string (RFC 8941), in quotes; most clients send it without. Both are read, and
/// `"a"` is the same key as `a`.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(NAME);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::wrong_key("there is more than one"));
    }
    let text = value.to_str().map_err(|_| Problem::wrong_key("it is not plain ASCII"))?.trim();
    let key = match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted).ok_or_else(|| Problem::wrong_key("its quotes do not match"))?,
        None => text.to_owned(),
    };
    if key.is_empty() || key.len() > KEY_CHARS_MAX || !key.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Err(Problem::wrong_key("it must have 1 to 255 printable ASCII characters"));
    }
    Ok(Some(key))
}

/// The content of a structured string, without its opening quote (RFC 8941, section 3.3.3).
fn unquote(rest: &str) -> Option<String> {
    let (mut content, mut chars) = (String::with_capacity(rest.len()), rest.chars());
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(content),
            '\\' => content.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => content.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn read(values: &[&str]) -> Result<Option<String>, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HeaderName::from_static(NAME), HeaderValue::from_str(value).unwrap());
        }
        key(&headers)
    }

    #[test]
    fn keys_are_read_with_and_without_quotes() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&["8e03978e-40d5"]).unwrap().as_deref(), Some("8e03978e-40d5"));
        assert_eq!(read(&["\"8e03978e-40d5\""]).unwrap().as_deref(), Some("8e03978e-40d5"));
        assert_eq!(read(&[r#""a \"b\" \\""#]).unwrap().as_deref(), Some(r#"a "b" \"#));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let long = "x".repeat(256);
        for values in [&[""][..], &["\"\""], &["\"a"], &["\"a\" b"], &[r#""\n""#], &[&long], &["a", "b"]] {
            assert!(read(values).is_err(), "{values:?}");
        }
    }
}

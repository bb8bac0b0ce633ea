//! Reading the bodies of requests, within their bounds of size and time.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, web};
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::domain::report;

/// The largest body of a request that is no order.
const SMALL_BYTES_MAX: usize = 16 << 10;

/// The JSON of a request that is no order, and may have none: `None` if the body is empty.
pub async fn read_small<T: DeserializeOwned>(
    request: &HttpRequest,
    body: web::Payload,
    timeout: Duration,
) -> Result<Option<T>, Problem> {
    let bytes = read(body, SMALL_BYTES_MAX, timeout).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    check_content_type(request)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Problem::wrong_request(&error))
}

/// The `reason` that a person gives, as one line; none if it says nothing.
pub fn check_reason(reason: Option<String>) -> Result<Option<String>, Problem> {
    let Some(reason) = reason else { return Ok(None) };
    if reason.chars().count() > report::TEXT_CHARS_MAX {
        let what = format!("must have at most {} characters", report::TEXT_CHARS_MAX);
        return Err(Problem::invalid_request("/reason", &what));
    }
    let reason = report::text(&reason);
    Ok((!reason.is_empty()).then_some(reason))
}

pub fn check_content_type(request: &HttpRequest) -> Result<(), Problem> {
    let found = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = found.map(|value| value.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(()),
        Some(_) | None => Err(Problem::wrong_content_type(found)),
    }
}

/// A body of at most `bytes_max` that arrives within `timeout`.
pub async fn read(body: web::Payload, bytes_max: usize, timeout: Duration) -> Result<web::Bytes, Problem> {
    match tokio::time::timeout(timeout, body.to_bytes_limited(bytes_max)).await {
        Ok(Ok(Ok(bytes))) => Ok(bytes),
        Ok(Ok(Err(error))) => match error.as_error::<actix_web::error::PayloadError>() {
            Some(error) => Err(Problem::unreadable_body(error, bytes_max)),
            None => Err(Problem::unreadable_body(&actix_web::error::PayloadError::Incomplete(None), bytes_max)),
        },
        Ok(Err(_limit_exceeded)) => Err(Problem::too_large(bytes_max)),
        Err(_elapsed) => Err(Problem::too_slow()),
    }
}

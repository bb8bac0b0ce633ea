//! Whether the process lives, and whether it can do its work.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::readiness::Readiness;

/// `GET /healthz`: the process answers, whatever the state of the parts it needs. For whoever restarts processes: a
/// restart mends no database.
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(json!({"status": "alive"}))
}

/// `GET /readyz`: 200 if work can be sent here, 503 if not; either way which parts are up.
pub async fn readyz(readiness: web::Data<Readiness>) -> HttpResponse {
    let (condition, parts) = readiness.report().await;
    let parts: Vec<_> = parts
        .into_iter()
        .map(|part| {
            json!({"name": part.name, "status": if part.down.is_none() { "up" } else { "down" }, "reason": part.down})
        })
        .collect();
    let mut response = if condition.takes_work() { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(json!({"status": condition.as_str(), "parts": parts}))
}

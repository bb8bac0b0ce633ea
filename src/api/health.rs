//! Whether the process lives, and whether it can do its work.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::metrics;
use crate::readiness::{Part, Readiness};

/// `GET /healthz`: the process answers, whatever the state of the parts it needs. For whoever restarts processes: a
/// restart mends no database.
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(json!({"status": "alive"}))
}

/// `GET /metrics`: what the process has counted.
pub async fn metrics(readiness: web::Data<Readiness>) -> HttpResponse {
    if let Some(feed) = &readiness.ports.feed {
        readiness.metrics.events_dropped(feed.dropped());
    }
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .content_type(metrics::CONTENT_TYPE)
        .body(readiness.metrics.text())
}

/// `GET /readyz`: 200 if work can be sent here, 503 if not; either way which parts are up.
pub async fn readyz(readiness: web::Data<Readiness>) -> HttpResponse {
    let report = readiness.report().await;
    let part = |part: Part| {
        let status = if part.down.is_none() { "up" } else { "down" };
        json!({"name": part.name, "status": status, "reason": part.down, "warning": part.warning})
    };
    let parts: Vec<_> = report.parts.into_iter().map(part).collect();
    let paused: Vec<_> = report.paused.iter().map(|stage| stage.as_snake()).collect();
    let is_ready = report.condition.takes_work();
    let mut response = if is_ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.insert_header((header::CACHE_CONTROL, "no-store")).json(json!({
        "status": report.condition.as_str(),
        "parts": parts,
        "outbox": report.outbox_orders,
        "paused": paused,
    }))
}

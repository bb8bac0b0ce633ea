//! Placing an order, and reading one.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use super::body::{check_content_type, read};
use super::idempotency;
use super::problem::Problem;
use super::view;
use crate::domain::{Order, OrderId, TraceParent};
use crate::intake::Intake;
use crate::lookup::Lookup;
use crate::ports::{Clock, SystemClock};

/// What the handlers of orders need.
pub struct Orders {
    pub intake: Intake,
    pub lookup: Lookup,
    pub body_bytes_max: usize,
    /// How long the body of a request may take to arrive.
    pub body_timeout: Duration,
}

/// `POST /v1/orders`
pub async fn place(
    request: HttpRequest,
    body: web::Payload,
    orders: web::Data<Orders>,
) -> Result<HttpResponse, Problem> {
    check_content_type(&request)?;
    let body = read(body, orders.body_bytes_max, orders.body_timeout).await?;
    let order = Order::from_json(&body)?;
    order.check_not_before(SystemClock.now())?;
    let key = idempotency::key(request.headers())?;
    let trace = trace_of(request.headers());
    Ok(accepted(orders.intake.accept_traced(order, key.as_deref(), trace).await?))
}

/// A header that is none, or is there twice, says nothing.
fn trace_of(headers: &header::HeaderMap) -> Option<TraceParent> {
    let mut given = headers.get_all("traceparent");
    match (given.next(), given.next()) {
        (Some(one), None) => one.to_str().ok()?.parse().ok(),
        (Some(_) | None, _) => None,
    }
}

fn accepted(id: OrderId) -> HttpResponse {
    HttpResponse::Accepted()
        .insert_header((header::LOCATION, format!("/v1/orders/{id}")))
        .content_type("application/json")
        .body(format!("{{\"id\":\"{id}\",\"status\":\"accepted\"}}"))
}

/// `GET /v1/orders/{id}`
pub async fn find(id: web::Path<String>, orders: web::Data<Orders>) -> Result<HttpResponse, Problem> {
    let id = OrderId::parse(&id).ok_or_else(Problem::not_an_id)?;
    match orders.lookup.find(id).await {
        Ok(Some(record)) => Ok(HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .content_type("application/json")
            .body(view::order(&record))),
        Ok(None) => Err(Problem::no_such_order(id)),
        Err(unavailable) => {
            tracing::debug!(order = %id, %unavailable, "lookup");
            Err(Problem::cannot_tell(&unavailable))
        }
    }
}

//! Placing an order, and reading one.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use super::idempotency;
use super::problem::Problem;
use super::view;
use crate::domain::{Order, OrderId};
use crate::intake::Intake;
use crate::lookup::Lookup;

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
    let body = read(body, &orders).await?;
    let order = Order::from_json(&body)?;
    let key = idempotency::key(request.headers())?;
    Ok(accepted(orders.intake.accept(order, key.as_deref()).await?))
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

pub(super) fn check_content_type(request: &HttpRequest) -> Result<(), Problem> {
    let found = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = found.map(|value| value.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(()),
        Some(_) | None => Err(Problem::wrong_content_type(found)),
    }
}

/// The whole body, within its limits.
pub(super) async fn read(body: web::Payload, orders: &Orders) -> Result<web::Bytes, Problem> {
    let bytes_max = orders.body_bytes_max;
    match tokio::time::timeout(orders.body_timeout, body.to_bytes_limited(bytes_max)).await {
        Ok(Ok(Ok(bytes))) => Ok(bytes),
        Ok(Ok(Err(error))) => match error.as_error::<actix_web::error::PayloadError>() {
            Some(error) => Err(Problem::unreadable_body(error, bytes_max)),
            None => Err(Problem::unreadable_body(&actix_web::error::PayloadError::Incomplete(None), bytes_max)),
        },
        Ok(Err(_limit_exceeded)) => Err(Problem::too_large(bytes_max)),
        Err(_elapsed) => Err(Problem::too_slow()),
    }
}

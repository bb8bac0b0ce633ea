//! What people do with orders: cancel them, and try failed ones again.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{check_reason, read_small};
use super::parameters::Parameters;
use super::problem::Problem;
use super::{Orders, answer};
use crate::cancel::{Cancelled, Canceller, NotCancelled};
use crate::domain::{OrderId, Stage, Timestamp};
use crate::ports::FailedFilter;
use crate::try_again::{NotTried, TryAgain};

/// What the handlers here need.
pub struct Life {
    pub canceller: Canceller,
    pub try_again: TryAgain,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CancelRequest {
    reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RetryRequest {
    stage: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryManyRequest {
    /// Required: nobody should mean every order by accident.
    filter: FilterRequest,
    #[serde(default)]
    stage: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterRequest {
    #[serde(default)]
    stage: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    customer_id: Option<String>,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    to: Option<String>,
}

/// `POST /v1/orders/{id}/cancel`
pub async fn cancel(
    request: HttpRequest,
    id: web::Path<String>,
    body: web::Payload,
    orders: web::Data<Orders>,
    life: web::Data<Life>,
) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let id = OrderId::parse(&id).ok_or_else(Problem::not_an_id)?;
    let given = read_small(&request, body, orders.body_timeout).await?;
    let CancelRequest { reason } = given.unwrap_or_default();
    let reason = check_reason(reason)?;
    let canceller = life.canceller.clone();
    match finish(async move { canceller.cancel(id, reason).await }).await? {
        Ok(cancelled) => {
            let status = match cancelled {
                Cancelled::Ended => "cancelled",
                Cancelled::Asked(status) => status.as_str(),
            };
            Ok(accepted(&json!({"id": id.to_string(), "status": status})))
        }
        Err(NotCancelled::NoSuchOrder) => Err(Problem::no_such_order(id)),
        Err(NotCancelled::HasEnded(status)) => Err(Problem::has_ended(status)),
        Err(NotCancelled::Unavailable(unavailable)) => Err(Problem::not_done(&unavailable)),
    }
}

/// `POST /v1/orders/{id}/retry`
pub async fn retry(
    request: HttpRequest,
    id: web::Path<String>,
    body: web::Payload,
    orders: web::Data<Orders>,
    life: web::Data<Life>,
) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let id = OrderId::parse(&id).ok_or_else(Problem::not_an_id)?;
    let given = read_small(&request, body, orders.body_timeout).await?;
    let RetryRequest { stage } = given.unwrap_or_default();
    let stage = stage.map(|stage| read_stage("/stage", &stage)).transpose()?;
    let try_again = life.try_again.clone();
    match finish(async move { try_again.one(id, stage).await }).await? {
        Ok(order) => {
            let status = order.history.status().as_str();
            Ok(accepted(&json!({"id": id.to_string(), "status": status, "passage": order.passage})))
        }
        Err(NotTried::NoSuchOrder) => Err(Problem::no_such_order(id)),
        Err(NotTried::NotFailed(status)) => Err(Problem::not_failed(status)),
        Err(NotTried::NotReached { failed_at }) => Err(Problem::not_reached(failed_at)),
        Err(NotTried::Unavailable(unavailable)) => Err(Problem::not_done(&unavailable)),
    }
}

/// `POST /v1/orders/retry`
pub async fn retry_many(
    request: HttpRequest,
    body: web::Payload,
    orders: web::Data<Orders>,
    life: web::Data<Life>,
) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let given = read_small(&request, body, orders.body_timeout).await?;
    let Some(RetryManyRequest { filter, stage, dry_run }) = given else {
        return Err(Problem::invalid_request("", "say which orders: {\"filter\": {}} means every failed one"));
    };
    let filter = FailedFilter {
        stage: filter.stage.map(|stage| read_stage("/filter/stage", &stage)).transpose()?,
        reason: filter.reason,
        customer_id: filter.customer_id,
        from: filter.from.map(|at| read_moment("/filter/from", &at)).transpose()?,
        to: filter.to.map(|at| read_moment("/filter/to", &at)).transpose()?,
    };
    let stage = stage.map(|stage| read_stage("/stage", &stage)).transpose()?;
    let try_again = life.try_again.clone();
    match finish(async move { try_again.many(&filter, stage, dry_run).await }).await? {
        Ok(tried) => {
            let named: Vec<String> = tried.named.iter().map(ToString::to_string).collect();
            Ok(answer(&json!({
                "dry_run": dry_run,
                "matched": tried.matched,
                "retried": tried.tried,
                "not_reached": tried.not_reached,
                "orders": named,
            })))
        }
        Err(stopped) => Err(Problem::not_done(&stopped.unavailable).with_retried(stopped.tried.tried)),
    }
}

/// What was begun is finished even if the client goes away.
async fn finish<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, Problem> {
    tokio::spawn(work).await.map_err(|_panicked| Problem::failed())
}

fn read_stage(pointer: &str, name: &str) -> Result<Stage, Problem> {
    name.parse().map_err(|_| {
        let names: Vec<&str> = Stage::ALL.into_iter().map(Stage::as_snake).collect();
        Problem::invalid_request(pointer, &format!("there is no such stage; there are {}", names.join(", ")))
    })
}

fn read_moment(pointer: &str, text: &str) -> Result<Timestamp, Problem> {
    let detail = "must be a moment as RFC 3339 writes it, as in 2026-11-24T08:15:30Z";
    Timestamp::parse(text).ok_or_else(|| Problem::invalid_request(pointer, detail))
}

fn accepted(json: &Value) -> HttpResponse {
    HttpResponse::Accepted().insert_header((header::CACHE_CONTROL, "no-store")).json(json)
}

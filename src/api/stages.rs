//! Showing the stages, pausing one and resuming it.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::orders::{check_content_type, read};
use super::parameters::Parameters;
use super::problem::Problem;
use crate::domain::Stage;
use crate::ports::{Clock, Pause, Pauses, StageState};

/// The largest body; a reason is short.
const BODY_BYTES_MAX: usize = 8 * 1024;
const REASON_CHARS_MAX: usize = 500;

/// What the handlers of stages need.
pub struct Stages {
    pub pauses: Arc<dyn Pauses>,
    pub clock: Arc<dyn Clock>,
    /// How long the body of a request may take to arrive.
    pub body_timeout: Duration,
}

/// What a pause may say.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseBody {
    reason: Option<String>,
}

/// `GET /v1/stages`
pub async fn list(request: HttpRequest, stages: web::Data<Stages>) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let states = stages.pauses.states().await.map_err(|unavailable| Problem::no_stages(&unavailable))?;
    let states: Vec<Value> = states.iter().map(shown).collect();
    Ok(answer(&json!({"stages": states})))
}

/// `POST /v1/stages/{stage}/pause`
pub async fn pause(
    request: HttpRequest,
    stage: web::Path<String>,
    body: web::Payload,
    stages: web::Data<Stages>,
) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let stage = stage_of(&stage)?;
    let reason = reason_of(&request, body, &stages).await?;
    let pause = Pause { since: stages.clock.now(), reason };
    let state = stages.pauses.pause(stage, &pause, None).await;
    let state = state.map_err(|unavailable| Problem::perhaps_switched(stage, "paused", &unavailable))?;
    tracing::info!(%stage, "somebody paused the stage");
    Ok(answer(&shown(&state)))
}

/// `POST /v1/stages/{stage}/resume`
pub async fn resume(
    request: HttpRequest,
    stage: web::Path<String>,
    stages: web::Data<Stages>,
) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let stage = stage_of(&stage)?;
    let state = stages.pauses.resume(stage).await;
    let state = state.map_err(|unavailable| Problem::perhaps_switched(stage, "resumed", &unavailable))?;
    tracing::info!(%stage, "somebody resumed the stage");
    Ok(answer(&shown(&state)))
}

fn stage_of(name: &str) -> Result<Stage, Problem> {
    name.parse().map_err(|_| Problem::no_such_stage(name))
}

/// An empty body says nothing.
async fn reason_of(request: &HttpRequest, body: web::Payload, stages: &Stages) -> Result<Option<String>, Problem> {
    let body = read(body, BODY_BYTES_MAX, stages.body_timeout).await?;
    if body.is_empty() {
        return Ok(None);
    }
    check_content_type(request)?;
    let body: PauseBody = serde_json::from_slice(&body).map_err(|error| Problem::wrong_request(&error))?;
    match &body.reason {
        Some(reason) if reason.chars().count() > REASON_CHARS_MAX => {
            Err(Problem::invalid_request("/reason", &format!("may have at most {REASON_CHARS_MAX} characters")))
        }
        Some(reason) if reason.contains('\0') => {
            Err(Problem::invalid_request("/reason", "must not have the character U+0000"))
        }
        Some(reason) if reason.trim().is_empty() => Ok(None),
        Some(_) | None => Ok(body.reason),
    }
}

fn shown(state: &StageState) -> Value {
    let pause = state.pause.as_ref();
    json!({
        "stage": state.stage.as_snake(),
        "paused": pause.is_some(),
        "since": pause.map(|pause| pause.since.to_string()),
        "reason": pause.and_then(|pause| pause.reason.as_deref()),
    })
}

fn answer(body: &Value) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .content_type("application/json")
        .body(body.to_string())
}

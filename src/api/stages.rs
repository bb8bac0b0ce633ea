//! Showing the stages, pausing one and resuming it.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer;
use super::body::{check_reason, read_small};
use super::parameters::Parameters;
use super::problem::Problem;
use crate::domain::Stage;
use crate::ports::{Clock, Pause, Pauses, StageState};

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
    let given = read_small(&request, body, stages.body_timeout).await?;
    let PauseBody { reason } = given.unwrap_or_default();
    let reason = check_reason(reason)?;
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

fn shown(state: &StageState) -> Value {
    let pause = state.pause.as_ref();
    json!({
        "stage": state.stage.as_snake(),
        "paused": pause.is_some(),
        "since": pause.map(|pause| pause.since.to_string()),
        "reason": pause.and_then(|pause| pause.reason.as_deref()),
    })
}

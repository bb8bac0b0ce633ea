//! Listing dead letters, showing one, putting them back and dropping them.

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::answer;
use super::parameters::{Parameters, cursor_of};
use super::problem::Problem;
use crate::dead_letters::{DeadLetterOffice, Fate, Opened, Summary};
use crate::ports::{DeadLetterId, DeadLetterPage};

const LIMIT_DEFAULT: u32 = 100;

/// `GET /v1/dead-letters`
pub async fn list(request: HttpRequest, office: web::Data<DeadLetterOffice>) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::of(&request, &["queue", "limit", "cursor"])?;
    let page = DeadLetterPage {
        source: parameters.queue()?,
        before: parameters.cursor()?,
        letters_max: parameters.limit()?.unwrap_or(LIMIT_DEFAULT),
    };
    let listed = office.list(&page).await.map_err(|unavailable| Problem::no_dead_letters(&unavailable))?;
    let letters: Vec<Value> = listed.letters.iter().map(summary).collect();
    Ok(answer(&json!({"dead_letters": letters, "cursor": listed.next.map(cursor_of)})))
}

/// `GET /v1/dead-letters/{id}`
pub async fn show(
    request: HttpRequest,
    id: web::Path<String>,
    office: web::Data<DeadLetterOffice>,
) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let id = letter_id(&id)?;
    let found = office.find(id).await.map_err(|unavailable| Problem::no_dead_letters(&unavailable))?;
    let Some(Opened { letter, orders }) = found else { return Err(Problem::no_such_dead_letter(id)) };
    let (text, base64) = (std::str::from_utf8(&letter.bytes).ok(), STANDARD.encode(&letter.bytes));
    let orders = orders.map(|orders| orders.iter().map(ToString::to_string).collect::<Vec<_>>());
    let mut shown = json!({"orders": orders, "text": text, "base64": base64});
    let members = shown.as_object_mut().expect("it was written as an object");
    if let Value::Object(summary) = summary(&Summary::from(letter)) {
        members.extend(summary);
    }
    Ok(answer(&shown))
}

/// `POST /v1/dead-letters/{id}/replay`
pub async fn replay(
    request: HttpRequest,
    id: web::Path<String>,
    office: web::Data<DeadLetterOffice>,
) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let id = letter_id(&id)?;
    match office.replay(id).await {
        Ok(true) => Ok(answer(&json!({"replayed": 1}))),
        Ok(false) => Err(Problem::no_such_dead_letter(id)),
        Err(not_done) => Err(Problem::not_replayed(&not_done)),
    }
}

/// `DELETE /v1/dead-letters/{id}`
pub async fn remove(
    request: HttpRequest,
    id: web::Path<String>,
    office: web::Data<DeadLetterOffice>,
) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let id = letter_id(&id)?;
    match office.remove(id).await {
        Ok(true) => Ok(answer(&json!({"dropped": 1}))),
        Ok(false) => Err(Problem::no_such_dead_letter(id)),
        Err(unavailable) => Err(Problem::no_dead_letters(&unavailable)),
    }
}

/// `POST /v1/dead-letters/replay`
pub async fn replay_many(request: HttpRequest, office: web::Data<DeadLetterOffice>) -> Result<HttpResponse, Problem> {
    sweep(&request, &office, Fate::Replay).await
}

/// `DELETE /v1/dead-letters`
pub async fn remove_many(request: HttpRequest, office: web::Data<DeadLetterOffice>) -> Result<HttpResponse, Problem> {
    sweep(&request, &office, Fate::Drop).await
}

async fn sweep(request: &HttpRequest, office: &DeadLetterOffice, fate: Fate) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::of(request, &["queue", "all", "cursor"])?;
    let source = parameters.queue_or_all()?;
    let swept = office.sweep(fate, source, parameters.cursor()?).await;
    let name = match fate {
        Fate::Replay => "replayed",
        Fate::Drop => "dropped",
    };
    match swept.failure {
        None => Ok(answer(&json!({name: swept.done, "cursor": swept.next.map(cursor_of)}))),
        Some(failure) => Err(Problem::stopped_at(&failure, name, swept.done)),
    }
}

fn letter_id(text: &str) -> Result<DeadLetterId, Problem> {
    DeadLetterId::parse(text).ok_or_else(Problem::not_a_letter_id)
}

fn summary(letter: &Summary) -> Value {
    json!({
        "id": letter.id.to_string(),
        "queue": letter.source.as_snake(),
        "reason": letter.reason,
        "at": letter.at.to_string(),
        "size_bytes": letter.size_bytes,
    })
}

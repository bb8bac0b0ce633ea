//! Adding, listing, removing and testing webhooks.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::body::{check_content_type, read};
use super::parameters::Parameters;
use super::problem::{FieldProblem, Problem};
use super::{Orders, answer};
use crate::domain::{EventKind, EventKinds};
use crate::ports::{Tally, Webhook, WebhookId};
use crate::webhooks::WebhookOffice;

const URL_CHARS_MAX: usize = 2_000;
const DESCRIPTION_CHARS_MAX: usize = 500;

/// `POST /v1/webhooks`
pub async fn add(
    request: HttpRequest,
    body: web::Payload,
    orders: web::Data<Orders>,
    office: web::Data<WebhookOffice>,
) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    check_content_type(&request)?;
    let body = read(body, orders.body_bytes_max, orders.body_timeout).await?;
    let wish = Wish::read(&body)?;
    let webhook = office
        .add(wish.url, wish.events, wish.description)
        .await
        .map_err(|not_added| Problem::not_added(&not_added))?;
    let mut shown = view(&webhook);
    shown["secret"] = json!(webhook.secret);
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, format!("/v1/webhooks/{}", webhook.id)))
        // The secret is shown this once.
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(shown))
}

/// `GET /v1/webhooks`
pub async fn list(request: HttpRequest, office: web::Data<WebhookOffice>) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let listed = office.list().await.map_err(|unavailable| Problem::no_webhooks(&unavailable))?;
    let webhooks: Vec<Value> = listed.iter().map(|(webhook, tally)| with_tally(webhook, *tally)).collect();
    Ok(answer(&json!({"webhooks": webhooks})))
}

/// `DELETE /v1/webhooks/{id}`
pub async fn remove(
    request: HttpRequest,
    id: web::Path<String>,
    office: web::Data<WebhookOffice>,
) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let id = webhook_id(&id)?;
    match office.remove(id).await {
        Ok(true) => Ok(answer(&json!({"removed": 1}))),
        Ok(false) => Err(Problem::no_such_webhook(id)),
        Err(unavailable) => Err(Problem::no_webhooks(&unavailable)),
    }
}

/// `POST /v1/webhooks/{id}/test`
pub async fn test(
    request: HttpRequest,
    id: web::Path<String>,
    office: web::Data<WebhookOffice>,
) -> Result<HttpResponse, Problem> {
    Parameters::of(&request, &[])?;
    let id = webhook_id(&id)?;
    match office.test(id).await {
        Ok(Some(answered)) => Ok(answer(&json!({
            "delivered": answered.is_delivered,
            "status": answered.status,
            "reason": answered.reason,
        }))),
        Ok(None) => Err(Problem::no_such_webhook(id)),
        Err(unavailable) => Err(Problem::no_webhooks(&unavailable)),
    }
}

fn webhook_id(text: &str) -> Result<WebhookId, Problem> {
    WebhookId::parse(text).ok_or_else(Problem::not_a_webhook_id)
}

fn view(webhook: &Webhook) -> Value {
    let events: Vec<&str> = webhook.events.iter().map(EventKind::as_str).collect();
    json!({
        "id": webhook.id.to_string(),
        "url": webhook.url,
        "events": events,
        "description": webhook.description,
        "created_at": webhook.created_at.to_string(),
    })
}

fn with_tally(webhook: &Webhook, tally: Tally) -> Value {
    let mut shown = view(webhook);
    shown["pending"] = json!(tally.pending);
    shown["given_up"] = json!(tally.given_up);
    shown
}

/// What somebody wants to be told, and where.
#[derive(Debug, PartialEq)]
struct Wish {
    url: String,
    events: EventKinds,
    description: Option<String>,
}

impl Wish {
    fn read(body: &[u8]) -> Result<Wish, Problem> {
        let json: Value = serde_json::from_slice(body).map_err(|error| Problem::malformed(&error))?;
        Wish::of(&json).map_err(Problem::invalid_webhook)
    }

    /// # Errors
    /// Everything that is wrong with it.
    fn of(json: &Value) -> Result<Wish, Vec<FieldProblem>> {
        let mut problems = Vec::new();
        let mut wrong = |pointer: String, detail: String| problems.push(FieldProblem { pointer, detail });
        let Some(fields) = json.as_object() else {
            wrong(String::new(), "must be an object".into());
            return Err(problems);
        };
        for name in fields.keys().filter(|name| !["url", "events", "description"].contains(&name.as_str())) {
            let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            wrong(pointer, "is not a field of a webhook: the fields are url, events and description".into());
        }
        let url = fields.get("url").and_then(Value::as_str).unwrap_or_default();
        if let Err(detail) = check_url(url) {
            wrong("/url".into(), detail.into());
        }
        let mut events = EventKinds::NONE;
        match fields.get("events").and_then(Value::as_array).filter(|names| !names.is_empty()) {
            Some(names) => {
                for (n, name) in names.iter().enumerate() {
                    match name.as_str().and_then(EventKind::parse) {
                        Some(kind) => events = events.union([kind].into_iter().collect()),
                        None => wrong(format!("/events/{n}"), format!("must be one of {}", kinds())),
                    }
                }
            }
            None => wrong("/events".into(), format!("must be a list of some of {}", kinds())),
        }
        let description = match fields.get("description") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.chars().count() <= DESCRIPTION_CHARS_MAX && !text.contains('\0') => {
                Some(text.clone())
            }
            Some(_) => {
                wrong("/description".into(), format!("must be text of at most {DESCRIPTION_CHARS_MAX} characters"));
                None
            }
        };
        match problems.is_empty() {
            true => Ok(Wish { url: url.to_owned(), events, description }),
            false => Err(problems),
        }
    }
}

fn kinds() -> String {
    EventKind::ALL.map(EventKind::as_str).join(", ")
}

fn check_url(url: &str) -> Result<(), &'static str> {
    const FORM: &str = "must be of the form https://host/path or http://host/path, with at most 2000 characters";
    if url.chars().count() > URL_CHARS_MAX {
        return Err(FORM);
    }
    let url: reqwest::Url = url.parse().map_err(|_| FORM)?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(FORM);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a password: events are signed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(json: Value) -> Vec<String> {
        Wish::of(&json).unwrap_err().into_iter().map(|problem| problem.pointer).collect()
    }

    #[test]
    fn a_wish_is_read() {
        let wish =
            Wish::of(&json!({"url": "http://127.0.0.1:1/a?b", "events": ["order.failed", "step.done"]})).unwrap();
        let events = [EventKind::StepDone, EventKind::OrderFailed].into_iter().collect();
        assert_eq!(wish, Wish { url: "http://127.0.0.1:1/a?b".into(), events, description: None });
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        assert_eq!(pointers(json!([])), [""]);
        assert_eq!(pointers(json!({})), ["/url", "/events"]);
        let wrong = json!({"url": "ftp://a", "events": ["order.failed", "lost", 5], "description": 5, "a/b": 1});
        assert_eq!(pointers(wrong), ["/a~1b", "/url", "/events/1", "/events/2", "/description"]);
        for url in
            ["", "host", "http://", "https://u:p@host/", "https://u@host/", &format!("http://h/{}", "a".repeat(2_000))]
        {
            assert_eq!(pointers(json!({"url": url, "events": ["step.done"]})), ["/url"], "{url}");
        }
        assert_eq!(
            pointers(json!({"url": "http://h", "events": [], "description": "a".repeat(501)})),
            ["/events", "/description"]
        );
    }
}

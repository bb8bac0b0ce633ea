//! Errors as problem details (RFC 9457). The only place that knows HTTP's status codes for errors.

use std::fmt;

use actix_web::error::PayloadError;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use serde_json::{Value, json};

use crate::dead_letters::NotDone;
use crate::domain::{Refusal, Stage, Status};
use crate::intake::NotAccepted;
use crate::ports::{PublishError, Unavailable};
use crate::webhooks::{NotAdded, WEBHOOKS_MAX};

/// What comes before the name of a problem in its `type`. The names are listed in doc/http-api.md.
const TYPE_PREFIX: &str = "urn:ordering:problem:";

/// When it is worth trying again after a 503.
const RETRY_AFTER_SECS: u32 = 1;

/// An error on its way to a client.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    name: &'static str,
    title: &'static str,
    detail: String,
    /// Members beside the standard ones.
    more: serde_json::Map<String, Value>,
    retry_after_secs: Option<u32>,
    allow: Option<&'static str>,
}

/// What is wrong with a field of a body, by its JSON pointer.
#[derive(Debug)]
pub struct FieldProblem {
    pub pointer: String,
    pub detail: String,
}

impl Problem {
    fn new(status: StatusCode, name: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Problem { status, name, title, detail, more: serde_json::Map::new(), retry_after_secs: None, allow: None }
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.more.insert(name.into(), value);
        self
    }

    fn worth_retrying(mut self) -> Self {
        self.retry_after_secs = Some(RETRY_AFTER_SECS);
        self
    }

    pub fn no_such_path(path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        let detail = format!("there is nothing at {path}; orders are placed with POST /v1/orders");
        Self::new(StatusCode::NOT_FOUND, "no-such-path", "There is nothing here", detail)
    }

    pub fn no_such_order(id: impl fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no-such-order", "No such order", format!("there is no order {id}"))
    }

    /// `allow` lists the methods there are.
    pub fn method_not_allowed(method: &str, allow: &'static str) -> Self {
        let method: String = method.chars().take(20).collect();
        let detail = format!("{method} is not possible here; {allow} is");
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail);
        Problem { allow: Some(allow), ..problem }
    }

    pub fn not_an_id() -> Self {
        let detail = "an order id is a UUID, as in 0193f0a1-7c3e-7b11-8f00-0123456789ab";
        Self::new(StatusCode::BAD_REQUEST, "not-an-id", "Not an order id", detail)
    }

    pub fn wrong_content_type(found: Option<&str>) -> Self {
        let found = found
            .map_or("it is missing".into(), |found| format!("it is {}", found.chars().take(100).collect::<String>()));
        let detail = format!("the Content-Type must be application/json; {found}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong-content-type", "Wrong content type", detail)
    }

    pub fn too_large(bytes_max: usize) -> Self {
        let detail = format!("the body may have at most {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Body too large", detail)
            .with("bytes_max", json!(bytes_max))
    }

    pub fn too_slow() -> Self {
        let detail = "the request did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "Request too slow", detail)
    }

    pub fn unreadable_body(error: &PayloadError, bytes_max: usize) -> Self {
        match error {
            PayloadError::Overflow => Self::too_large(bytes_max),
            // Foreign and open: everything else means that the bytes did not come.
            _ => {
                let detail = "the body ended before it was whole";
                Self::new(StatusCode::BAD_REQUEST, "incomplete-body", "Incomplete body", detail)
            }
        }
    }

    /// `why` completes the sentence "the Idempotency-Key cannot be read: …".
    pub fn wrong_key(why: &str) -> Self {
        let detail = format!("the Idempotency-Key cannot be read: {why}");
        Self::new(StatusCode::BAD_REQUEST, "wrong-key", "Wrong Idempotency-Key", detail)
    }

    fn key_reused() -> Self {
        let detail = "another order was placed with this Idempotency-Key; a new order needs a new key";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", "Idempotency-Key used before", detail)
    }

    /// A store that has to answer does not.
    pub fn cannot_tell(unavailable: &Unavailable) -> Self {
        let detail =
            format!("where the order is cannot be told at the moment (the {} cannot say); ask again", unavailable.part);
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "cannot-tell", "Cannot tell at the moment", detail).worth_retrying()
    }

    pub fn malformed(error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let detail = format!("the body is not JSON, at line {line} column {column}");
        Self::new(StatusCode::BAD_REQUEST, "malformed-json", "Malformed JSON", detail)
            .with("line", json!(line))
            .with("column", json!(column))
    }

    pub fn invalid_webhook(problems: Vec<FieldProblem>) -> Self {
        let detail = match problems.len() {
            1 => "the webhook has a problem".to_owned(),
            n => format!("the webhook has {n} problems"),
        };
        let errors: Vec<Value> =
            problems.into_iter().map(|p| json!({"pointer": p.pointer, "detail": p.detail})).collect();
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-webhook", "Invalid webhook", detail)
            .with("errors", Value::Array(errors))
    }

    pub fn not_a_webhook_id() -> Self {
        let detail = "a webhook's id is a UUID, as in 0193f0a1-7c3e-7b11-8f00-0123456789ab";
        Self::new(StatusCode::BAD_REQUEST, "not-an-id", "Not a webhook's id", detail)
    }

    pub fn no_such_webhook(id: impl fmt::Display) -> Self {
        let detail = format!("there is no webhook {id}: it was removed, or it never was");
        Self::new(StatusCode::NOT_FOUND, "no-such-webhook", "No such webhook", detail)
    }

    /// The store of the webhooks does not answer.
    pub fn no_webhooks(unavailable: &Unavailable) -> Self {
        Self::out_of_reach(format!("the webhooks are out of reach ({}); try again", unavailable.part))
    }

    pub fn not_added(not_added: &NotAdded) -> Self {
        match not_added {
            NotAdded::TooMany => {
                let detail = format!("there are {WEBHOOKS_MAX} webhooks, and there may not be more: remove one");
                Self::new(StatusCode::CONFLICT, "too-many-webhooks", "Too many webhooks", detail)
            }
            NotAdded::Unavailable(unavailable) => Self::no_webhooks(unavailable),
        }
    }

    pub fn events_off() -> Self {
        let detail = "what happens to all orders is not told here: the setting `events` is `off`";
        Self::new(StatusCode::NOT_FOUND, "events-off", "Events are off", detail)
    }

    /// The live feed does not answer.
    pub fn no_feed(unavailable: &Unavailable) -> Self {
        Self::out_of_reach(format!("the feed of events is out of reach ({}); try again", unavailable.part))
    }

    pub fn too_many_streams() -> Self {
        let detail = "as many streams of events are open as this process may have; try again, or ask another one";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-streams", "Too many streams", detail).worth_retrying()
    }

    /// `what` completes the sentence "the parameter `name`: …".
    pub fn wrong_parameter(name: &str, what: &str) -> Self {
        let name: String = name.chars().take(100).collect();
        let detail = format!("the parameter `{name}`: {what}");
        Self::new(StatusCode::BAD_REQUEST, "wrong-parameter", "Wrong parameter", detail).with("parameter", json!(name))
    }

    pub fn not_a_letter_id() -> Self {
        let detail = "a dead letter's id is a UUID, as in 0193f0a1-7c3e-7b11-8f00-0123456789ab";
        Self::new(StatusCode::BAD_REQUEST, "not-an-id", "Not a dead letter's id", detail)
    }

    pub fn no_such_dead_letter(id: impl fmt::Display) -> Self {
        let detail = format!("there is no dead letter {id}: it was replayed or dropped, or it never was");
        Self::new(StatusCode::NOT_FOUND, "no-such-dead-letter", "No such dead letter", detail)
    }

    pub fn has_ended(status: Status) -> Self {
        let detail = format!("the order has ended: it is {}", status.as_str());
        Self::new(StatusCode::CONFLICT, "has-ended", "The order has ended", detail)
            .with("order_status", json!(status.as_str()))
    }

    pub fn not_failed(status: Status) -> Self {
        let detail = format!("only a failed order is tried again; this one is {}", status.as_str());
        Self::new(StatusCode::CONFLICT, "not-failed", "The order has not failed", detail)
            .with("order_status", json!(status.as_str()))
    }

    pub fn not_reached(failed_at: Stage) -> Self {
        let detail = format!("the order failed at {0}: it can go on there or before", failed_at.as_snake());
        Self::new(StatusCode::CONFLICT, "not-reached", "The order never came to that stage", detail)
            .with("failed_at", json!(failed_at.as_snake()))
    }

    /// Something that was asked for could not be done, or nobody knows whether it was; asking again does no harm.
    pub fn not_done(unavailable: &Unavailable) -> Self {
        let detail =
            format!("it was perhaps not done ({} is out of reach); asking again does no harm", unavailable.part);
        Self::out_of_reach(detail)
    }

    pub fn with_retried(self, orders: u64) -> Self {
        self.with("retried", json!(orders))
    }

    /// A fault of this program.
    pub fn failed() -> Self {
        let detail = "the server failed at it; its log says more";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "Failed", detail)
    }

    fn out_of_reach(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "out-of-reach", "Out of reach at the moment", detail)
            .worth_retrying()
    }

    /// The store of the dead letters does not answer.
    pub fn no_dead_letters(unavailable: &Unavailable) -> Self {
        Self::out_of_reach(format!("the dead letters are out of reach ({}); try again", unavailable.part))
    }

    /// A dead letter was not replayed, or not whole.
    pub fn not_replayed(not_done: &NotDone) -> Self {
        let detail = match not_done {
            NotDone::Store(unavailable) => return Self::no_dead_letters(unavailable),
            NotDone::Queue(PublishError::NotTaken(unavailable)) => {
                format!("it was not put back, and is kept ({} is out of reach); try again", unavailable.part)
            }
            NotDone::Queue(PublishError::Unknown(unavailable)) => format!(
                "it was perhaps put back: {} did not confirm it in time. It is kept; replaying it again does no harm",
                unavailable.part
            ),
            NotDone::StillKept(unavailable) => format!(
                "it was put back, but is still kept: it could not be removed ({} is out of reach). Replaying it again \
                 does no harm, and it may be dropped",
                unavailable.part
            ),
        };
        Self::out_of_reach(detail)
    }

    /// Not all dead letters came to their fate; `done` of them are `what`: `replayed` or `dropped`.
    pub fn stopped_at(failure: &NotDone, what: &'static str, done: u64) -> Self {
        let problem = Self::not_replayed(failure);
        let detail = format!("{done} are {what}, then it stopped at one: {}", problem.detail);
        Problem { detail, ..problem }.with(what, json!(done))
    }

    pub fn no_such_stage(name: &str) -> Self {
        let name: String = name.chars().take(100).collect();
        let names = Stage::ALL.map(Stage::as_kebab).join(", ");
        let detail = format!("there is no stage `{name}`; there are {names}");
        Self::new(StatusCode::NOT_FOUND, "no-such-stage", "No such stage", detail)
    }

    /// A body that is JSON, and not what the path takes.
    pub fn invalid_request(pointer: &str, detail: &str) -> Self {
        let errors = json!([{"pointer": pointer, "detail": detail}]);
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", "Invalid request", "the body has a problem")
            .with("errors", errors)
    }

    /// A body that could not be read into what the path takes.
    pub fn wrong_request(error: &serde_json::Error) -> Self {
        match error.classify() {
            serde_json::error::Category::Data => Self::invalid_request("", &error.to_string()),
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => Self::malformed(error),
        }
    }

    /// The store that has the paused stages does not answer.
    pub fn no_stages(unavailable: &Unavailable) -> Self {
        Self::out_of_reach(format!("which stages are paused cannot be told ({} is out of reach)", unavailable.part))
    }

    /// The store did not confirm that `stage` is `what`: `paused` or `resumed`.
    pub fn perhaps_switched(stage: Stage, what: &str, unavailable: &Unavailable) -> Self {
        let part = unavailable.part;
        Self::out_of_reach(format!(
            "{stage} is perhaps {what}: {part} did not confirm it. Sending it again does no harm"
        ))
    }

    fn body(&self) -> String {
        let mut body = json!({
            "type": format!("{TYPE_PREFIX}{}", self.name),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let members = body.as_object_mut().expect("it was written as an object");
        members.extend(self.more.iter().map(|(name, value)| (name.clone(), value.clone())));
        body.to_string()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed { line, column, detail } => {
                let detail = format!("the body is not JSON: {detail} at line {line} column {column}");
                Self::new(StatusCode::BAD_REQUEST, "malformed-json", "Malformed JSON", detail)
                    .with("line", json!(line))
                    .with("column", json!(column))
            }
            Refusal::Invalid(problems) => {
                let detail = match problems.len() {
                    1 => "the order has a problem".to_owned(),
                    n => format!("the order has {n} problems"),
                };
                let errors: Vec<Value> =
                    problems.into_iter().map(|p| json!({"pointer": p.pointer, "detail": p.detail})).collect();
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-order", "Invalid order", detail)
                    .with("errors", Value::Array(errors))
            }
        }
    }
}

impl From<NotAccepted> for Problem {
    fn from(not_accepted: NotAccepted) -> Self {
        let (name, title) = ("overloaded", "Not taken at the moment");
        match not_accepted {
            NotAccepted::Overloaded => {
                let detail = "the order was not taken: too many wait to be taken; send it again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, name, title, detail).worth_retrying()
            }
            NotAccepted::Unavailable(_) => {
                let detail = "the order was not taken: what would keep it is out of reach; send it again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, name, title, detail).worth_retrying()
            }
            NotAccepted::KeyReused { id: _ } => Self::key_reused(),
            NotAccepted::Unconfirmed { id, unavailable: _ } => {
                let detail = "the order was perhaps taken: nothing confirmed it in time; look for it under its id";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unconfirmed", "Perhaps taken", detail)
                    .with("id", json!(id.to_string()))
                    .worth_retrying()
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.content_type("application/problem+json").insert_header((header::CACHE_CONTROL, "no-store"));
        if let Some(secs) = self.retry_after_secs {
            response.insert_header((header::RETRY_AFTER, secs.to_string()));
        }
        if let Some(allow) = self.allow {
            response.insert_header((header::ALLOW, allow));
        }
        response.body(self.body())
    }
}

/// The answer to a path that is not there.
pub async fn no_such_path(request: HttpRequest) -> HttpResponse {
    Problem::no_such_path(request.path()).error_response()
}

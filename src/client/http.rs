//! The HTTP API as a client sees it: requests, and what each answer means for the order it is about.
//!
//! # Failure handling
//! Nothing is tried again here. [`Posted`] and [`Found`] tell apart what may work later ([`Trouble::is_passing`]) and
//! what never will; the callers decide how long to go on.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::printable;
use crate::domain::OrderId;
use crate::settings::SecretUrl;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one request and its answer. A server that takes longer is treated like one that is not there.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// For a stream, whose end nobody can foresee: a year.
const STREAM_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A server and the connections to it.
#[derive(Clone)]
pub struct Server {
    client: Client,
    /// What all paths begin with.
    v1: Url,
    shown: String,
}

/// What became of an order that was sent.
pub enum Posted {
    Accepted(Accepted),
    /// The server will never take it as it is.
    Refused(ProblemDocument),
    Trouble(Trouble),
}

/// What became of a question for an order.
pub enum Found {
    /// The body of the answer and what was read in it.
    Order(Box<super::view::OrderView>, Bytes),
    NoSuchOrder,
    Trouble(Trouble),
}

/// What became of a question for a stream of events.
pub enum Streamed {
    Open(Response),
    /// There is nothing more to come.
    Over,
}

/// There is no answer to the question that was asked.
#[derive(Debug)]
pub struct Trouble {
    pub what: String,
    /// Whether the same may work later.
    pub is_passing: bool,
    /// Whether the server could not be reached at all.
    pub is_unreachable: bool,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// The answer to an order that was taken.
#[derive(Deserialize)]
pub struct Accepted {
    pub id: String,
    pub status: String,
}

/// RFC 9457, with the list of what is wrong with an order.
#[derive(Deserialize)]
pub struct ProblemDocument {
    #[serde(default)]
    pub title: Option<String>,
    #[serde(default)]
    pub detail: Option<String>,
    #[serde(default)]
    pub errors: Vec<FieldProblem>,
}

#[derive(Deserialize)]
pub struct FieldProblem {
    #[serde(default)]
    pub pointer: String,
    #[serde(default)]
    pub detail: String,
}

impl ProblemDocument {
    /// The most precise text it has.
    pub fn text(&self) -> String {
        let text = self.detail.as_deref().or(self.title.as_deref());
        printable(text.unwrap_or("no reason given"))
    }

    /// As [`ProblemDocument::text`], with everything that is wrong with what was sent.
    fn whole_text(&self) -> String {
        let errors: String =
            self.errors.iter().map(|error| printable(&format!("; {}: {}", error.pointer, error.detail))).collect();
        self.text() + &errors
    }
}

impl Server {
    /// A server at `url`, talked to over at most about `connections` connections. Nothing is opened yet.
    ///
    /// # Errors
    /// What is wrong with the URL; final.
    pub fn new(url: &str, connections: usize) -> Result<Server, String> {
        let shown = SecretUrl::new(url.trim_end_matches('/')).to_string();
        let base = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
        let Some(mut v1) = base else {
            return Err("the server's URL (--server, ORDERING_SERVER) must look like http://HOST:PORT".to_owned());
        };
        let path = format!("{}/v1", v1.path().trim_end_matches('/'));
        v1.set_path(&path);
        v1.set_query(None);
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .pool_max_idle_per_host(connections)
            // A redirected POST would become a GET: show where the server points instead.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("ordering/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("cannot make an HTTP client: {}", root_cause(&error)))?;
        Ok(Server { client, v1, shown })
    }

    /// The URL, without a password.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Sends an order, and waits for the answer no longer than `patience`. `key` makes it safe to send it again when
    /// the answer got lost.
    pub async fn post(&self, order: Bytes, key: &str, patience: Duration) -> Posted {
        let request = self
            .client
            .post(self.url("orders"))
            .header(CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", key)
            .timeout(patience.min(REQUEST_TIMEOUT))
            .body(order);
        let (status, answer) = match self.exchange(request).await {
            Ok(answered) => answered,
            Err(trouble) => return Posted::Trouble(trouble),
        };
        if status.is_success() {
            return match serde_json::from_slice::<Accepted>(&answer.body) {
                Ok(accepted) if OrderId::parse(&accepted.id).is_some() => Posted::Accepted(accepted),
                _ => Posted::Trouble(self.not_understood(status)),
            };
        }
        match answer.problem() {
            Some(problem) if status.is_client_error() => Posted::Refused(problem),
            // A proxy in front of the server refuses large bodies in its own words.
            None if status == StatusCode::PAYLOAD_TOO_LARGE => Posted::Refused(ProblemDocument {
                title: None,
                detail: Some("too large for the server (413)".to_owned()),
                errors: Vec::new(),
            }),
            Some(problem) => Posted::Trouble(self.answered(status, &problem)),
            None => Posted::Trouble(self.not_understood(status)),
        }
    }

    /// Asks for an order.
    pub async fn get(&self, id: OrderId) -> Found {
        let request = self.client.get(self.url(&format!("orders/{id}")));
        let (status, answer) = match self.exchange(request).await {
            Ok(answered) => answered,
            Err(trouble) => return Found::Trouble(trouble),
        };
        if status.is_success() {
            return match serde_json::from_slice(&answer.body) {
                Ok(order) => Found::Order(Box::new(order), answer.body),
                Err(_) => Found::Trouble(self.not_understood(status)),
            };
        }
        match answer.problem() {
            // Without a problem document it is some other server that knows no such page.
            Some(_) if status == StatusCode::NOT_FOUND => Found::NoSuchOrder,
            Some(problem) => Found::Trouble(self.answered(status, &problem)),
            None => Found::Trouble(self.not_understood(status)),
        }
    }

    /// A request about dead letters: `path` is below `dead-letters`, empty for the path itself. Gives what was read in the
    /// answer, and its body.
    ///
    /// # Errors
    /// [`Trouble`]; that there is no such letter does not pass.
    pub async fn dead_letters<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<(T, Bytes), Trouble> {
        self.ask(method, &format!("dead-letters{path}"), query, None).await
    }

    /// A request for `path` below `/v1`, with a body of JSON if there is one. Gives what was read in the answer, and its
    /// body.
    ///
    /// # Errors
    /// [`Trouble`]; a problem that the server has with the request does not pass.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&serde_json::Value>,
    ) -> Result<(T, Bytes), Trouble> {
        let mut url = self.url(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let (status, answer) = self.exchange(request).await?;
        match answer.problem() {
            None if status.is_success() => match serde_json::from_slice(&answer.body) {
                Ok(said) => Ok((said, answer.body)),
                Err(_) => Err(self.not_understood(status)),
            },
            Some(problem) => Err(self.answered(status, &problem)),
            None => Err(self.not_understood(status)),
        }
    }

    /// Asks for a stream of events, after the last one that was seen.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn stream(
        &self,
        path: &str,
        query: &[(&str, &str)],
        last_event_id: Option<&str>,
    ) -> Result<Streamed, Trouble> {
        let mut url = self.url(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.client.get(url).timeout(STREAM_TIMEOUT);
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let asked = tokio::time::timeout(REQUEST_TIMEOUT, request.send()).await;
        let response = match asked {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(_elapsed) => return Err(self.silent()),
        };
        match response.status() {
            StatusCode::NO_CONTENT => Ok(Streamed::Over),
            StatusCode::OK => Ok(Streamed::Open(response)),
            _ => {
                let (status, answer) = self.answer(response).await?;
                Err(answer.problem().map_or_else(|| self.not_understood(status), |p| self.answered(status, &p)))
            }
        }
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.v1.clone();
        url.set_path(&format!("{}/{path}", self.v1.path()));
        url
    }

    /// Sends a request and reads its answer; what may work later comes back as trouble.
    async fn exchange(&self, request: reqwest::RequestBuilder) -> Result<(StatusCode, Answer), Trouble> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.answer(response).await
    }

    fn unreachable(&self, error: &reqwest::Error) -> Trouble {
        if error.is_timeout() {
            return self.silent();
        }
        let what = format!("cannot reach {}: {}", self.shown, root_cause(error));
        Trouble { what, is_passing: true, is_unreachable: true, retry_after: None }
    }

    fn silent(&self) -> Trouble {
        let what = format!("{} does not answer in time", self.shown);
        Trouble { what, is_passing: true, is_unreachable: true, retry_after: None }
    }

    /// Reads an answer to its end.
    async fn answer(&self, response: Response) -> Result<(StatusCode, Answer), Trouble> {
        let status = response.status();
        let retry_after = retry_after(&response);
        let is_problem = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("application/problem+json"));
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        let answer = Answer { is_problem, body };
        let is_passing = matches!(
            status,
            StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        if is_passing {
            let why = answer.problem().map(|problem| format!(": {}", problem.text()));
            return Err(Trouble {
                what: format!("{} answered {status}{}", self.shown, why.unwrap_or_default()),
                is_passing: true,
                is_unreachable: false,
                retry_after,
            });
        }
        Ok((status, answer))
    }

    fn answered(&self, status: StatusCode, problem: &ProblemDocument) -> Trouble {
        Trouble {
            what: format!("{} answered {status}: {}", self.shown, problem.whole_text()),
            is_passing: false,
            is_unreachable: false,
            retry_after: None,
        }
    }

    fn not_understood(&self, status: StatusCode) -> Trouble {
        Trouble {
            what: format!(
                "{} answered {status} in a way that no ordering server does; is it the right address?",
                self.shown
            ),
            is_passing: false,
            is_unreachable: false,
            retry_after: None,
        }
    }
}

struct Answer {
    is_problem: bool,
    body: Bytes,
}

impl Answer {
    fn problem(&self) -> Option<ProblemDocument> {
        self.is_problem.then(|| serde_json::from_slice(&self.body).ok()).flatten()
    }
}

/// The wait a server asks for, in seconds; its form with a date is not read.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// What was first to fail: what reqwest says above it repeats the URL.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    printable(&cause.to_string())
}

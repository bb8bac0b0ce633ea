//! A stage whose work is done by a service, in whatever language, that is called over HTTP: one request for one order.
//!
//! [`super::request`] says what is sent, [`super::answer`] what comes of an answer. doc/handlers.md tells the service's
//! side of it.
//!
//! # Failure handling
//! Nothing is tried again here: a call that came to nothing makes the order wait in a delay queue. A service that seems
//! to be down is left alone by the [`super::breaker`]. Redirects are not followed and no proxy of the environment is
//! used: orders go where the settings say and nowhere else.

use std::error::Error;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use tokio::sync::watch;

use super::answer::{self, Answer, BODY_BYTES_MAX, Verdict};
use super::breaker::{Breaker, BreakerPolicy};
use super::rate::Rate;
use super::request;
use super::signature::Secret;
use super::{Call, Handler};
use crate::domain::{Outcome, Stage};
use crate::gate::Gate;

/// How long an unused connection is kept. Shorter than common servers keep theirs (5 s and more): a request that meets
/// a connection the server is just closing would come to nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// How a service is called.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    pub stage: Stage,
    pub url: Url,
    /// For one call, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// Sent with every call, beside our own.
    pub headers: HeaderMap,
    /// To sign with; nothing is signed without one.
    pub secrets: Vec<Secret>,
    /// Of this process; `None` for as many as come.
    pub calls_per_second: Option<u32>,
    pub breaker: BreakerPolicy,
}

/// Calls a service for every order.
pub struct HttpHandler {
    client: Client,
    options: HttpOptions,
    rate: Option<Rate>,
    breaker: Breaker,
}

impl HttpHandler {
    /// # Errors
    /// If there is no way to speak TLS. Final.
    pub fn new(options: HttpOptions) -> Result<HttpHandler, reqwest::Error> {
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(options.timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("ordering/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let rate = options.calls_per_second.map(Rate::new);
        let breaker = Breaker::new(options.stage.as_kebab(), options.breaker);
        Ok(HttpHandler { client, options, rate, breaker })
    }

    async fn call(&self, call: &Call<'_>) -> Result<Verdict, reqwest::Error> {
        let body = request::body(call);
        let (options, now) = (&self.options, SystemTime::now());
        let headers = request::headers(call, &body, &options.headers, &options.secrets, now);
        let mut response = self.client.post(options.url.clone()).headers(headers).body(body).send().await?;
        let body = read_body(&mut response).await?;
        let answer = Answer {
            status: response.status().as_u16(),
            content_type: header(&response, CONTENT_TYPE),
            retry_after: header(&response, RETRY_AFTER),
            body: body.as_deref(),
        };
        Ok(answer::read(&answer, SystemTime::now()))
    }
}

#[async_trait]
impl Handler for HttpHandler {
    async fn handle(&self, call: &Call<'_>) -> Outcome {
        if let Some(rate) = &self.rate {
            rate.turn().await;
        }
        let Some(leave) = self.breaker.leave() else {
            return Outcome::Wait { reason: "not called: the handler does not answer".into(), least_wait: None };
        };
        let verdict = match tokio::time::timeout(self.options.timeout, self.call(call)).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => Verdict::none(explain(&error)),
            Err(_) => Verdict::none(format!("no answer within {:?}", self.options.timeout)),
        };
        match verdict {
            Verdict::Final(outcome) => {
                leave.succeeded();
                outcome
            }
            Verdict::Later { what, words, least_wait, is_down } => {
                let counts = match is_down {
                    true => leave.failed(&what),
                    false => {
                        leave.succeeded();
                        true
                    }
                };
                let reason = words.map_or(what.clone(), |words| format!("{what}: {words}"));
                match counts {
                    true => Outcome::Retry { reason, least_wait },
                    false => Outcome::Wait { reason, least_wait },
                }
            }
        }
    }

    fn gate(&self) -> Option<watch::Receiver<Gate>> {
        Some(self.breaker.gate())
    }
}

fn header(response: &Response, name: HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// The whole body; `None` if it is too large, and then the rest of it is not waited for.
async fn read_body(response: &mut Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// What went wrong, by its deepest cause; without the URL, which may hold a password.
fn explain(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let what = match () {
        () if error.is_connect() => "cannot connect",
        () if error.is_body() || error.is_decode() => "the answer broke off",
        () => "no answer",
    };
    match std::ptr::addr_eq(cause, error) {
        true => what.to_owned(),
        false => format!("{what}: {cause}"),
    }
}

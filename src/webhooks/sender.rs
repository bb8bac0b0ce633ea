//! Sends an event to a receiver, once: a signed `POST`, as the [Standard Webhooks
//! specification](https://www.standardwebhooks.com) has it.
//!
//! # Failure handling
//! Whatever is not an answer of 200 to 299 within the time is a failure, and passing. Redirects are not followed and no
//! proxy of the environment is used: events go where the webhook says and nowhere else.

use std::error::Error;
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};

use crate::domain::{Event, Timestamp};
use crate::handlers::signature::{self, Secret};
use crate::ports::Webhook;
use crate::view;

/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// An answer's body is of no interest. So much of it is read, so that the connection can be used again. Bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// When what was sent in vain is sent again.
#[derive(Clone, Copy, Debug)]
pub struct RetryOptions {
    /// The longest wait before the second time; each further one doubles it.
    pub base: Duration,
    /// The longest wait before any time.
    pub cap: Duration,
    /// What has waited longer than this is given up.
    pub give_up_after: Duration,
}

impl RetryOptions {
    /// The wait after `attempts` in vain, 1 and more; `jitter` lies in 0..1. A receiver may ask for a longer one.
    pub fn wait(&self, attempts: u32, jitter: f64, asked_for: Option<Duration>) -> Duration {
        let longest = self.base.saturating_mul(1 << attempts.saturating_sub(1).min(20)).min(self.cap);
        // Never at once: a receiver that fails fast would be asked without a pause.
        longest.mul_f64(0.5 + jitter / 2.0).max(asked_for.unwrap_or_default().min(self.cap))
    }
}

/// Sends events.
#[derive(Clone)]
pub struct Sender {
    client: Client,
    timeout: Duration,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub is_delivered: bool,
    /// `None` without an answer.
    pub status: Option<u16>,
    /// Why it is not delivered, without the URL.
    pub reason: Option<String>,
    /// How long the receiver asks to wait.
    pub retry_after: Option<Duration>,
}

impl Sender {
    /// One that waits for an answer so long.
    ///
    /// # Errors
    /// If there is no way to speak TLS. Final.
    pub fn new(timeout: Duration) -> Result<Sender, reqwest::Error> {
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("ordering/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Sender { client, timeout })
    }

    /// Sends an event.
    pub async fn send(&self, webhook: &Webhook, event: &Event) -> Answered {
        self.post(webhook, &event.id(), view::event(event)).await
    }

    /// Sends what says that it is a test.
    pub async fn test(&self, webhook: &Webhook, now: Timestamp, random: [u8; 10]) -> Answered {
        let ms = u64::try_from(now.as_millis()).unwrap_or(0);
        let id = format!("test:{}", uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid());
        let body = view::test_event(&id, now);
        self.post(webhook, &id, body).await
    }

    async fn post(&self, webhook: &Webhook, id: &str, body: Vec<u8>) -> Answered {
        let failed =
            |reason: String| Answered { is_delivered: false, status: None, reason: Some(reason), retry_after: None };
        let Some(secret) = Secret::parse(&webhook.secret) else { return failed("its secret cannot be read".into()) };
        let headers = headers(id, &body, &secret, SystemTime::now());
        let request = self.client.post(&webhook.url).headers(headers).body(body);
        let exchange = async {
            let response = request.send().await?;
            let answered = read(&response);
            drain(response).await;
            Ok::<_, reqwest::Error>(answered)
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => failed(explain(&error)),
            Err(_) => failed(format!("no answer within {:?}", self.timeout)),
        }
    }
}

fn headers(id: &str, body: &[u8], secret: &Secret, now: SystemTime) -> HeaderMap {
    let visible = |text: &str| HeaderValue::from_str(text).expect("ids and base64 are visible ASCII");
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let timestamp_secs = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    let signature = signature::sign(std::slice::from_ref(secret), id, timestamp_secs, body);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("webhook-id", visible(id));
    headers.insert("webhook-timestamp", timestamp_secs.into());
    headers.insert("webhook-signature", visible(&signature));
    headers
}

fn read(response: &Response) -> Answered {
    let status = response.status();
    // Its form with a date is not read.
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Answered {
        is_delivered: status.is_success(),
        status: Some(status.as_u16()),
        reason: (!status.is_success()).then(|| format!("answered {status}")),
        retry_after: retry_after.map(Duration::from_secs),
    }
}

/// The status has said it: what goes wrong from here on makes no difference.
async fn drain(mut response: Response) {
    let mut bytes = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes += chunk.len();
        if bytes > BODY_BYTES_MAX {
            return;
        }
    }
}

/// What went wrong, by its deepest cause; without the URL.
fn explain(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let what = if error.is_connect() { "cannot connect" } else { "no answer" };
    match std::ptr::addr_eq(cause, error) {
        true => what.to_owned(),
        false => format!("{what}: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_cap_and_are_never_nothing() {
        let secs = Duration::from_secs;
        let retry = RetryOptions { base: secs(4), cap: secs(60), give_up_after: secs(1) };
        let waits = |jitter| [1, 2, 3, 5, 100].map(|attempts| retry.wait(attempts, jitter, None).as_secs());
        assert_eq!(waits(0.0), [2, 4, 8, 30, 30]);
        assert_eq!(waits(1.0), [4, 8, 16, 60, 60]);
        assert_eq!(retry.wait(1, 0.0, Some(secs(40))), secs(40));
        assert_eq!(retry.wait(1, 0.0, Some(secs(40_000))), secs(60));
    }

    #[test]
    fn what_is_sent_is_signed() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_614_265_330);
        let headers = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", br#"{"test": 2432232314}"#, &secret, at);
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
    }
}

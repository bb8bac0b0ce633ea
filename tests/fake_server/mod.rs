//! A server for the client's tests: answers what a test tells it to, and remembers what it was sent.

#![allow(dead_code, reason = "every test program takes what it needs")]

use std::net::SocketAddr;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    pub key: Option<String>,
    pub body: String,
}

/// What it answers.
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub retry_after: Option<u32>,
    pub body: String,
}

pub const ID: &str = "0193f0a1-7c3e-7b11-8f00-0123456789ab";

/// An id that tells orders of a test apart.
pub fn id(number: usize) -> String {
    format!("0193f0a1-7c3e-7b11-8f00-{number:012}")
}

impl Answer {
    pub fn json(status: u16, body: impl ToString) -> Answer {
        Answer { status, content_type: "application/json", retry_after: None, body: body.to_string() }
    }

    pub fn accepted(id: &str) -> Answer {
        Answer::json(202, serde_json::json!({ "id": id, "status": "accepted" }))
    }

    pub fn problem(status: u16, body: serde_json::Value) -> Answer {
        Answer { content_type: "application/problem+json", ..Answer::json(status, body) }
    }

    pub fn overloaded(retry_after: u32) -> Answer {
        Answer {
            retry_after: Some(retry_after),
            ..Answer::problem(503, serde_json::json!({ "title": "overloaded", "detail": "come back later" }))
        }
    }

    /// An order as GET shows it.
    pub fn order(id: &str, status: &str) -> Answer {
        let ended = matches!(status, "completed" | "failed" | "cancelled");
        let failure =
            (status == "failed").then(|| serde_json::json!({ "stage": "processing", "reason": "out of stock" }));
        Answer::json(
            200,
            serde_json::json!({
                "id": id, "status": status, "customer_id": "17850", "reference": null, "currency": "GBP",
                "items": [{}, {}], "metadata": null, "total": "15.30",
                "placed_at": "2026-11-24T08:15:30.250Z", "updated_at": "2026-11-24T08:15:31.000Z",
                "finished_at": ended.then_some("2026-11-24T08:15:31.000Z"), "failure": failure,
                "steps": [{
                    "stage": "scheduling", "entered_at": "2026-11-24T08:15:30.300Z",
                    "finished_at": "2026-11-24T08:15:30.340Z", "attempts": 1, "outcome": "done", "reason": null,
                    "worker": "host-1",
                }],
            }),
        )
    }
}

/// The server; stops when it is dropped.
pub struct FakeServer {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    handle: actix_web::dev::ServerHandle,
}

impl FakeServer {
    /// Answers every request with what `answer` makes of it and of how many came before; `None` for no answer at all.
    pub fn start<F>(answer: F) -> FakeServer
    where
        F: Fn(&Seen, usize) -> Option<Answer> + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (started, start) = mpsc::channel();
        let in_server = seen.clone();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    let (answer, seen) = (answer.clone(), in_server.clone());
                    App::new().default_service(web::to(move |request: HttpRequest, body: web::Bytes| {
                        respond(answer.clone(), seen.clone(), request, body)
                    }))
                })
                .workers(1)
                .disable_signals()
                .shutdown_timeout(0)
                .bind(("127.0.0.1", 0))
                .unwrap();
                let address: SocketAddr = server.addrs()[0];
                let server = server.run();
                started.send((address, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (address, handle) = start.recv().unwrap();
        FakeServer { url: format!("http://{address}"), seen, handle }
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        // The message to stop is sent by the call; waiting for the end is what the future is for.
        drop(self.handle.stop(false));
    }
}

async fn respond<F>(answer: Arc<F>, seen: Arc<Mutex<Vec<Seen>>>, request: HttpRequest, body: web::Bytes) -> HttpResponse
where
    F: Fn(&Seen, usize) -> Option<Answer> + Send + Sync + 'static,
{
    let key = request.headers().get("idempotency-key");
    let now = Seen {
        method: request.method().to_string(),
        path: request.path().to_owned(),
        query: request.query_string().to_owned(),
        key: key.map(|value| value.to_str().unwrap().to_owned()),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(now.clone());
        seen.len() - 1
    };
    let Some(answer) = answer(&now, before) else {
        return std::future::pending().await;
    };
    let mut response = HttpResponse::build(StatusCode::from_u16(answer.status).unwrap());
    response.content_type(answer.content_type);
    if let Some(seconds) = answer.retry_after {
        response.insert_header(("Retry-After", seconds.to_string()));
    }
    response.body(answer.body)
}

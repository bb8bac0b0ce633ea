//! A service that does the work of a stage, in the tests' hands: it answers what a test tells it to, lies and garbage
//! included, and remembers what it was sent.

#![allow(dead_code, reason = "every test program takes what it needs")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One call as the service saw it.
#[derive(Clone, Debug)]
pub struct Call {
    pub at: Instant,
    pub path: String,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    pub json: Value,
}

impl Call {
    pub fn reference(&self) -> &str {
        self.json["order"]["reference"].as_str().unwrap_or_default()
    }

    pub fn attempt(&self) -> u64 {
        self.json["attempt"].as_u64().unwrap()
    }
}

/// What it does to a call.
pub enum Reply {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// Writes these bytes and closes the connection.
    Bytes(Vec<u8>),
    /// Writes these bytes and then nothing, with the connection open.
    Hang(Vec<u8>),
    /// Writes these bytes and resets the connection.
    Reset(Vec<u8>),
    /// After a while.
    Late(Duration, Box<Reply>),
}

impl Reply {
    pub fn status(status: u16) -> Reply {
        Reply::text(status, "")
    }

    pub fn text(status: u16, body: impl Into<String>) -> Reply {
        Reply::Answer { status, headers: vec![("Content-Type", "text/plain".into())], body: body.into() }
    }

    pub fn json(status: u16, body: Value) -> Reply {
        let headers = vec![("Content-Type", "application/json".into())];
        Reply::Answer { status, headers, body: body.to_string() }
    }

    pub fn with(self, name: &'static str, value: impl Into<String>) -> Reply {
        match self {
            Reply::Answer { status, mut headers, body } => {
                headers.push((name, value.into()));
                Reply::Answer { status, headers, body }
            }
            other => other,
        }
    }
}

/// Runs until it is dropped.
pub struct Service {
    pub url: String,
    calls: Arc<Mutex<Vec<Call>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Service {
    pub async fn start(reply: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Service {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        Service::on(listener, true, reply)
    }

    /// Serves on `listener`; `remembers` what it was sent, or not.
    pub fn on(
        listener: TcpListener,
        remembers: bool,
        reply: impl Fn(&Call) -> Reply + Send + Sync + 'static,
    ) -> Service {
        let url = format!("http://{}/work", listener.local_addr().unwrap());
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (seen, reply) = (remembers.then(|| calls.clone()), Arc::new(reply));
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, seen.clone(), reply.clone()));
            }
        });
        Service { url, calls, task }
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The calls for the order with this reference.
    pub fn calls_for(&self, reference: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.reference() == reference).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut connection: TcpStream, calls: Option<Arc<Mutex<Vec<Call>>>>, reply: Arc<impl Fn(&Call) -> Reply>) {
    let Some(call) = read(&mut connection).await else { return };
    if let Some(calls) = calls {
        calls.lock().unwrap().push(call.clone());
    }
    let mut reply = reply(&call);
    while let Reply::Late(wait, later) = reply {
        tokio::time::sleep(wait).await;
        reply = *later;
    }
    match reply {
        Reply::Answer { status, headers, body } => {
            let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} Reason\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
            );
            // The caller need not read all of it.
            let _ = connection.write_all(answer.as_bytes()).await;
        }
        Reply::Bytes(bytes) => drop(connection.write_all(&bytes).await),
        Reply::Hang(bytes) => {
            let _ = connection.write_all(&bytes).await;
            // Until the caller has enough.
            let _ = connection.read(&mut [0]).await;
        }
        Reply::Reset(bytes) => {
            let _ = connection.write_all(&bytes).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            connection.set_zero_linger().unwrap();
        }
        Reply::Late(..) => unreachable!("it was waited for"),
    }
}

async fn read(connection: &mut TcpStream) -> Option<Call> {
    let mut bytes = Vec::new();
    let head = loop {
        if connection.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.lines();
    let request = lines.next().unwrap().to_owned();
    let headers: BTreeMap<String, String> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers["content-length"].parse().unwrap();
    while bytes.len() < head + 4 + length {
        if connection.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(bytes[head + 4..].to_vec()).unwrap();
    let json = serde_json::from_str(&body).unwrap();
    let path = request.split(' ').nth(1).unwrap().to_owned();
    assert!(request.starts_with("POST "), "{request}");
    Some(Call { at: Instant::now(), path, headers, body, json })
}

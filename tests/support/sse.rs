//! A client of server-sent events.

#![allow(dead_code, reason = "every test program takes what it needs")]

use std::time::Duration;

use reqwest::{Client, Response};
use serde_json::Value;

/// How long a test waits for something that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

/// One event as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

/// A stream that is being read.
pub struct Sse {
    answer: Response,
    bytes: Vec<u8>,
    pub comments: usize,
    pub retry: Option<String>,
}

/// Asks for a stream; whatever is answered.
pub async fn ask(url: &str, last_event_id: Option<&str>) -> Response {
    // An error means that somebody was faster.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().no_proxy().build().unwrap();
    let mut request = client.get(url);
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    request.send().await.unwrap()
}

impl Sse {
    pub async fn open(url: &str, last_event_id: Option<&str>) -> Sse {
        let answer = ask(url, last_event_id).await;
        assert_eq!(answer.status(), 200, "{url}");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        Sse { answer, bytes: Vec::new(), comments: 0, retry: None }
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Sent> {
        tokio::time::timeout(DEADLINE, self.read()).await.expect("an event, or the end")
    }

    async fn read(&mut self) -> Option<Sent> {
        loop {
            while let Some(end) = self.bytes.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
                if let Some(sent) = self.block(std::str::from_utf8(&block).unwrap()) {
                    return Some(sent);
                }
            }
            // A server that is killed ends the stream too.
            self.bytes.extend_from_slice(&self.answer.chunk().await.ok().flatten()?);
        }
    }

    fn block(&mut self, block: &str) -> Option<Sent> {
        let (mut id, mut kind, mut data) = (String::new(), String::new(), None);
        for line in block.lines().filter(|line| !line.is_empty()) {
            match line.split_once(": ").unwrap_or_else(|| panic!("{line:?}")) {
                ("", _) => self.comments += 1,
                ("retry", ms) => self.retry = Some(ms.to_owned()),
                ("id", value) => id = value.to_owned(),
                ("event", value) => kind = value.to_owned(),
                ("data", value) => data = Some(serde_json::from_str(value).unwrap()),
                _ => panic!("{line:?}"),
            }
        }
        data.map(|data| Sent { id, kind, data })
    }

    /// Waits until a heartbeat has come.
    pub async fn beat(&mut self) {
        let before = self.comments;
        let beaten = async {
            while self.comments == before {
                assert_eq!(self.bytes_to_block().await, None, "an event");
            }
        };
        tokio::time::timeout(DEADLINE, beaten).await.expect("a heartbeat");
    }

    async fn bytes_to_block(&mut self) -> Option<Sent> {
        let chunk = self.answer.chunk().await.unwrap().expect("the stream goes on");
        self.bytes.extend_from_slice(&chunk);
        while let Some(end) = self.bytes.windows(2).position(|two| two == b"\n\n") {
            let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
            if let Some(sent) = self.block(std::str::from_utf8(&block).unwrap()) {
                return Some(sent);
            }
        }
        None
    }

    /// All events until the stream ends.
    pub async fn rest(&mut self) -> Vec<Sent> {
        let mut all = Vec::new();
        while let Some(sent) = self.next().await {
            all.push(sent);
        }
        all
    }
}

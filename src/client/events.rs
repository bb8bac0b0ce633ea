//! `ordering events`: shows what happens to an order, or to all of them, as it happens.
//!
//! # Failure handling
//! A stream that breaks off is taken up again where it was, for as long as a server may need to start anew.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use tokio::time::Instant;

use super::failure::{Failure, exit_code};
use super::http::{Streamed, Trouble};
use super::output::{print, print_line};
use super::webhook::kind_parser;
use super::{ServerArgs, order_id, printable};
use crate::cli::stage_parser;
use crate::domain::{EventKind, OrderId, Stage};

/// The wait before a stream that broke off is asked for again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long it is asked for in vain.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any server stays silent: it says that it lives.
const SILENCE_MAX: Duration = Duration::from_secs(330);
/// An event of more than this is none of this system. Bytes.
const EVENT_MAX: usize = 1 << 20;

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// The id of an order; without it, what happens to all orders
    #[arg(value_parser = order_id)]
    pub id: Option<OrderId>,

    /// Only events of this type; repeat it for several
    #[arg(long = "type", value_name = "TYPE", value_parser = kind_parser(), conflicts_with = "id")]
    pub kinds: Vec<EventKind>,

    /// Only what happens at this stage; repeat it for several
    #[arg(long = "stage", value_name = "STAGE", value_parser = stage_parser(), conflicts_with = "id")]
    pub stages: Vec<Stage>,

    /// Print the server's JSON as it is, a line for each event
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub server: ServerArgs,
}

/// Follows an order to its end, and all orders without end. Exit code 0 if the order has ended, however it did.
pub async fn run(args: EventsArgs) -> ExitCode {
    exit_code(follow(&args).await)
}

/// Goes on over broken connections; comes back when the order has ended.
async fn follow(args: &EventsArgs) -> Result<(), Failure> {
    let (server, id) = (args.server.server()?, args.id);
    let path = id.map_or("events".to_owned(), |id| format!("orders/{id}/events"));
    let comma = |names: Vec<&str>| names.join(",");
    let (kinds, stages) = (
        comma(args.kinds.iter().map(|kind| kind.as_str()).collect()),
        comma(args.stages.iter().map(|stage| stage.as_kebab()).collect()),
    );
    let query: Vec<(&str, &str)> =
        [("type", &*kinds), ("stage", &*stages)].into_iter().filter(|(_, names)| !names.is_empty()).collect();
    let (mut last, mut heard_at) = (None, None::<Instant>);
    loop {
        match server.stream(&path, &query, last.as_deref()).await {
            Ok(Streamed::Over) => return Ok(()),
            Ok(Streamed::Open(mut stream)) => {
                heard_at = Some(Instant::now());
                let mut reader = Reader::default();
                while let Ok(Ok(Some(bytes))) = tokio::time::timeout(SILENCE_MAX, stream.chunk()).await {
                    heard_at = Some(Instant::now());
                    let unreadable = || Failure::Failed("the server sends no events that can be read".to_owned());
                    for event in reader.take_in(&bytes).ok_or_else(unreadable)? {
                        show(&event, args.json);
                        last = event.id.or(last);
                        if id.is_some() && is_end(&event.kind) {
                            return Ok(());
                        }
                    }
                }
            }
            Err(trouble) if is_worth_waiting(&trouble, heard_at) => {}
            Err(trouble) => return Err(trouble.into()),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

fn is_worth_waiting(trouble: &Trouble, heard_at: Option<Instant>) -> bool {
    trouble.is_passing && heard_at.is_some_and(|at| at.elapsed() < PATIENCE)
}

fn is_end(kind: &str) -> bool {
    match EventKind::parse(kind) {
        Some(EventKind::OrderCompleted | EventKind::OrderFailed | EventKind::OrderCancelled) => true,
        Some(
            EventKind::OrderAccepted
            | EventKind::OrderRetried
            | EventKind::StepStarted
            | EventKind::StepDone
            | EventKind::StepRetried,
        )
        | None => false,
    }
}

/// An event as it came.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sent {
    id: Option<String>,
    kind: String,
    data: String,
}

/// What a line shows of an event. Fields that are not known here are left alone: the server may be newer.
#[derive(Deserialize)]
struct Line {
    at: String,
    order_id: String,
    r#type: String,
    stage: Option<String>,
    attempt: Option<u32>,
    reason: Option<String>,
}

fn show(event: &Sent, json: bool) {
    if json {
        print_line(event.data.as_bytes());
    } else if event.kind == "gap" {
        eprintln!("some events are missing here");
    } else if let Ok(line) = serde_json::from_str::<Line>(&event.data) {
        print(&format!("{}\n", printable(&text(&line))));
    }
}

fn text(line: &Line) -> String {
    let mut text = format!("{} {} {}", line.at, line.order_id, line.r#type);
    if let Some(stage) = &line.stage {
        text += &format!(" {stage}");
    }
    if let Some(attempt) = line.attempt.filter(|attempt| *attempt > 1) {
        text += &format!(" attempt {attempt}");
    }
    if let Some(reason) = &line.reason {
        text += &format!(": {reason}");
    }
    text
}

/// Takes a stream apart, as it comes in.
#[derive(Default)]
struct Reader {
    line: Vec<u8>,
    event: Sent,
}

impl Reader {
    /// The events that are whole now; `None` if this cannot be a stream of events.
    fn take_in(&mut self, bytes: &[u8]) -> Option<Vec<Sent>> {
        let mut events = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > EVENT_MAX {
                    return None;
                }
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim_end_matches('\r').to_owned();
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                // Comments, and how long to wait, are no events.
                if !event.data.is_empty() {
                    events.push(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "id" => self.event.id = Some(value),
                "event" => self.event.kind = value,
                "data" => self.event.data = value,
                _ => {}
            }
        }
        Some(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_however_it_is_cut() {
        let stream = b"retry: 2000\n\n: alive\n\nid: 5\nevent: step.done\ndata: {\"a\":\"b: c\"}\n\nevent: gap\r\ndata: {}\r\n\r\n";
        let done = Sent { id: Some("5".into()), kind: "step.done".into(), data: "{\"a\":\"b: c\"}".into() };
        let gap = Sent { id: None, kind: "gap".into(), data: "{}".into() };
        for size in [1, 7, stream.len()] {
            let mut reader = Reader::default();
            let events: Vec<Sent> = stream.chunks(size).flat_map(|some| reader.take_in(some).unwrap()).collect();
            assert_eq!(events, [done.clone(), gap.clone()]);
        }
        assert!(Reader::default().take_in(&vec![b'x'; EVENT_MAX + 1]).is_none());
    }

    #[test]
    fn a_line_says_what_there_is_to_say() {
        let line = Line {
            at: "T".into(),
            order_id: "id".into(),
            r#type: "step.retried".into(),
            stage: Some("processing".into()),
            attempt: Some(2),
            reason: Some("busy".into()),
        };
        assert_eq!(text(&line), "T id step.retried processing attempt 2: busy");
        let line = Line { r#type: "order.accepted".into(), stage: None, attempt: None, reason: None, ..line };
        assert_eq!(text(&line), "T id order.accepted");
    }
}

//! `ordering get`: shows an order.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use tokio::time::Instant;

use super::failure::{Failure, exit_code};
use super::http::{Found, Server};
use super::output::{print, print_line};
use super::view::OrderView;
use super::{ServerArgs, order_id};
use crate::domain::OrderId;

const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(1);
/// How long `--watch` goes on without an answer once it had one: a server that is started anew is back by then.
const WATCH_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct GetArgs {
    /// The id that the server gave for the order
    #[arg(value_parser = order_id)]
    pub id: OrderId,

    /// Print the server's JSON as it is
    #[arg(long)]
    pub json: bool,

    /// Follow the order until it has ended: redrawn on a terminal, elsewhere a line for each change
    #[arg(long)]
    pub watch: bool,

    #[command(flatten)]
    pub server: ServerArgs,
}

/// Shows the order. Exit code 0 if it could be shown, however it ended.
pub async fn run(args: GetArgs) -> ExitCode {
    let shown = async {
        let server = args.server.server()?;
        match args.watch {
            true => watch(&server, args.id, args.json).await,
            false => show(&server, args.id, args.json).await,
        }
    };
    exit_code(shown.await)
}

async fn show(server: &Server, id: OrderId, json: bool) -> Result<(), Failure> {
    match server.get(id).await {
        Found::Order(_, body) if json => print_line(&body),
        Found::Order(order, _) => print(&order.to_text()),
        Found::NoSuchOrder => return Err(no_such_order(server, id)),
        Found::Trouble(trouble) => return Err(trouble.into()),
    }
    Ok(())
}

async fn watch(server: &Server, id: OrderId, json: bool) -> Result<(), Failure> {
    let mut screen = Screen::new(json);
    let mut last_answer: Option<Instant> = None;
    let mut pause = POLL_MIN;
    loop {
        match server.get(id).await {
            Found::Order(order, body) => {
                last_answer = Some(Instant::now());
                pause = match screen.show(&order, &body) {
                    true => POLL_MIN,
                    false => (pause * 2).min(POLL_MAX),
                };
                if order.has_ended() {
                    return Ok(());
                }
            }
            Found::NoSuchOrder => return Err(no_such_order(server, id)),
            Found::Trouble(trouble) => {
                let is_worth_waiting =
                    trouble.is_passing && last_answer.is_some_and(|at| at.elapsed() < WATCH_PATIENCE);
                if !is_worth_waiting {
                    return Err(trouble.into());
                }
                pause = trouble.retry_after.unwrap_or(POLL_MAX).min(WATCH_PATIENCE);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Shows an order again and again.
struct Screen {
    json: bool,
    is_terminal: bool,
    last_body: Bytes,
    last_status: String,
    lines_drawn: usize,
}

impl Screen {
    fn new(json: bool) -> Screen {
        Screen {
            json,
            is_terminal: stdout().is_terminal(),
            last_body: Bytes::new(),
            last_status: String::new(),
            lines_drawn: 0,
        }
    }

    /// Shows what is new; says whether anything is.
    fn show(&mut self, order: &OrderView, body: &Bytes) -> bool {
        if *body == self.last_body {
            return false;
        }
        self.last_body = body.clone();
        if self.json {
            print_line(body);
        } else if self.is_terminal {
            let text = order.to_text();
            let back = match self.lines_drawn {
                0 => String::new(),
                // Up to the first line drawn before, and clear from there.
                lines => format!("\x1b[{lines}A\x1b[J"),
            };
            self.lines_drawn = text.lines().count();
            print(&format!("{back}{text}"));
        } else {
            let mut status = order.status_text();
            if let Some(failure) = order.failure_text() {
                status.push_str(&format!(" {failure}"));
            }
            if status != self.last_status {
                print(&format!("{} {status}\n", super::printable(&order.updated_at)));
                self.last_status = status;
            }
        }
        true
    }
}

fn no_such_order(server: &Server, id: OrderId) -> Failure {
    Failure::Failed(format!("{} knows no order {id}", server.shown()))
}

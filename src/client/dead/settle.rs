//! `ordering dead replay` and `ordering dead drop`.
//!
//! # Failure handling
//! Nothing is tried again: what was done is said, and the same command may be given again for the rest.

use std::io::{IsTerminal, Write, stderr, stdin};

use clap::{ArgGroup, Args};
use reqwest::Method;
use serde::Deserialize;

use super::{Failure, letter_id, list, queue_parser, so_many};
use crate::client::ServerArgs;
use crate::client::http::Server;
use crate::client::output::{print, with_advice};
use crate::ports::{DeadLetterId, Source};

/// The letters counted before the question is asked.
const COUNTED_MAX: u32 = 1_000;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["ids", "all"])))]
pub struct SettleArgs {
    /// The ids that `list` shows
    #[arg(value_name = "ID", value_parser = letter_id)]
    ids: Vec<DeadLetterId>,

    /// All there are now
    #[arg(long)]
    all: bool,

    /// All of this queue
    #[arg(long, value_name = "QUEUE", requires = "all", conflicts_with = "ids", value_parser = queue_parser())]
    queue: Option<Source>,

    /// Do not ask before --all; needed where there is no terminal to ask at
    #[arg(long, requires = "all", conflicts_with = "ids")]
    yes: bool,

    #[command(flatten)]
    pub(super) server: ServerArgs,
}

#[derive(Clone, Copy)]
pub(super) enum Deed {
    Replay,
    Drop,
}

impl Deed {
    fn verb(self) -> &'static str {
        match self {
            Deed::Replay => "replay",
            Deed::Drop => "drop",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Deed::Replay => "replayed",
            Deed::Drop => "dropped",
        }
    }

    /// How the server is asked for it; `path` is the letter's, or empty for all.
    fn request(self, path: &str) -> (Method, String) {
        match self {
            Deed::Replay => (Method::POST, format!("{path}/replay")),
            Deed::Drop => (Method::DELETE, path.to_owned()),
        }
    }
}

/// What the server says it did.
#[derive(Deserialize)]
struct Done {
    #[serde(alias = "replayed", alias = "dropped")]
    count: u64,
    #[serde(default)]
    cursor: Option<String>,
}

pub(super) async fn run(server: &Server, deed: Deed, args: SettleArgs) -> Result<(), Failure> {
    if !args.all {
        return one_by_one(server, deed, &args.ids).await;
    }
    if !args.yes {
        if !stdin().is_terminal() {
            let problem =
                format!("--all needs --yes where there is no terminal to ask at whether to {} all", deed.verb());
            return Err(Failure::Misused(problem));
        }
        if !is_wanted(server, deed, args.queue).await? {
            return Ok(());
        }
    }
    all(server, deed, args.queue).await
}

async fn one_by_one(server: &Server, deed: Deed, ids: &[DeadLetterId]) -> Result<(), Failure> {
    let mut is_fine = true;
    for id in ids {
        let (method, path) = deed.request(&format!("/{id}"));
        match server.dead_letters::<Done>(method, &path, &[]).await {
            Ok(_) => print(&format!("{} {id}\n", deed.done())),
            // The others would not get further.
            Err(trouble) if trouble.is_passing => {
                let problem = format!("{id} was not {}: {}", deed.done(), with_advice(&trouble));
                return Err(Failure::Failed(problem));
            }
            Err(trouble) => {
                is_fine = false;
                eprintln!("error: {id} was not {}: {trouble}", deed.done());
            }
        }
    }
    if is_fine { Ok(()) } else { Err(Failure::Said) }
}

/// Asks at the terminal; `false` if there is nothing to be done.
///
/// # Errors
/// [`Failure`], also if the answer is no.
async fn is_wanted(server: &Server, deed: Deed, queue: Option<Source>) -> Result<bool, Failure> {
    let page = list::page(server, queue, COUNTED_MAX, None).await;
    let page = page?;
    let count = match (page.dead_letters.len(), page.cursor) {
        (0, _) => {
            print(&format!("{} {}\n", so_many(0, queue), deed.done()));
            return Ok(false);
        }
        (_, Some(_)) => format!("more than {COUNTED_MAX}"),
        (count, None) => count.to_string(),
    };
    eprint!("{} {} at {}? [y/N] ", deed.verb(), so_many(count, queue), server.shown());
    let _ = stderr().flush();
    let mut answer = String::new();
    let read = stdin().read_line(&mut answer);
    match read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        true => Ok(true),
        false => Err(Failure::Failed("nothing was done".to_owned())),
    }
}

async fn all(server: &Server, deed: Deed, queue: Option<Source>) -> Result<(), Failure> {
    let (method, path) = deed.request("");
    let which = match queue {
        Some(queue) => ("queue", queue.to_string()),
        None => ("all", "true".to_owned()),
    };
    let (mut count, mut cursor) = (0, None::<String>);
    loop {
        let mut query = vec![(which.0, which.1.as_str())];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let done: Done = match server.dead_letters(method.clone(), &path, &query).await {
            Ok((done, _)) => done,
            Err(trouble) => {
                let before = match count {
                    0 => String::new(),
                    count => format!("\n{} were {} before that", so_many(count, queue), deed.done()),
                };
                return Err(Failure::Failed(format!("{}{before}", with_advice(&trouble))));
            }
        };
        count += done.count;
        cursor = done.cursor;
        if cursor.is_none() {
            print(&format!("{} {}\n", so_many(count, queue), deed.done()));
            return Ok(());
        }
    }
}

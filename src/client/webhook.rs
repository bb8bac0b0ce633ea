//! `ordering webhook`: who is told what happens to orders.

use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::http::Server;
use super::output::{print, print_line, with_advice};
use super::{ServerArgs, printable};
use crate::cli::{EXIT_FAILED, EXIT_MISUSED};
use crate::domain::EventKind;
use crate::ports::WebhookId;

#[derive(Debug, Args)]
pub struct WebhookArgs {
    #[command(subcommand)]
    pub command: WebhookCommand,
}

#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// Add a receiver of events
    #[command(after_help = "\
Examples:
  ordering webhook add https://shop.example/orders --event order.completed --event order.failed
  ordering webhook add http://127.0.0.1:9000/ --event step.retried --description 'on call' --json | jq -r .secret
The secret that events are signed with is shown this once.")]
    Add(AddArgs),

    /// List the receivers, and how much each has yet to be told
    #[command(after_help = "\
Example:
  ordering webhook list")]
    List(ListArgs),

    /// Remove a receiver; what it has not been told by now it is not told any more
    #[command(after_help = "\
Example:
  ordering webhook remove 0193f0a1-7c3e-7b11-8f00-0123456789ab")]
    Remove(OneArgs),

    /// Send a receiver an event that says that it is a test
    #[command(after_help = "\
Example:
  ordering webhook test 0193f0a1-7c3e-7b11-8f00-0123456789ab
Exit code 1 if it was not taken.")]
    Test(OneArgs),
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// Where events are sent
    url: String,

    /// A type of event to send; repeat it for several
    #[arg(long = "event", value_name = "TYPE", required = true, value_parser = kind_parser())]
    events: Vec<EventKind>,

    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Print the server's JSON as it is
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print a line of JSON for each, as the server describes it
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct OneArgs {
    /// The id that `list` shows
    #[arg(value_parser = webhook_id)]
    id: WebhookId,

    #[command(flatten)]
    server: ServerArgs,
}

/// Knows the names of all types of events.
pub(super) fn kind_parser() -> impl TypedValueParser<Value = EventKind> {
    PossibleValuesParser::new(EventKind::ALL.map(EventKind::as_str))
        .map(|name| EventKind::parse(&name).expect("it is one of them"))
}

fn webhook_id(text: &str) -> Result<WebhookId, String> {
    let wrong = "this is no webhook's id; one looks like 0193f0a1-7c3e-7b11-8f00-0123456789ab";
    WebhookId::parse(text).ok_or_else(|| wrong.to_owned())
}

/// What is shown of a webhook. Fields that are not known here are left alone: the server may be newer.
#[derive(Deserialize)]
struct Added {
    id: String,
    secret: String,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    url: String,
    events: Vec<String>,
    description: Option<String>,
    pending: u64,
    given_up: u64,
}

#[derive(Deserialize)]
struct Listed {
    webhooks: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Removed {
    removed: u64,
}

#[derive(Deserialize)]
struct Tested {
    delivered: bool,
    status: Option<u16>,
    reason: Option<String>,
}

pub async fn run(args: WebhookArgs) -> ExitCode {
    let command = args.command;
    let server = match &command {
        WebhookCommand::Add(args) => &args.server,
        WebhookCommand::List(args) => &args.server,
        WebhookCommand::Remove(args) | WebhookCommand::Test(args) => &args.server,
    };
    let server = match Server::new(&server.server, 1) {
        Ok(server) => server,
        Err(problem) => {
            eprintln!("error: {problem}");
            return ExitCode::from(EXIT_MISUSED);
        }
    };
    let done = match command {
        WebhookCommand::Add(args) => add(&server, args).await,
        WebhookCommand::List(args) => list(&server, &args).await,
        WebhookCommand::Remove(args) => remove(&server, args.id).await,
        WebhookCommand::Test(args) => test(&server, args.id).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

async fn add(server: &Server, args: AddArgs) -> Result<(), String> {
    let events: Vec<&str> = args.events.iter().map(|kind| kind.as_str()).collect();
    let wish = json!({"url": args.url, "events": events, "description": args.description});
    let added = server.ask::<Added>(Method::POST, "webhooks", &[], Some(&wish)).await;
    let (added, body) = added.map_err(|trouble| with_advice(&trouble))?;
    match args.json {
        true => print_line(&body),
        false => print(&format!("{}\nsecret {}\n", printable(&added.id), printable(&added.secret))),
    }
    Ok(())
}

async fn list(server: &Server, args: &ListArgs) -> Result<(), String> {
    let listed = server.ask::<Listed>(Method::GET, "webhooks", &[], None).await;
    let (listed, _) = listed.map_err(|trouble| with_advice(&trouble))?;
    if listed.webhooks.is_empty() {
        eprintln!("there are no webhooks");
    } else if args.json {
        listed.webhooks.iter().for_each(|webhook| print_line(webhook.get().as_bytes()));
    } else {
        print(&format!("{}\n", table(&listed)?));
    }
    Ok(())
}

fn table(listed: &Listed) -> Result<Table, String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["ID", "URL", "EVENTS", "PENDING", "GIVEN UP", "DESCRIPTION"]);
    for webhook in &listed.webhooks {
        let not_understood = |_| "the server describes webhooks in a way unknown here".to_owned();
        let row: Row = serde_json::from_str(webhook.get()).map_err(not_understood)?;
        let (events, description) = (row.events.join(" "), row.description.unwrap_or_default());
        let cells = [&row.id, &row.url, &events, &row.pending.to_string(), &row.given_up.to_string(), &description];
        table.add_row(cells.map(|text| printable(text)));
    }
    Ok(table)
}

async fn remove(server: &Server, id: WebhookId) -> Result<(), String> {
    let removed = server.ask::<Removed>(Method::DELETE, &format!("webhooks/{id}"), &[], None).await;
    let (removed, _) = removed.map_err(|trouble| with_advice(&trouble))?;
    print(&format!("removed {}\n", removed.removed));
    Ok(())
}

async fn test(server: &Server, id: WebhookId) -> Result<(), String> {
    let tested = server.ask::<Tested>(Method::POST, &format!("webhooks/{id}/test"), &[], None).await;
    let (tested, _) = tested.map_err(|trouble| with_advice(&trouble))?;
    let status = tested.status.map(|status| format!(" ({status})")).unwrap_or_default();
    if !tested.delivered {
        let reason = printable(&tested.reason.unwrap_or_default());
        return Err(format!("it was not taken: {reason}"));
    }
    print(&format!("taken{status}\n"));
    Ok(())
}

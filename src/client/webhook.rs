//! `ordering webhook`: who is told what happens to orders.

use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::failure::{Failure, exit_code};
use super::output::{print, print_line};
use super::{ServerArgs, printable};
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
    exit_code(match args.command {
        WebhookCommand::Add(args) => add(args).await,
        WebhookCommand::List(args) => list(&args).await,
        WebhookCommand::Remove(args) => remove(&args).await,
        WebhookCommand::Test(args) => test(&args).await,
    })
}

async fn add(args: AddArgs) -> Result<(), Failure> {
    let events: Vec<&str> = args.events.iter().map(|kind| kind.as_str()).collect();
    let wish = json!({"url": args.url, "events": events, "description": args.description});
    let (added, body) = args.server.server()?.ask::<Added>(Method::POST, "webhooks", &[], Some(&wish)).await?;
    match args.json {
        true => print_line(&body),
        false => print(&format!("{}\nsecret {}\n", printable(&added.id), printable(&added.secret))),
    }
    Ok(())
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let (listed, _) = args.server.server()?.ask::<Listed>(Method::GET, "webhooks", &[], None).await?;
    if listed.webhooks.is_empty() {
        eprintln!("there are no webhooks");
    } else if args.json {
        listed.webhooks.iter().for_each(|webhook| print_line(webhook.get().as_bytes()));
    } else {
        print(&format!("{}\n", table(&listed)?));
    }
    Ok(())
}

fn table(listed: &Listed) -> Result<Table, Failure> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["ID", "URL", "EVENTS", "PENDING", "GIVEN UP", "DESCRIPTION"]);
    for webhook in &listed.webhooks {
        let not_understood = |_| Failure::Failed("the server describes webhooks in a way unknown here".to_owned());
        let row: Row = serde_json::from_str(webhook.get()).map_err(not_understood)?;
        let (events, description) = (row.events.join(" "), row.description.unwrap_or_default());
        let cells = [&row.id, &row.url, &events, &row.pending.to_string(), &row.given_up.to_string(), &description];
        table.add_row(cells.map(|text| printable(text)));
    }
    Ok(table)
}

async fn remove(args: &OneArgs) -> Result<(), Failure> {
    let path = format!("webhooks/{}", args.id);
    let (removed, _) = args.server.server()?.ask::<Removed>(Method::DELETE, &path, &[], None).await?;
    print(&format!("removed {}\n", removed.removed));
    Ok(())
}

async fn test(args: &OneArgs) -> Result<(), Failure> {
    let path = format!("webhooks/{}/test", args.id);
    let (tested, _) = args.server.server()?.ask::<Tested>(Method::POST, &path, &[], None).await?;
    if !tested.delivered {
        let reason = printable(&tested.reason.unwrap_or_default());
        return Err(Failure::Failed(format!("it was not taken: {reason}")));
    }
    let status = tested.status.map(|status| format!(" ({status})")).unwrap_or_default();
    print(&format!("taken{status}\n"));
    Ok(())
}

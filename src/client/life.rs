//! `ordering cancel` and `ordering retry`.
//!
//! # Failure handling
//! Nothing is tried again: what was done is said, and the same command may be given again without harm.

use std::io::{IsTerminal, Write, stderr, stdin};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::failure::{Failure, exit_code};
use super::http::Server;
use super::output::{print, with_advice};
use super::{ServerArgs, order_id, printable};
use crate::cli::stage_parser;
use crate::domain::{OrderId, Stage, Timestamp};

#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The ids of the orders
    #[arg(value_name = "ID", required = true, value_parser = order_id)]
    ids: Vec<OrderId>,

    /// Why, for whoever reads the order
    #[arg(long)]
    reason: Option<String>,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["ids", "all_failed"])))]
pub struct RetryArgs {
    /// The ids of the orders
    #[arg(value_name = "ID", value_parser = order_id)]
    ids: Vec<OrderId>,

    /// All failed orders, or those that the options below name
    #[arg(long)]
    all_failed: bool,

    /// Go on at this stage, and not at the one that failed
    #[arg(long, value_name = "STAGE", value_parser = stage_parser())]
    stage: Option<Stage>,

    /// Only orders that failed at this stage
    #[arg(long, value_name = "STAGE", requires = "all_failed", conflicts_with = "ids", value_parser = stage_parser())]
    failed_at: Option<Stage>,

    /// Only orders whose reason contains this
    #[arg(long, value_name = "TEXT", requires = "all_failed", conflicts_with = "ids")]
    reason: Option<String>,

    /// Only orders of this customer
    #[arg(long, value_name = "ID", requires = "all_failed", conflicts_with = "ids")]
    customer: Option<String>,

    /// Only orders that failed at that moment or later (RFC 3339)
    #[arg(long, value_name = "MOMENT", requires = "all_failed", conflicts_with = "ids", value_parser = moment)]
    from: Option<Timestamp>,

    /// Only orders that failed before that moment (RFC 3339)
    #[arg(long, value_name = "MOMENT", requires = "all_failed", conflicts_with = "ids", value_parser = moment)]
    to: Option<Timestamp>,

    /// Only say how many it would be
    #[arg(long, requires = "all_failed", conflicts_with = "ids")]
    dry_run: bool,

    /// Do not ask before --all-failed; needed where there is no terminal to ask at
    #[arg(long, requires = "all_failed", conflicts_with = "ids")]
    yes: bool,

    #[command(flatten)]
    server: ServerArgs,
}

/// What the server says of one order.
#[derive(Deserialize)]
struct Done {
    status: String,
    #[serde(default)]
    passage: Option<u32>,
}

/// What the server says of many.
#[derive(Deserialize)]
struct DoneMany {
    retried: u64,
    #[serde(default)]
    not_reached: u64,
}

/// Cancels the orders.
pub async fn cancel(args: CancelArgs) -> ExitCode {
    let mut body = Map::new();
    body.extend(args.reason.map(|reason| ("reason".to_owned(), Value::from(reason))));
    let said = |id, done: &Done| match done.status.as_str() {
        "cancelled" => format!("cancelled {id}"),
        status => format!("{id} is at work ({}): it ends when that returns", printable(status)),
    };
    exit_code(each(&args.server, &args.ids, "cancel", &Value::Object(body), said).await)
}

/// Tries the orders again.
pub async fn retry(args: RetryArgs) -> ExitCode {
    if args.all_failed {
        return exit_code(retry_many(&args).await);
    }
    let mut body = Map::new();
    body.extend(args.stage.map(|stage| ("stage".to_owned(), Value::from(stage.as_snake()))));
    let said = |id, done: &Done| format!("{id} is tried again, in passage {}", done.passage.unwrap_or_default());
    exit_code(each(&args.server, &args.ids, "retry", &Value::Object(body), said).await)
}

async fn each(
    server: &ServerArgs,
    ids: &[OrderId],
    deed: &str,
    body: &Value,
    said: impl Fn(OrderId, &Done) -> String,
) -> Result<(), Failure> {
    let (server, mut is_fine) = (server.server()?, true);
    for id in ids {
        match server.ask::<Done>(Method::POST, &format!("orders/{id}/{deed}"), &[], Some(body)).await {
            Ok((done, _)) => print(&format!("{}\n", said(*id, &done))),
            // The others would not get further.
            Err(trouble) if trouble.is_passing => {
                return Err(Failure::Failed(format!("{id}: {}", with_advice(&trouble))));
            }
            Err(trouble) => {
                is_fine = false;
                eprintln!("error: {id}: {trouble}");
            }
        }
    }
    if is_fine { Ok(()) } else { Err(Failure::Said) }
}

async fn retry_many(args: &RetryArgs) -> Result<(), Failure> {
    let server = args.server.server()?;
    let body = |dry_run: bool| {
        json!({
            "filter": {
                "stage": args.failed_at.map(Stage::as_snake),
                "reason": args.reason,
                "customer_id": args.customer,
                "from": args.from.map(|at| at.to_string()),
                "to": args.to.map(|at| at.to_string()),
            },
            "stage": args.stage.map(Stage::as_snake),
            "dry_run": dry_run,
        })
    };
    let ask = async |dry_run| {
        let (done, _) = server.ask::<DoneMany>(Method::POST, "orders/retry", &[], Some(&body(dry_run))).await?;
        Ok::<_, Failure>(done)
    };
    let not_reached = |done: &DoneMany| match done.not_reached {
        0 => String::new(),
        count => format!("; {} failed before that stage", so_many(count)),
    };
    if args.dry_run || !args.yes {
        let would = ask(true).await?;
        if args.dry_run {
            print(&format!("{} would be tried again{}\n", so_many(would.retried), not_reached(&would)));
            return Ok(());
        }
        if !stdin().is_terminal() {
            return Err(Failure::Misused("--all-failed needs --yes where there is no terminal to ask at".to_owned()));
        }
        if would.retried > 0 && !is_wanted(&server, would.retried) {
            return Err(Failure::Failed("nothing was done".to_owned()));
        }
    }
    let done = ask(false).await?;
    print(&format!("{} tried again{}\n", so_many(done.retried), not_reached(&done)));
    Ok(())
}

fn is_wanted(server: &Server, count: u64) -> bool {
    eprint!("try {} again at {}? [y/N] ", so_many(count), server.shown());
    let _ = stderr().flush();
    let mut answer = String::new();
    let read = stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

fn so_many(count: u64) -> String {
    match count {
        1 => "1 order".to_owned(),
        count => format!("{count} orders"),
    }
}

fn moment(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "must be a moment as in 2026-11-24T08:15:30Z".to_owned())
}

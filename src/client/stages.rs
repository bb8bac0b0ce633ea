//! `ordering stages`, `ordering pause` and `ordering resume`: which stages take up orders, and holding one up.
//!
//! # Failure handling
//! Nothing is tried again: the same command may be given again without harm.

use std::process::ExitCode;

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::{Failure, exit_code};
use super::output::{print, print_line};
use super::{ServerArgs, printable};
use crate::cli::stage_parser;
use crate::domain::Stage;

#[derive(Debug, Args)]
pub struct StagesArgs {
    /// Print the server's JSON as it is
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct PauseArgs {
    /// The stage to hold up
    #[arg(value_name = "STAGE", value_parser = stage_parser())]
    stage: Stage,

    /// Why, for whoever finds it paused
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// The stage that is to work again
    #[arg(value_name = "STAGE", value_parser = stage_parser())]
    stage: Stage,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Deserialize)]
struct Shown {
    stage: String,
    paused: bool,
    since: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    stages: Vec<Shown>,
}

/// `ordering stages`
pub async fn list(args: StagesArgs) -> ExitCode {
    exit_code(show(&args).await)
}

/// `ordering pause`
pub async fn pause(args: PauseArgs) -> ExitCode {
    let body = args.reason.map(|reason| json!({"reason": reason}));
    exit_code(switch(&args.server, args.stage, "pause", body).await)
}

/// `ordering resume`
pub async fn resume(args: ResumeArgs) -> ExitCode {
    exit_code(switch(&args.server, args.stage, "resume", None).await)
}

async fn show(args: &StagesArgs) -> Result<(), Failure> {
    let (listed, body) = args.server.server()?.ask::<Listed>(Method::GET, "stages", &[], None).await?;
    match args.json {
        true => print_line(&body),
        false => print(&format!("{}\n", table(&listed.stages))),
    }
    Ok(())
}

async fn switch(server: &ServerArgs, stage: Stage, to: &str, body: Option<Value>) -> Result<(), Failure> {
    let path = format!("stages/{stage}/{to}");
    let (shown, _) = server.server()?.ask::<Shown>(Method::POST, &path, &[], body.as_ref()).await?;
    print(&format!("{}\n", text(&shown)));
    Ok(())
}

/// `processing is paused since 2026-11-24T08:15:30.250Z: the payment service moves`
fn text(shown: &Shown) -> String {
    let stage = printable(&shown.stage).replace('_', "-");
    if !shown.paused {
        return format!("{stage} is at work");
    }
    let since = shown.since.as_deref().map(|since| format!(" since {}", printable(since))).unwrap_or_default();
    let reason = shown.reason.as_deref().map(|reason| format!(": {}", printable(reason))).unwrap_or_default();
    format!("{stage} is paused{since}{reason}")
}

fn table(stages: &[Shown]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["STAGE", "STATE", "SINCE", "REASON"]);
    for shown in stages {
        let state = if shown.paused { "paused" } else { "at work" };
        let (since, reason) = (shown.since.as_deref().unwrap_or("-"), shown.reason.as_deref().unwrap_or("-"));
        table.add_row([&shown.stage.replace('_', "-"), state, since, reason].map(printable));
    }
    table
}

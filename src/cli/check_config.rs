//! `ordering check-config`: what is in force, and where it came from.

use std::io::{Write, stdout};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::json;

use super::{EXIT_FAILED, SettingsArgs};
use crate::settings::{Effective, Role, SettingsError};

#[derive(Debug, Args)]
pub struct CheckConfigArgs {
    /// Check that the settings suit this role
    #[arg(long, value_name = "ROLE", default_value = "all")]
    pub role: CheckedRole,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub settings: SettingsArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CheckedRole {
    All,
    Api,
    Worker,
}

/// Prints the settings in force, or what is wrong with them. A reader who closes the pipe early is no failure.
pub fn run(args: &CheckConfigArgs) -> ExitCode {
    let role = match args.role {
        CheckedRole::All => Role::All,
        CheckedRole::Api => Role::Api,
        CheckedRole::Worker => Role::Worker,
    };
    match (args.settings.load(role), args.json) {
        (Ok(loaded), true) => {
            let _ = writeln!(stdout(), "{:#}", settings_as_json(&loaded.effective));
            ExitCode::SUCCESS
        }
        (Ok(loaded), false) => {
            let _ = writeln!(stdout(), "{}", settings_as_table(&loaded.effective));
            ExitCode::SUCCESS
        }
        (Err(error), true) => {
            let _ = writeln!(stdout(), "{:#}", problems_as_json(&error));
            ExitCode::from(EXIT_FAILED)
        }
        (Err(error), false) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn settings_as_table(effective: &[Effective]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["KEY", "VALUE", "ORIGIN"]);
    for setting in effective {
        let value = match setting.value.as_str() {
            "" => "(not set)",
            value => value,
        };
        let origin = match setting.note {
            Some(note) => format!("{} ({note})", setting.origin),
            None => setting.origin.to_string(),
        };
        table.add_row([setting.key.as_str(), value, origin.as_str()]);
    }
    table
}

fn settings_as_json(effective: &[Effective]) -> serde_json::Value {
    let settings: Vec<_> = effective
        .iter()
        .map(|setting| {
            json!({
                "key": setting.key,
                "value": setting.value,
                "origin": setting.origin.to_string(),
                "note": setting.note,
            })
        })
        .collect();
    json!({ "settings": settings })
}

fn problems_as_json(error: &SettingsError) -> serde_json::Value {
    let problems: Vec<_> = error
        .problems
        .iter()
        .map(|problem| {
            json!({
                "key": problem.key,
                "origin": problem.origin.to_string(),
                "detail": problem.text,
            })
        })
        .collect();
    json!({ "problems": problems })
}

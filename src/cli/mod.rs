//! The commands and their flags.
//!
//! Here is only what the command line looks like; what a command does stands in [`crate::roles`] and
//! [`crate::client`]. Every setting can be given by a flag (`--set`), the ones that differ from process to process
//! have flags of their own. Clap never sees the value of a setting: its errors would quote passwords.

pub mod check_config;
pub mod completions;
mod settings_args;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use crate::client::dead::DeadArgs;
use crate::client::events::EventsArgs;
use crate::client::get::GetArgs;
use crate::client::life::{CancelArgs, RetryArgs};
use crate::client::stages::{PauseArgs, ResumeArgs, StagesArgs};
use crate::client::submit::SubmitArgs;
use crate::client::webhook::WebhookArgs;
use crate::domain::Stage;
use check_config::CheckConfigArgs;
use completions::CompletionsArgs;
pub use settings_args::SettingsArgs;

/// The exit code of a process that was started in a way that cannot work: wrong flags, wrong settings.
pub const EXIT_MISUSED: u8 = 2;
/// The exit code of a process that could not do what it was asked for.
pub const EXIT_FAILED: u8 = 1;

/// Takes orders over HTTP and carries each through four stages to a recorded end.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    max_term_width = 110,
    after_help = "\
Try it:
  ordering all                            everything in one process, orders kept in ./ordering-data
  ordering submit order.json --wait       place an order, and follow it to its end
  ordering get 0193f0a1-7c3e-7b11-8f00-0123456789ab

Exit codes: 0 fine, 1 failed, 2 misused (wrong flags or settings).
`ordering COMMAND --help` says more about each command."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take orders and do the work of every stage, in one process
    #[command(after_help = "\
Examples:
  ordering all
      The embedded back end: one file, no servers. Nothing accepted is lost by a crash.
  ordering all --listen 0.0.0.0:8080 --data-dir /var/lib/ordering
  ordering all --listen 127.0.0.1:0
      Takes a free port; the first line on stdout says which.
  ordering all --set stages.processing.handler=simulated --set stages.processing.delay=250ms
  ORDERING_BACKEND=servers ordering all --config /etc/ordering.toml")]
    All(SettingsArgs),

    /// Take orders and answer for them; workers do the rest (back end `servers`)
    #[command(after_help = "\
Examples:
  ordering api --config config/servers.toml
  ORDERING_POSTGRES_URL=postgresql://ordering:secret@db/ordering ordering api --backend servers
      The environment is the place for passwords: flags are seen by everyone on the machine.")]
    Api(SettingsArgs),

    /// Do the work of one stage or several (back end `servers`)
    #[command(after_help = "\
Examples:
  ordering worker --stage scheduling --config config/servers.toml
  ordering worker --stage pre-processing --stage processing --config config/servers.toml
  ordering worker --stage processing --backend servers --health-listen 0.0.0.0:9090
Start as many as the work needs, on as many machines; they share it by themselves.")]
    Worker(WorkerArgs),

    /// Bring the schema of Postgres up to date (back end `servers`)
    #[command(after_help = "\
Example:
  ordering migrate --config config/servers.toml
Several at once are safe: they wait for each other. `all`, `api` and `worker` do the same when they start, unless
`migrate_at_start` is false.")]
    Migrate(SettingsArgs),

    /// Check the settings and show each one, its value and where it came from
    #[command(after_help = "\
Examples:
  ordering check-config --config config/servers.toml --role worker
  ordering check-config --json | jq '.settings[] | select(.origin != \"default\")'
Passwords are masked. Exit code 1 and a list of all problems if the settings cannot be used.")]
    CheckConfig(CheckConfigArgs),

    /// Place orders: one JSON order, or one in each line
    #[command(after_help = "\
Examples:
  ordering submit order.json
  ordering submit orders.ndjson --at-once 256 --wait
  generate-orders | ordering submit - --json > accepted.ndjson
Every order is sent with an Idempotency-Key and sent again with the same key when no answer came.
Exit code 1 if an order was refused or could not be sent, with --wait also if one did not complete.")]
    Submit(SubmitArgs),

    /// Show an order: how far it is and what happened to it
    #[command(after_help = "\
Examples:
  ordering get 0193f0a1-7c3e-7b11-8f00-0123456789ab
  ordering get 0193f0a1-7c3e-7b11-8f00-0123456789ab --watch
  ordering get 0193f0a1-7c3e-7b11-8f00-0123456789ab --json | jq .status")]
    Get(GetArgs),

    /// Cancel orders, wherever they are
    #[command(after_help = "\
Examples:
  ordering cancel 0193f0a1-7c3e-7b11-8f00-0123456789ab --reason 'ordered twice'
An order that a handler is at work on ends when that returns. To repeat it does no harm. Exit code 1 if one had ended.")]
    Cancel(CancelArgs),

    /// Try failed orders again, from the stage that failed or an earlier one
    #[command(after_help = "\
Examples:
  ordering retry 0193f0a1-7c3e-7b11-8f00-0123456789ab
  ordering retry 0193f0a1-7c3e-7b11-8f00-0123456789ab --stage scheduling
  ordering retry --all-failed --failed-at processing --reason 'retries exhausted' --dry-run
  ordering retry --all-failed --from 2026-11-24T02:00:00Z --yes
Exit code 1 if an order has not failed.")]
    Retry(RetryArgs),

    /// Show what happens to an order, or to all orders, as it happens
    #[command(after_help = "\
Examples:
  ordering events 0193f0a1-7c3e-7b11-8f00-0123456789ab
      Everything since it was accepted, until it has ended.
  ordering events
  ordering events --type order.failed --json | jq .reason
Streams that break off are taken up again. Exit code 0 if the order has ended, 1 if it could not be followed.")]
    Events(EventsArgs),

    /// Say who is to be told what happens to orders
    #[command(after_help = "\
Examples:
  ordering webhook add https://shop.example/orders --event order.completed --event order.failed
  ordering webhook list
  ordering webhook test 0193f0a1-7c3e-7b11-8f00-0123456789ab
  ordering webhook remove 0193f0a1-7c3e-7b11-8f00-0123456789ab
`ordering webhook COMMAND --help` says more about each.")]
    Webhook(WebhookArgs),

    /// Look at the messages that no worker could read, put them back, or drop them
    #[command(after_help = "\
Examples:
  ordering dead list
  ordering dead show 0193f0a1-7c3e-7b11-8f00-0123456789ab
  ordering dead replay 0193f0a1-7c3e-7b11-8f00-0123456789ab
      Back into the queue it came from; a worker that still cannot read it gives it up again.
  ordering dead drop --all --queue processing
Exit code 1 if something was not done. `ordering dead COMMAND --help` says more about each.")]
    Dead(DeadArgs),

    /// Show the stages, and which of them are paused
    #[command(after_help = "\
Examples:
  ordering stages
  ordering stages --json | jq -r '.stages[] | select(.paused).stage'")]
    Stages(StagesArgs),

    /// Hold a stage up: its orders wait in its queue until it is resumed
    #[command(after_help = "\
Examples:
  ordering pause processing --reason 'the payment service moves'
Every worker obeys within 2 seconds; an order that a handler works on is finished. The pause outlives restarts.")]
    Pause(PauseArgs),

    /// Let a paused stage work again
    #[command(after_help = "\
Examples:
  ordering resume processing")]
    Resume(ResumeArgs),

    /// Print the completions for a shell
    #[command(after_help = "\
Examples:
  ordering completions bash > /etc/bash_completion.d/ordering
  ordering completions zsh > \"${fpath[1]}/_ordering\"
  ordering completions fish > ~/.config/fish/completions/ordering.fish")]
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// A stage to work at; repeat it for several
    #[arg(long = "stage", value_name = "STAGE", required = true, value_parser = stage_parser())]
    pub stages: Vec<Stage>,

    #[command(flatten)]
    pub settings: SettingsArgs,
}

impl WorkerArgs {
    /// Each stage once, in the order in which orders pass them.
    pub fn distinct_stages(&self) -> Vec<Stage> {
        let mut stages = self.stages.clone();
        stages.sort();
        stages.dedup();
        stages
    }
}

/// Knows both spellings of a stage, and shows one.
pub(crate) fn stage_parser() -> impl TypedValueParser<Value = Stage> {
    let names = Stage::ALL.map(|stage| {
        let name = PossibleValue::new(stage.as_kebab());
        match stage.as_snake() == stage.as_kebab() {
            true => name,
            false => name.alias(stage.as_snake()),
        }
    });
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Stage>())
}

/// An error and everything that caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn stages_are_read_in_both_spellings_and_counted_once() {
        let line = "ordering worker --stage processing --stage pre_processing --stage pre-processing";
        let Command::Worker(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("another command");
        };
        assert_eq!(args.distinct_stages(), [Stage::PreProcessing, Stage::Processing]);
    }
}

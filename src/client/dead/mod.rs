//! `ordering dead`: what people do with dead letters. `show` is the one command that prints what is in a message, to
//! whoever asked for it.

mod list;
mod settle;
mod show;

use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};

use super::ServerArgs;
use super::failure::{Failure, exit_code};
use crate::ports::{DeadLetterId, Source};
use list::ListArgs;
use settle::{Deed, SettleArgs};
use show::ShowArgs;

#[derive(Debug, Args)]
pub struct DeadArgs {
    #[command(subcommand)]
    pub command: DeadCommand,
}

#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// List dead letters, newest first
    #[command(after_help = "\
Examples:
  ordering dead list
  ordering dead list --queue pre-processing --limit 1000
  ordering dead list --json | jq -r .id")]
    List(ListArgs),

    /// Show a dead letter: where it was, why it was given up, and what is in it
    #[command(after_help = "\
Examples:
  ordering dead show 0193f0a1-7c3e-7b11-8f00-0123456789ab
  ordering dead show 0193f0a1-7c3e-7b11-8f00-0123456789ab --raw > message")]
    Show(ShowArgs),

    /// Put dead letters back into the queue they came from
    #[command(after_help = "\
Examples:
  ordering dead replay 0193f0a1-7c3e-7b11-8f00-0123456789ab
  ordering dead replay --all --queue ending
  ordering dead replay --all --yes
Replaying does no harm: what still cannot be read is given up again, under a new id, and no step of an order that is
done is done again. Exit code 1 if one was not put back.")]
    Replay(SettleArgs),

    /// Drop dead letters for good
    #[command(after_help = "\
Examples:
  ordering dead drop 0193f0a1-7c3e-7b11-8f00-0123456789ab
  ordering dead drop --all --queue scheduling
Look at them first: nothing brings them back. Exit code 1 if one was not dropped.")]
    Drop(SettleArgs),
}

impl DeadCommand {
    fn server(&self) -> &ServerArgs {
        match self {
            DeadCommand::List(args) => &args.server,
            DeadCommand::Show(args) => &args.server,
            DeadCommand::Replay(args) | DeadCommand::Drop(args) => &args.server,
        }
    }
}

pub async fn run(args: DeadArgs) -> ExitCode {
    let command = args.command;
    let done = async {
        let server = command.server().server()?;
        match command {
            DeadCommand::List(args) => list::run(&server, args).await,
            DeadCommand::Show(args) => show::run(&server, args).await,
            DeadCommand::Replay(args) => settle::run(&server, Deed::Replay, args).await,
            DeadCommand::Drop(args) => settle::run(&server, Deed::Drop, args).await,
        }
    };
    exit_code(done.await)
}

/// `37 dead letters of processing`.
fn so_many(count: impl std::fmt::Display, queue: Option<Source>) -> String {
    let count = count.to_string();
    let noun = if count == "1" { "dead letter" } else { "dead letters" };
    let of_queue = queue.map(|queue| format!(" of {queue}")).unwrap_or_default();
    format!("{count} {noun}{of_queue}")
}

fn letter_id(text: &str) -> Result<DeadLetterId, String> {
    let wrong = "this is no dead letter's id; one looks like 0193f0a1-7c3e-7b11-8f00-0123456789ab";
    DeadLetterId::parse(text).ok_or_else(|| wrong.to_owned())
}

/// Knows both spellings of a queue, and shows one.
fn queue_parser() -> impl TypedValueParser<Value = Source> {
    let names = Source::all().map(|source| {
        let name = PossibleValue::new(source.as_kebab());
        match source.as_snake() == source.as_kebab() {
            true => name,
            false => name.alias(source.as_snake()),
        }
    });
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Source>())
}

//! `ordering completions`: what a shell needs to complete the command line.

use std::io::{Write, stdout};
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Prints them. They are made in memory first: a reader who closes the pipe early must not make a panic.
pub fn run(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ordering", &mut script);
    let _ = stdout().write_all(&script);
    ExitCode::SUCCESS
}

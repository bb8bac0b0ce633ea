//! `ordering submit`: places orders.

use std::process::ExitCode;

use clap::Args;

use super::ServerArgs;

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// A file with one JSON order, or with one in each line; `-` for stdin
    #[arg(value_name = "FILE")]
    pub file: std::path::PathBuf,

    #[command(flatten)]
    pub server: ServerArgs,
}

pub async fn run(_args: SubmitArgs) -> ExitCode {
    ExitCode::FAILURE
}

//! `ordering get`: shows an order.

use std::process::ExitCode;

use clap::Args;

use super::ServerArgs;

#[derive(Debug, Args)]
pub struct GetArgs {
    /// The id that the server gave for the order
    pub id: String,

    /// Print the server's JSON as it is
    #[arg(long)]
    pub json: bool,

    /// Follow the order until it has ended
    #[arg(long)]
    pub watch: bool,

    #[command(flatten)]
    pub server: ServerArgs,
}

pub async fn run(_args: GetArgs) -> ExitCode {
    ExitCode::FAILURE
}

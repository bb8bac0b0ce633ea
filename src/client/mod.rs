//! The client: places orders and shows them, over the same HTTP API everybody else uses.
//!
//! It must not know how the server works. An order's content never appears in errors: they carry only what the server
//! said of it (pointers and details).

mod bounded_lines;
pub mod dead;
pub mod events;
mod failure;
pub mod get;
mod http;
mod input;
pub mod life;
mod output;
mod report;
mod send;
mod sending;
pub mod stages;
pub mod submit;
mod view;
mod wait;
pub mod webhook;

use clap::Args;

use crate::domain::OrderId;

/// Which server to talk to.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// Where the server is
    #[arg(
        long,
        value_name = "URL",
        env = "ORDERING_SERVER",
        default_value = "http://127.0.0.1:8080",
        hide_env_values = true
    )]
    pub server: String,
}

/// For a user whose server cannot be reached.
const WHAT_TO_DO: &str =
    "is it running? start one with `ordering all`, or name another with --server or ORDERING_SERVER";

/// Text of somebody else, safe to print: whoever wrote it must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn order_id(text: &str) -> Result<OrderId, String> {
    OrderId::parse(text)
        .ok_or_else(|| "this is no order id; one looks like 0193f0a1-7c3e-7b11-8f00-0123456789ab".to_owned())
}

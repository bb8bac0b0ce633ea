//! The client: places orders and shows them, over the same HTTP API everybody else uses.

pub mod get;
pub mod submit;

use clap::Args;

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

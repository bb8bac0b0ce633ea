//! Logs go to stderr, so that stdout carries only what a command answers.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::settings::{Log, LogFormat};

/// Libraries that talk too much.
const QUIET: &str = "actix_server=warn,amqprs=error,fred=error,refinery_core=warn";

/// Begins to log. Does nothing if somebody else (a test) has begun before.
pub fn init(log: &Log) {
    let is_terminal = stderr().is_terminal();
    let is_json = match log.format {
        LogFormat::Json => true,
        LogFormat::Pretty => false,
        LogFormat::Auto => !is_terminal,
    };
    // The level was checked with the other settings.
    // What libraries say of their own starts and stops is noise at `info`. Asked for by name, it comes.
    let filter = EnvFilter::builder().parse_lossy(format!("{QUIET},{}", log.level));
    let wants_colour = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(wants_colour);
    // An error means that there is a subscriber already.
    let _ = match is_json {
        true => tracing::subscriber::set_global_default(subscriber.json().flatten_event(true).finish()),
        false => tracing::subscriber::set_global_default(subscriber.finish()),
    };
}

//! `ordering submit`: places orders, many at once. What was accepted is printed as soon as it was, so that it is known
//! whatever happens after that.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ServerArgs;
use super::http::Server;
use super::input;
use super::report::{Form, Report, Tally};
use super::send::Sender;
use super::sending::Sending;
use super::wait::wait;
use crate::cli::{EXIT_FAILED, EXIT_MISUSED};
use crate::settings::units::parse_duration;

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// A file with one JSON order, or with one in each line; `-` for stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Orders under way at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub at_once: u16,

    /// How long to try an order that the server does not answer
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub give_up_after: Duration,

    /// Wait until all accepted orders have ended
    #[arg(long)]
    pub wait: bool,

    /// How long to wait after the last order was accepted
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, requires = "wait")]
    pub wait_timeout: Duration,

    /// Print a line of JSON for each order: {"line":3,"id":"…","status":"accepted"}
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,

    /// Print errors only
    #[arg(long, short)]
    pub quiet: bool,

    #[command(flatten)]
    pub server: ServerArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a duration with its unit, such as 60s or 10m".to_owned())
}

/// Sends everything and says what became of it.
pub async fn run(args: SubmitArgs) -> ExitCode {
    let at_once = usize::from(args.at_once);
    let server = match Server::new(&args.server.server, at_once) {
        Ok(server) => server,
        Err(problem) => {
            eprintln!("error: {problem}");
            return ExitCode::from(EXIT_MISUSED);
        }
    };
    let input = match input::open(&args.file).await {
        Ok(input) => input,
        Err(error) => {
            eprintln!("error: cannot read {}: {error}", args.file.display());
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let form = match (args.quiet, args.json) {
        (true, _) => Form::Quiet,
        (false, true) => Form::Json,
        (false, false) => Form::Plain,
    };
    let report = Arc::new(Report::new(form, input.bytes_total));
    let stop = CancellationToken::new();
    tokio::spawn(cancel_on_ctrl_c(stop.clone()));

    let sender = Sender::new(server.clone(), args.give_up_after, stop.clone(), report.clone());
    let mut sending = Sending::new(sender, report.clone(), args.wait);
    let began = Instant::now();
    sending.run(input, at_once, &stop).await;
    let sending_time = began.elapsed();

    let (mut tally, waited) = sending.into_result();
    if let Some(waited) = waited {
        let deadline = Instant::now() + args.wait_timeout;
        let ends = wait(&server, waited, at_once, deadline, &stop, &report).await;
        tally.ends = Some(ends);
    }
    let rate = tally.accepted as f64 / sending_time.as_secs_f64().max(0.001);
    report.summary(&format!("{tally} in {:.1} s ({rate:.0} orders/s accepted)", began.elapsed().as_secs_f64(),));
    if tally == Tally::default() {
        report.error(&format!("error: there is no order in {}", args.file.display()));
        return ExitCode::from(EXIT_FAILED);
    }
    match tally.is_fine() && !stop.is_cancelled() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_FAILED),
    }
}

async fn cancel_on_ctrl_c(stop: CancellationToken) {
    if tokio::signal::ctrl_c().await.is_ok() {
        stop.cancel();
    }
}

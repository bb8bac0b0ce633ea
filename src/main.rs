//! Parses the command line, loads the settings, runs the role: nothing else.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use ordering::cli::{self, Cli, Command, EXIT_FAILED, EXIT_MISUSED, SettingsArgs};
use ordering::client;
use ordering::logging;
use ordering::roles;
use ordering::settings::{Role, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Two providers are compiled into many programs, and then none is chosen: the first call decides.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: another TLS provider was installed first");
        return ExitCode::from(EXIT_FAILED);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let exit_code = runtime.block_on(run(command));
    // Without waiting: a thread that reads stdin would hold the process until the next line comes.
    runtime.shutdown_background();
    exit_code
}

async fn run(command: Command) -> ExitCode {
    match command {
        Command::All(args) => role(Role::All, &args, roles::all).await,
        Command::Api(args) => role(Role::Api, &args, roles::api).await,
        Command::Worker(args) => {
            let stages = args.distinct_stages();
            role(Role::Worker, &args.settings, |settings| roles::worker(settings, stages)).await
        }
        Command::Migrate(args) => role(Role::Migrate, &args, roles::migrate).await,
        Command::CheckConfig(args) => cli::check_config::run(&args),
        Command::Submit(args) => client::submit::run(args).await,
        Command::Get(args) => client::get::run(args).await,
        Command::Cancel(args) => client::life::cancel(args).await,
        Command::Retry(args) => client::life::retry(args).await,
        Command::Events(args) => client::events::run(args).await,
        Command::Webhook(args) => client::webhook::run(args).await,
        Command::Dead(args) => client::dead::run(args).await,
        Command::Stages(args) => client::stages::list(args).await,
        Command::Pause(args) => client::stages::pause(args).await,
        Command::Resume(args) => client::stages::resume(args).await,
        Command::Completions(args) => cli::completions::run(&args),
    }
}

async fn role<F, R, E>(role: Role, args: &SettingsArgs, start: F) -> ExitCode
where
    F: FnOnce(Settings) -> R,
    R: Future<Output = Result<(), E>>,
    E: Error,
{
    let settings = match args.load(role) {
        Ok(loaded) => loaded.settings,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(EXIT_MISUSED);
        }
    };
    logging::init(&settings.log);
    match start(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", cli::chain(&error));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

//! Why a command ends with an exit code other than 0.

use std::process::ExitCode;

use super::ServerArgs;
use super::http::{Server, Trouble};
use super::output::with_advice;
use crate::cli::{EXIT_FAILED, EXIT_MISUSED};

pub enum Failure {
    /// It was asked for in a way that cannot work.
    Misused(String),
    Failed(String),
    /// What was wrong has been said.
    Said,
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        Failure::Failed(with_advice(&trouble))
    }
}

/// Says what was wrong, if it is not said yet.
pub fn exit_code(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Said) => ExitCode::from(EXIT_FAILED),
        Err(Failure::Failed(problem)) => {
            eprintln!("error: {problem}");
            ExitCode::from(EXIT_FAILED)
        }
        Err(Failure::Misused(problem)) => {
            eprintln!("error: {problem}");
            ExitCode::from(EXIT_MISUSED)
        }
    }
}

impl ServerArgs {
    /// The server that is meant.
    pub(super) fn server(&self) -> Result<Server, Failure> {
        Server::new(&self.server, 1).map_err(Failure::Misused)
    }
}

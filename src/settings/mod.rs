//! What an operator decides: file < environment < flags over documented defaults, checked whole before anything opens.
//!
//! [`keys::KEYS`] is the one table; everything about a setting but its use is made from it. [`load`] either gives
//! [`Settings`] in which every value is legal and suits the others, or one error that lists every problem.
//! Passwords are shown nowhere: not in errors, not by `check-config`, not in a log (see [`SecretUrl`]).
//!
//! No file is looked for: only one that was named is read, so that what is in force does not depend on the folder a
//! process was started in.

mod contradictions;
mod effective;
mod http;
pub mod keys;
pub mod kind;
mod problems;
mod sources;
mod typed;
pub mod units;
mod urls;
mod values;

use std::fmt;

pub use effective::Effective;
pub use http::SecretHeader;
pub use problems::{Problem, SettingsError};
pub use sources::{Flag, Given, Origin};
pub use typed::{
    Api, Backend, Batch, Handler, Http, Journal, Log, LogFormat, Postgres, RabbitMq, Redis, Settings, StageSettings,
    Stages, Webhooks,
};
pub use urls::{Address, SecretUrl};

use values::Values;

/// What a process does; decides which settings suit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    All,
    Api,
    Worker,
    Migrate,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::All => "all",
            Role::Api => "api",
            Role::Worker => "worker",
            Role::Migrate => "migrate",
        })
    }
}

/// Settings that can be used, and where each of them came from.
pub struct Loaded {
    pub settings: Settings,
    /// Every setting in the order of the table.
    pub effective: Vec<Effective>,
}

/// Reads and checks all settings.
///
/// # Errors
/// [`SettingsError`] with every problem there is; final.
pub fn load(role: Role, given: &Given) -> Result<Loaded, SettingsError> {
    let mut problems = Vec::new();
    let mut values = Values::defaults();
    for entry in sources::entries(given, &mut problems) {
        values.take(entry, &mut problems);
    }
    contradictions::check(role, &values, &mut problems);
    if !problems.is_empty() {
        return Err(SettingsError { problems });
    }
    Ok(Loaded { settings: Settings::from_values(&values), effective: effective::list(&values) })
}

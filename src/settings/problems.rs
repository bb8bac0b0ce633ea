//! Everything that is wrong with the settings, in one error: who starts a process wants to correct them once.

use std::fmt;

use super::keys;
use super::sources::Origin;

/// The settings cannot be used. Final: they must be changed.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// The dotted name of the setting, or empty if it is about none.
    pub key: String,
    /// Where the value came from.
    pub origin: Origin,
    /// What is wrong and what would be right, without secrets.
    pub text: String,
}

impl Problem {
    pub fn new(key: impl Into<String>, origin: Origin, text: impl Into<String>) -> Self {
        Problem { key: key.into(), origin, text: text.into() }
    }

    /// There is no setting of this name.
    pub fn unknown_key(name: &str, origin: Origin) -> Self {
        let mut parts = name.split('.');
        let text = match (parts.next(), parts.next()) {
            (Some("stages"), Some(stage)) if stage.parse::<crate::domain::Stage>().is_err() => {
                format!("{}", crate::domain::stage::UnknownStage(stage.to_owned()))
            }
            _ => match nearest(name, keys::all().map(|(name, _)| name)) {
                Some(known) => format!("no such setting; did you mean `{known}`?"),
                None => "no such setting; `ordering check-config` lists all there are".to_owned(),
            },
        };
        Problem::new(name, origin, text)
    }

    /// There is no setting for this environment variable.
    pub fn unknown_variable(variable: &str) -> Self {
        let variables = keys::all().map(|(name, _)| keys::variable(&name));
        let known = variables.chain(["ORDERING_CONFIG".to_owned(), "ORDERING_SERVER".to_owned()]);
        let text = match nearest(variable, known) {
            Some(known) => format!("no such setting; did you mean `{known}`?"),
            None => "no such setting; variables that begin with ORDERING_ are settings".to_owned(),
        };
        Problem::new("", Origin::Environment(variable.to_owned()), text)
    }
}

/// The name most like `name`, if one is like it at all: the same last word, or few letters apart.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    const LIKE_ENOUGH: f64 = 0.6;
    let likeness = |candidate: &str| {
        let last_word = candidate.rsplit('.').next().unwrap_or(candidate);
        match candidate.contains('.') && name.rsplit('.').next() == Some(last_word) {
            true => 0.9,
            false => strsim::normalized_damerau_levenshtein(name, candidate),
        }
    };
    let (score, best) = known
        .map(|candidate| (likeness(&candidate), candidate))
        // The first of equals, so that a stage's settings are named by the first stage.
        .fold((0.0, String::new()), |best, next| match next.0 > best.0 {
            true => next,
            false => best,
        });
    (score >= LIKE_ENOUGH).then_some(best)
}

impl std::error::Error for SettingsError {}

/// One line for each problem: `redis.timeout (ordering.toml, line 7): must be …`.
impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("the settings have a problem:")?,
            count => write!(f, "the settings have {count} problems:")?,
        }
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.origin, self.text),
            key => write!(f, "{key} ({}): {}", self.origin, self.text),
        }
    }
}

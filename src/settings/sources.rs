//! Where settings come from: a file, the environment, flags. Here they are only collected, with their origin.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml_edit::{Document, Item, TableLike};

use super::keys;
use super::problems::Problem;

/// What a process was started with.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The settings file, if one was named. None is looked for.
    pub file: Option<PathBuf>,
    /// All variables of the environment.
    pub environment: Vec<(OsString, OsString)>,
    pub flags: Vec<Flag>,
}

/// A setting given on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// As the user wrote it: `--listen`, `--set`.
    pub flag: &'static str,
    pub key: String,
    /// `None` if there was no `=`.
    pub value: Option<String>,
}

/// Where a value came from. Later ones win.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        path: Arc<Path>,
        /// Counts from 1; `None` for the file as a whole.
        line: Option<usize>,
    },
    Environment(String),
    Flag(&'static str),
}

impl Origin {
    /// Whether both are files, both variables, both flags: then neither wins.
    pub fn is_beside(&self, other: &Origin) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line: None } => write!(f, "{}", path.display()),
            Origin::File { path, line: Some(line) } => write!(f, "{}, line {line}", path.display()),
            Origin::Environment(variable) => f.write_str(variable),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A value that was given for a name; neither has been checked.
pub struct Entry {
    pub name: String,
    pub origin: Origin,
    pub raw: Raw,
}

pub enum Raw {
    Text(String),
    Toml(toml_edit::Value),
}

/// Every value that was given, the file's first, the flags' last.
pub fn entries(given: &Given, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let mut entries = Vec::new();
    if let Some(path) = &given.file {
        read_file(path, &mut entries, problems);
    }
    read_environment(&given.environment, &mut entries, problems);
    read_flags(&given.flags, &mut entries, problems);
    entries
}

fn read_flags(flags: &[Flag], entries: &mut Vec<Entry>, problems: &mut Vec<Problem>) {
    for flag in flags {
        let origin = Origin::Flag(flag.flag);
        // A name of other characters may be a URL whose `=` was forgotten: it is not shown.
        let is_name = flag.key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        match &flag.value {
            Some(value) if is_name => {
                entries.push(Entry { name: keys::canonical(&flag.key), origin, raw: Raw::Text(value.clone()) })
            }
            Some(_) | None => {
                let text = "takes KEY=VALUE, such as api.body_max=1MiB";
                problems.push(Problem::new("", origin, text));
            }
        }
    }
}

fn read_file(path: &Path, entries: &mut Vec<Entry>, problems: &mut Vec<Problem>) {
    let path: Arc<Path> = path.into();
    let whole = |text: String| {
        let origin = Origin::File { path: path.clone(), line: None };
        Problem::new("", origin, text)
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(whole(format!("the settings file cannot be read: {error}")));
            return;
        }
    };
    let document = match Document::parse(text.as_str()) {
        Ok(document) => document,
        Err(error) => {
            let origin = Origin::File { path: path.clone(), line: error.span().map(|span| line_of(&text, span.start)) };
            // Only the message: the error's whole text quotes the line, which may hold a password.
            let message = error.message().replace('\n', "; ");
            problems.push(Problem::new("", origin, format!("no valid TOML: {message}")));
            return;
        }
    };
    let file = File { path: &path, text: &text };
    file.walk("", document.as_table(), entries, problems);
}

struct File<'a> {
    path: &'a Arc<Path>,
    text: &'a str,
}

impl File<'_> {
    /// Collects the values of a table and of the tables in it.
    fn walk(&self, prefix: &str, table: &dyn TableLike, entries: &mut Vec<Entry>, problems: &mut Vec<Problem>) {
        for (key, item) in table.iter() {
            let name = keys::canonical(&format!("{prefix}{key}"));
            let span = table.get_key_value(key).and_then(|(key, _)| key.span()).or_else(|| item.span());
            let origin =
                Origin::File { path: self.path.clone(), line: span.map(|span| line_of(self.text, span.start)) };
            let is_setting = keys::all().any(|(known, _)| known == name);
            let section = format!("{name}.");
            let is_section = keys::all().any(|(known, _)| known.starts_with(&section));
            match item {
                Item::Value(value) if is_setting && !value.is_inline_table() => {
                    entries.push(Entry { name, origin, raw: Raw::Toml(value.clone()) })
                }
                _ if is_setting => {
                    let text = "is a setting, not a section of settings";
                    problems.push(Problem::new(name, origin, text));
                }
                _ => match item.as_table_like() {
                    Some(inner) if is_section => self.walk(&section, inner, entries, problems),
                    None if is_section => {
                        let text = format!("is a section of settings: write [{name}]");
                        problems.push(Problem::new(name, origin, text));
                    }
                    _ => problems.push(Problem::unknown_key(&name, origin)),
                },
            }
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

fn read_environment(environment: &[(OsString, OsString)], entries: &mut Vec<Entry>, problems: &mut Vec<Problem>) {
    for (variable, value) in environment {
        let Some(variable) = variable.to_str() else {
            continue;
        };
        if !variable.starts_with("ORDERING_") || is_of_others(variable, value) {
            continue;
        }
        let Some((name, _)) = keys::all().find(|(name, _)| keys::variable(name) == variable) else {
            problems.push(Problem::unknown_variable(variable));
            continue;
        };
        let origin = Origin::Environment(variable.to_owned());
        match value.to_str() {
            Some(value) => entries.push(Entry { name, origin, raw: Raw::Text(value.to_owned()) }),
            None => problems.push(Problem::new(name, origin, "is no UTF-8")),
        }
    }
}

/// Variables that begin like settings and are none: those the command line reads, those of this repository's tests
/// and scripts, and those that Kubernetes sets in every pod for a service named `ordering` or `ordering-…`.
fn is_of_others(variable: &str, value: &OsStr) -> bool {
    const OWN: &[&str] = &["ORDERING_CONFIG", "ORDERING_SERVER", "ORDERING_SERVERS_DIR"];
    let is_port = variable.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    OWN.contains(&variable)
        || variable.starts_with("ORDERING_TEST")
        || variable.ends_with("_SERVICE_HOST")
        || variable.ends_with("_SERVICE_PORT")
        || variable.contains("_SERVICE_PORT_")
        // Its value is a URL there; a number is somebody's idea of how to set the port of `listen`.
        || (variable.ends_with("_PORT") && value.to_string_lossy().contains("://"))
        || is_port
}

//! What a setting may be: its kinds, and how a value of each is read and shown.

use std::fmt;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::http::{SecretHeader, read_headers, read_secrets};
use super::units::{format_duration, format_size, parse_duration, parse_size};
use super::urls::{Address, SecretUrl, check_amqp, check_http, check_postgres, check_redis};
use crate::domain::Stage;
use crate::handlers::signature::Secret;

/// The kind of value a setting takes; ranges include both ends.
#[derive(Debug)]
pub enum Kind {
    Choice(&'static [&'static str]),
    Boolean,
    Whole {
        min: u64,
        max: u64,
    },
    /// From 0 to 1.
    Fraction,
    Duration {
        min: Duration,
        max: Duration,
    },
    /// In bytes.
    Size {
        min: u64,
        max: u64,
    },
    Address {
        optional: bool,
    },
    Namespace,
    /// All stages, none, or those named.
    Stages,
    /// Up to 128 characters, or not set.
    Text,
    Path,
    LogLevel,
    AmqpUrls,
    RedisUrl,
    PostgresUrl,
    /// Optional.
    HttpUrl,
    /// `Name: value`, one in a line.
    Headers,
    /// Separated by spaces.
    SigningSecrets,
}

/// A value that was found legal. Shown, it is text that [`Kind::read_text`] reads back, passwords masked.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Unset,
    Boolean(bool),
    Whole(u64),
    Fraction(f64),
    Duration(Duration),
    SizeBytes(u64),
    Address(Address),
    Text(String),
    Stages(Vec<Stage>),
    Urls(Vec<SecretUrl>),
    Headers(Vec<SecretHeader>),
    Secrets(Vec<Secret>),
}

const TEXT_CHARS_MAX: usize = 128;
const NAMESPACE_CHARS_MAX: usize = 48;
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

impl Kind {
    /// Reads the text of an environment variable or a flag.
    ///
    /// # Errors
    /// What is wrong with it and what would be right; never with the text of a URL in it.
    pub fn read_text(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        match self {
            Kind::Choice(choices) => match choices.contains(&text) {
                true => Ok(Value::Text(text.to_owned())),
                false => Err(format!("`{text}` is none of {}", any_of(choices))),
            },
            Kind::Boolean => match text {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                _ => Err(format!("`{text}` is neither `true` nor `false`")),
            },
            Kind::Whole { min, max } => match text.parse() {
                Ok(number) if (*min..=*max).contains(&number) => Ok(Value::Whole(number)),
                _ => Err(format!("`{text}` is no whole number from {min} to {max}")),
            },
            Kind::Fraction => match text.parse() {
                Ok(number) if (0.0..=1.0).contains(&number) => Ok(Value::Fraction(number)),
                _ => Err(format!("`{text}` is no number from 0 to 1")),
            },
            Kind::Duration { min, max } => {
                let range = format!("from {} to {}", format_duration(*min), format_duration(*max));
                match parse_duration(text) {
                    Some(duration) if (*min..=*max).contains(&duration) => Ok(Value::Duration(duration)),
                    Some(_) => Err(format!("`{text}` is not {range}")),
                    None => {
                        Err(format!("`{text}` is no duration; write {range}, with units: 250ms, 10s, 5m, 1h30m, 30d"))
                    }
                }
            }
            Kind::Size { min, max } => {
                let range = format!("from {} to {}", format_size(*min), format_size(*max));
                match parse_size(text) {
                    Some(size) if (*min..=*max).contains(&size) => Ok(Value::SizeBytes(size)),
                    Some(_) => Err(format!("`{text}` is not {range}")),
                    None => {
                        Err(format!("`{text}` is no size; write {range}, such as 256KiB, 1MiB or a number of bytes"))
                    }
                }
            }
            Kind::Address { optional: true } if text.is_empty() => Ok(Value::Unset),
            Kind::Address { .. } => Address::parse(text).map(Value::Address),
            Kind::Namespace => match is_namespace(text) {
                true => Ok(Value::Text(text.to_owned())),
                false => Err(format!(
                    "`{text}` is no namespace: 1 to {NAMESPACE_CHARS_MAX} of a-z, 0-9, `_` and `-`, a letter first"
                )),
            },
            Kind::Stages => read_stages(text).map(Value::Stages),
            Kind::Text if text.is_empty() => Ok(Value::Unset),
            Kind::Text => match text.chars().count() {
                _ if text.contains(char::is_control) => Err("has control characters".to_owned()),
                1..=TEXT_CHARS_MAX => Ok(Value::Text(text.to_owned())),
                chars => Err(format!("has {chars} characters, {TEXT_CHARS_MAX} are the most")),
            },
            Kind::Path if text.is_empty() => Err("is empty; name a folder".to_owned()),
            Kind::Path => Ok(Value::Text(text.to_owned())),
            Kind::LogLevel => check_log_level(text).map(|()| Value::Text(text.to_owned())),
            Kind::AmqpUrls => read_amqp_urls(text),
            Kind::RedisUrl => check_redis(text).map(|()| one_url(text)),
            Kind::PostgresUrl => check_postgres(text).map(|()| one_url(text)),
            Kind::HttpUrl | Kind::Headers | Kind::SigningSecrets if text.is_empty() => Ok(Value::Unset),
            Kind::HttpUrl => check_http(text).map(|()| one_url(text)),
            Kind::Headers => read_headers(text).map(Value::Headers),
            Kind::SigningSecrets => read_secrets(text).map(Value::Secrets),
        }
    }

    /// Reads a value of a settings file, where a number is no text and the other way round.
    ///
    /// # Errors
    /// As [`Kind::read_text`].
    pub fn read_toml(&self, value: &toml_edit::Value) -> Result<Value, String> {
        use toml_edit::Value as Toml;
        let text = match (self, value) {
            (Kind::Boolean | Kind::Stages, Toml::Boolean(boolean)) => boolean.value().to_string(),
            (Kind::Whole { .. } | Kind::Size { .. } | Kind::Fraction, Toml::Integer(number)) => {
                number.value().to_string()
            }
            (Kind::Fraction, Toml::Float(number)) => number.value().to_string(),
            (Kind::Boolean | Kind::Whole { .. } | Kind::Fraction, _) => {
                return Err(self.wrong_type(value));
            }
            (Kind::AmqpUrls | Kind::Stages, Toml::Array(texts)) => joined(texts, ",")?,
            (Kind::Headers, Toml::Array(headers)) => joined(headers, "\n")?,
            (Kind::SigningSecrets, Toml::Array(secrets)) => joined(secrets, " ")?,
            (_, Toml::String(text)) => text.value().clone(),
            _ => return Err(self.wrong_type(value)),
        };
        self.read_text(&text)
    }

    fn wrong_type(&self, value: &toml_edit::Value) -> String {
        let wanted = match self {
            Kind::Boolean => "true or false, without quotes",
            Kind::Whole { .. } => "a whole number, without quotes",
            Kind::Fraction => "a number from 0 to 1, without quotes",
            Kind::Duration { .. } => "a string with the unit in it, such as \"10s\"",
            Kind::Size { .. } => "a string such as \"256KiB\", or a whole number of bytes",
            Kind::AmqpUrls | Kind::Headers | Kind::SigningSecrets => "a list of strings, or one string",
            Kind::Stages => "true, false or a list of stages",
            Kind::Choice(_)
            | Kind::Address { .. }
            | Kind::Namespace
            | Kind::Text
            | Kind::Path
            | Kind::LogLevel
            | Kind::RedisUrl
            | Kind::PostgresUrl
            | Kind::HttpUrl => "a string",
        };
        format!("must be {wanted}, and is of type {}", value.type_name())
    }

    /// What it takes, for the documentation.
    pub fn describe(&self) -> String {
        match self {
            Kind::Choice(choices) => any_of(choices),
            Kind::Boolean => "`true` or `false`".to_owned(),
            Kind::Whole { min, max } => format!("{min} to {max}"),
            Kind::Fraction => "0 to 1".to_owned(),
            Kind::Duration { min, max } => format!("duration, {} to {}", format_duration(*min), format_duration(*max)),
            Kind::Size { min, max } => {
                format!("size, {} to {}", format_size(*min), format_size(*max))
            }
            Kind::Address { optional: false } => "host:port".to_owned(),
            Kind::Address { optional: true } => "host:port, optional".to_owned(),
            Kind::Namespace => format!("1 to {NAMESPACE_CHARS_MAX} of `a-z0-9_-`"),
            Kind::Stages => "`true`, `false` or stages, comma separated".to_owned(),
            Kind::Text => format!("text of up to {TEXT_CHARS_MAX} characters, optional"),
            Kind::Path => "path".to_owned(),
            Kind::LogLevel => "level or directives".to_owned(),
            Kind::AmqpUrls => "`amqp://` URLs, secret".to_owned(),
            Kind::RedisUrl => "`redis://` URL, secret".to_owned(),
            Kind::PostgresUrl => "`postgresql://` URL, secret".to_owned(),
            Kind::HttpUrl => "`http://` or `https://` URL, secret, optional".to_owned(),
            Kind::Headers => "`Name: value` lines, secret, optional".to_owned(),
            Kind::SigningSecrets => "`whsec_…`, several separated by spaces, secret, optional".to_owned(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Unset => Ok(()),
            Value::Boolean(boolean) => boolean.fmt(f),
            Value::Whole(number) => number.fmt(f),
            Value::Fraction(number) => write!(f, "{number:?}"),
            Value::Duration(duration) => f.write_str(&format_duration(*duration)),
            Value::SizeBytes(bytes) => f.write_str(&format_size(*bytes)),
            Value::Address(address) => address.fmt(f),
            Value::Text(text) => f.write_str(text),
            Value::Stages(stages) if stages.is_empty() => f.write_str("false"),
            Value::Stages(stages) if stages.len() == Stage::ALL.len() => f.write_str("true"),
            Value::Stages(stages) => {
                let names: Vec<&str> = stages.iter().map(|stage| stage.as_kebab()).collect();
                f.write_str(&names.join(","))
            }
            Value::Urls(urls) => {
                let urls: Vec<String> = urls.iter().map(SecretUrl::to_string).collect();
                f.write_str(&urls.join(","))
            }
            Value::Headers(headers) => {
                let headers: Vec<String> = headers.iter().map(SecretHeader::to_string).collect();
                f.write_str(&headers.join("\n"))
            }
            Value::Secrets(secrets) => f.write_str(&vec!["***"; secrets.len()].join(" ")),
        }
    }
}

fn joined(texts: &toml_edit::Array, separator: &str) -> Result<String, String> {
    let texts: Option<Vec<&str>> = texts.iter().map(toml_edit::Value::as_str).collect();
    texts.map(|texts| texts.join(separator)).ok_or_else(|| "must be a list of strings only".to_owned())
}

fn any_of(choices: &[&str]) -> String {
    let quoted: Vec<String> = choices.iter().map(|c| format!("`{c}`")).collect();
    quoted.join(", ")
}

fn is_namespace(text: &str) -> bool {
    text.len() <= NAMESPACE_CHARS_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

fn check_log_level(text: &str) -> Result<(), String> {
    // The filter takes any lone word for a module and shows all of it: `inof` would log everything of a module that
    // is not there, and nothing else.
    for directive in text.split(',').map(str::trim) {
        let is_lone_word = !directive.contains(['=', '[']);
        if is_lone_word && !LEVELS.contains(&directive.to_lowercase().as_str()) {
            return Err(format!("`{directive}` is none of {}", any_of(LEVELS)));
        }
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("`{text}` has a directive that is none: {error}")),
    }
}

fn read_stages(text: &str) -> Result<Vec<Stage>, String> {
    match text {
        "true" => return Ok(Stage::ALL.to_vec()),
        "false" | "" => return Ok(Vec::new()),
        _ => {}
    }
    let named: Result<Vec<Stage>, _> = text.split(',').map(|name| name.trim().parse::<Stage>()).collect();
    let named = named.map_err(|unknown| format!("must be `true`, `false` or a list of stages: {unknown}"))?;
    // Each once, in their order.
    Ok(Stage::ALL.into_iter().filter(|stage| named.contains(stage)).collect())
}

fn one_url(text: &str) -> Value {
    Value::Urls(vec![SecretUrl::new(text)])
}

fn read_amqp_urls(text: &str) -> Result<Value, String> {
    let urls: Vec<&str> = text.split(',').map(str::trim).collect();
    for (index, url) in urls.iter().enumerate() {
        check_amqp(url).map_err(|problem| match urls.len() {
            1 => problem,
            _ => format!("URL {} of {} {problem}", index + 1, urls.len()),
        })?;
    }
    Ok(Value::Urls(urls.into_iter().map(SecretUrl::new).collect()))
}

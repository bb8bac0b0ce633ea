//! One value for each name of the table, with its origin; the only place where settings are read by name.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::http::SecretHeader;
use super::keys::{self, Key};
use super::kind::Value;
use super::problems::Problem;
use super::sources::{Entry, Origin, Raw};
use super::urls::{Address, SecretUrl};
use crate::domain::Stage;
use crate::handlers::signature::Secret;

const IN_TABLE: &str = "every name read here is in the table, with a value of its kind";

/// The values in force.
pub struct Values {
    by_name: HashMap<String, (Value, Origin)>,
    wrong: BTreeSet<String>,
}

impl Values {
    /// Every setting at its default.
    pub fn defaults() -> Values {
        let by_name = keys::all().map(|(name, key)| {
            let value = key.kind.read_text(key.default).expect("a test reads every default");
            (name, (value, Origin::Default))
        });
        Values { by_name: by_name.collect(), wrong: BTreeSet::new() }
    }

    /// Puts a given value in force, or notes what is wrong with it.
    pub fn take(&mut self, entry: Entry, problems: &mut Vec<Problem>) {
        let Entry { name, origin, raw } = entry;
        let Some((_, key)) = keys::all().find(|(known, _)| *known == name) else {
            problems.push(Problem::unknown_key(&name, origin));
            return;
        };
        if let Some((_, earlier)) = self.by_name.get(&name)
            && earlier.is_beside(&origin)
        {
            let text = format!("is given twice, first by {earlier}");
            problems.push(Problem::new(name, origin, text));
            return;
        }
        let read = match raw {
            Raw::Text(text) => key.kind.read_text(&text),
            Raw::Toml(value) => key.kind.read_toml(&value),
        };
        match read {
            Ok(value) => {
                self.by_name.insert(name, (value, origin));
            }
            Err(text) => {
                self.wrong.insert(name.clone());
                problems.push(Problem::new(name, origin, text));
            }
        }
    }

    /// Whether all of these settings were given legal values or none.
    pub fn are_right(&self, names: &[&str]) -> bool {
        names.iter().all(|name| !self.wrong.contains(*name))
    }

    pub fn is_default_value(&self, name: &str) -> bool {
        let (_, key) = keys::all().find(|(known, _)| known == name).expect(IN_TABLE);
        key.kind.read_text(key.default).as_ref() == Ok(self.value(name))
    }

    /// A problem of the value that is in force.
    pub fn problem(&self, name: &str, text: impl Into<String>) -> Problem {
        Problem::new(name, self.origin(name).clone(), text)
    }

    /// All of them in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (String, &'static Key, &Value, &Origin)> {
        keys::all().map(|(name, key)| {
            let (value, origin) = self.by_name.get(&name).expect(IN_TABLE);
            (name, key, value, origin)
        })
    }

    pub fn shown(&self, name: &str) -> String {
        self.value(name).to_string()
    }

    pub fn origin(&self, name: &str) -> &Origin {
        &self.by_name.get(name).expect(IN_TABLE).1
    }

    fn value(&self, name: &str) -> &Value {
        &self.by_name.get(name).expect(IN_TABLE).0
    }

    pub fn text(&self, name: &str) -> &str {
        self.optional_text(name).expect(IN_TABLE)
    }

    pub fn optional_text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn stages(&self, name: &str) -> &[Stage] {
        match self.value(name) {
            Value::Stages(stages) => Some(&stages[..]),
            _ => None,
        }
        .expect(IN_TABLE)
    }

    pub fn boolean(&self, name: &str) -> bool {
        match self.value(name) {
            Value::Boolean(boolean) => Some(*boolean),
            _ => None,
        }
        .expect(IN_TABLE)
    }

    /// A number, in a type that holds the range the table gives it.
    pub fn whole<T: TryFrom<u64>>(&self, name: &str) -> T {
        match self.value(name) {
            Value::Whole(number) | Value::SizeBytes(number) => T::try_from(*number).ok(),
            _ => None,
        }
        .expect(IN_TABLE)
    }

    pub fn fraction(&self, name: &str) -> f64 {
        match self.value(name) {
            Value::Fraction(number) => Some(*number),
            _ => None,
        }
        .expect(IN_TABLE)
    }

    pub fn duration(&self, name: &str) -> Duration {
        match self.value(name) {
            Value::Duration(duration) => Some(*duration),
            _ => None,
        }
        .expect(IN_TABLE)
    }

    pub fn address(&self, name: &str) -> &Address {
        self.optional_address(name).expect(IN_TABLE)
    }

    pub fn optional_address(&self, name: &str) -> Option<&Address> {
        match self.value(name) {
            Value::Address(address) => Some(address),
            _ => None,
        }
    }

    pub fn urls(&self, name: &str) -> &[SecretUrl] {
        match self.value(name) {
            Value::Urls(urls) => Some(urls),
            _ => None,
        }
        .expect(IN_TABLE)
    }

    pub fn optional_url(&self, name: &str) -> Option<&SecretUrl> {
        match self.value(name) {
            Value::Urls(urls) => urls.first(),
            _ => None,
        }
    }

    /// None if there are none.
    pub fn headers(&self, name: &str) -> &[SecretHeader] {
        match self.value(name) {
            Value::Headers(headers) => headers,
            _ => &[],
        }
    }

    /// None if there are none.
    pub fn secrets(&self, name: &str) -> &[Secret] {
        match self.value(name) {
            Value::Secrets(secrets) => secrets,
            _ => &[],
        }
    }

    pub fn url(&self, name: &str) -> SecretUrl {
        self.urls(name).first().expect(IN_TABLE).clone()
    }
}

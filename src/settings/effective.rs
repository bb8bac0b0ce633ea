//! The settings in force, for `check-config`.

use super::sources::Origin;
use super::values::Values;

/// One setting in force.
#[derive(Clone, Debug)]
pub struct Effective {
    pub key: String,
    /// In the text form of an environment variable, passwords masked; empty if it is not set.
    pub value: String,
    pub origin: Origin,
    /// Why it has no effect, if it has none.
    pub note: Option<&'static str>,
}

/// All settings in the order of the table.
pub fn list(values: &Values) -> Vec<Effective> {
    let servers = values.text("backend") == "servers";
    values
        .iter()
        .map(|(key, _, value, origin)| {
            let is_given = *origin != Origin::Default;
            let note = match is_given {
                true if servers && key == "data_dir" => Some("not used: backend is `servers`"),
                true if !servers && is_of_servers(&key) => Some("not used: backend is `embedded`"),
                _ => None,
            };
            Effective { value: value.to_string(), origin: origin.clone(), note, key }
        })
        .collect()
}

fn is_of_servers(key: &str) -> bool {
    const SERVERS: &[&str] = &["amqp_urls", "redis_url", "postgres_url", "migrate_at_start"];
    const SECTIONS: &[&str] = &["rabbitmq.", "redis.", "postgres."];
    SERVERS.contains(&key) || SECTIONS.iter().any(|section| key.starts_with(section))
}

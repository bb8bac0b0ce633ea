//! Addresses of this process and of the servers it needs, and how to show them without their passwords.

use std::fmt;

/// A URL that may hold a password. Only [`SecretUrl::expose`] gives it away: shown or debug-printed it is masked.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    pub fn new(url: impl Into<String>) -> Self {
        SecretUrl(url.into())
    }

    /// The URL as it was given, password included, for the adapter that connects to it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

/// Where to listen: a host name or an address, and a port; port 0 takes a free one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
}

impl Address {
    /// What [`std::net::ToSocketAddrs`] and `tokio::net::lookup_host` take; host names are resolved there.
    pub fn as_pair(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Reads `127.0.0.1:8080`, `localhost:8080`, `[::1]:8080`.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(text: &str) -> Result<Address, String> {
        let wrong = |what: &str| {
            Err(format!("`{text}` {what}; write HOST:PORT, such as 127.0.0.1:8080 (0.0.0.0 for every interface)"))
        };
        let Some((host, port)) = text.rsplit_once(':') else {
            return wrong("has no port");
        };
        let Ok(port) = port.parse() else {
            return wrong("has no port from 0 to 65535 at its end");
        };
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inside) if inside.parse::<std::net::Ipv6Addr>().is_ok() => inside,
            None if is_host(host) => host,
            None if host.is_empty() => return wrong("has no host"),
            _ => return wrong("has a host that is none"),
        };
        Ok(Address { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Checks the shape of one RabbitMQ URL. The reason never quotes it.
pub fn check_amqp(url: &str) -> Result<(), String> {
    check(url, &["amqp"], "amqp://USER:PASSWORD@HOST:PORT/VHOST")
}

/// Checks the shape of a Redis URL. The reason never quotes it.
pub fn check_redis(url: &str) -> Result<(), String> {
    const SCHEMES: &[&str] = &["redis", "rediss", "redis-sentinel", "rediss-sentinel"];
    check(url, SCHEMES, "redis://HOST:PORT")
}

/// Checks the shape of a Postgres URL, or of libpq's `host=… user=…`. The reason never quotes it.
pub fn check_postgres(url: &str) -> Result<(), String> {
    if !url.contains("://") && is_key_value_form(url) {
        return Ok(());
    }
    const SCHEMES: &[&str] = &["postgresql", "postgres"];
    check(url, SCHEMES, "postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
}

/// Checks a URL of a service. The reason never quotes it.
pub fn check_http(url: &str) -> Result<(), String> {
    check(url, &["http", "https"], "https://HOST/PATH")?;
    // The first check says what is wrong, this one is by the parser that is to take it.
    reqwest::Url::parse(url).map(drop).map_err(|error| format!("is no URL that can be called: {error}"))
}

fn is_key_value_form(text: &str) -> bool {
    text.split_once('=')
        .is_some_and(|(key, _)| !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
}

fn check(url: &str, schemes: &[&str], form: &str) -> Result<(), String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(format!("is no URL; write {form}"));
    };
    if !schemes.contains(&scheme) {
        let schemes: Vec<String> = schemes.iter().map(|s| format!("{s}://")).collect();
        return Err(format!("must begin with {}; write {form}", schemes.join(" or ")));
    }
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    if rest[authority.len()..].contains('@') && !authority.contains('@') {
        return Err("has an `@` after its host: write a `/`, `?` or `#` of the password as %2F, %3F or %23".to_owned());
    }
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    if hosts.is_empty() {
        return Err(format!("names no host; write {form}"));
    }
    // Several hosts, comma separated, are how Postgres and Sentinel name their stand-bys.
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
            Some((name, "")) => (name, None),
            Some((name, port)) => (name, Some(port.strip_prefix(':').unwrap_or("none"))),
            None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
        };
        if name.is_empty() {
            return Err(format!("names no host; write {form}"));
        }
        if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return Err("has a port that is no number from 1 to 65535".to_owned());
        }
    }
    Ok(())
}

/// The URL with its password replaced. What cannot be taken apart is hidden whole: better too little than a secret.
pub fn mask(url: &str) -> String {
    const HIDDEN: &str = "***";
    const SECRET_WORDS: [&str; 5] = ["pass", "token", "key", "secret", "sig"];
    let Some((scheme, rest)) = url.split_once("://") else {
        return match is_key_value_form(url) {
            true => mask_key_values(url),
            false => HIDDEN.to_owned(),
        };
    };
    // The last `@` of all: a password that should have been percent-encoded may hold `@`, `/` and `?`.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user_info, rest)) => match user_info.split_once(':') {
            Some((user, _)) => (format!("{user}:{HIDDEN}@"), rest),
            // Redis takes a lone word for a user, people write a password there.
            None if scheme.starts_with("redis") => (format!("{HIDDEN}@"), rest),
            None => (format!("{user_info}@"), rest),
        },
        None => (String::new(), rest),
    };
    let rest = match rest.split_once('?') {
        Some((path, query)) => {
            let parameters: Vec<String> = query
                .split('&')
                .map(|parameter| match parameter.split_once('=') {
                    Some((name, _)) if SECRET_WORDS.iter().any(|word| name.to_lowercase().contains(word)) => {
                        format!("{name}={HIDDEN}")
                    }
                    _ => parameter.to_owned(),
                })
                .collect();
            format!("{path}?{}", parameters.join("&"))
        }
        None => rest.to_owned(),
    };
    format!("{scheme}://{user}{rest}")
}

/// Keeps the harmless pairs of libpq's form, and only while they are plain words: a quoted value may hide anything.
fn mask_key_values(text: &str) -> String {
    const SHOWN: &[&str] = &["host", "hostaddr", "port", "user", "dbname", "sslmode"];
    if text.contains(['\'', '\\']) {
        return "***".to_owned();
    }
    let pairs: Vec<String> = text
        .split_whitespace()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if SHOWN.contains(&key) => format!("{key}={value}"),
            Some((key, _)) => format!("{key}=***"),
            None => "***".to_owned(),
        })
        .collect();
    pairs.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (url, shown) in [
            ("amqp://host:5672/%2f", "amqp://host:5672/%2f"),
            ("amqp://user:pw@host/v", "amqp://user:***@host/v"),
            ("amqp://user:p@w@host", "amqp://user:***@host"),
            ("amqp://user:p/w@host", "amqp://user:***@host"),
            ("amqp://user:p?w#x@host", "amqp://user:***@host"),
            ("redis://:pw@host", "redis://:***@host"),
            ("redis://pw@host", "redis://***@host"),
            ("redis-sentinel://:pw@host?sentinelPassword=pw2", "redis-sentinel://:***@host?sentinelPassword=***"),
            ("https://user:pw@host/p?api_Key=pw&n=1", "https://user:***@host/p?api_Key=***&n=1"),
            ("postgresql://me@host/db", "postgresql://me@host/db"),
            ("postgresql://me@host/db?sslmode=off&password=pw", "postgresql://me@host/db?sslmode=off&password=***"),
            ("host=h user=me password=pw", "host=h user=me password=***"),
            ("host=h password='p w' user=me", "***"),
            ("host=h password = pw", "host=h *** =*** ***"),
            ("secret", "***"),
            ("pw@host:5672", "***"),
        ] {
            assert_eq!(mask(url), shown, "{url}");
            assert_eq!(format!("{:?}", SecretUrl::new(url)), format!("SecretUrl({shown})"));
        }
    }

    #[test]
    fn the_shape_of_urls_is_checked() {
        assert_eq!(check_amqp("amqp://guest:guest@127.0.0.1:5672/%2f"), Ok(()));
        assert_eq!(check_redis("rediss://:pw@cache"), Ok(()));
        assert_eq!(check_postgres("postgresql://me@a:5432,b:5433/db"), Ok(()));
        assert_eq!(check_postgres("host=/run/postgresql user=me"), Ok(()));
        assert_eq!(check_redis("redis://[::1]:6379"), Ok(()));
        assert_eq!(check_http("https://user:pw@host:8443/orders?team=1"), Ok(()));
        for wrong in [
            check_amqp("127.0.0.1:5672"),
            check_amqp("amqps://host"),
            check_amqp("amqp://guest:guest@/"),
            check_amqp("amqp://host:0"),
            check_amqp("amqp://user:p/w@host"),
            check_redis("http://host"),
            check_redis("redis://host:70000"),
            check_postgres("mysql://host"),
            check_postgres("somewhere"),
            check_http("host/path"),
            check_http("ftp://host"),
            check_http("http://a b/"),
        ] {
            assert!(wrong.is_err());
        }
    }

    #[test]
    fn addresses_are_read_and_written_back() {
        for text in ["127.0.0.1:8080", "localhost:0", "[::1]:8080"] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "8080", ":8080", "host:", "host:99999", "::1:80", "a b:1", "[x]:1"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}

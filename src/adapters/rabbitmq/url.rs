//! Reads `amqp://` addresses as the RabbitMQ URI specification has them.
//!
//! amqprs has a parser of its own (`urispec`); it does not decode percent signs and panics on `?name` without a value.

use std::fmt;

/// The port when an address names none.
const DEFAULT_PORT: u16 = 5672;
/// Host, user, password and virtual host travel as AMQP short strings. Bytes.
const NAME_MAX_BYTES: usize = 255;

/// One RabbitMQ node and how to log in to it. Shown as `host:port`, never with its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    pub virtual_host: String,
    /// What `?heartbeat=` asked for.
    pub heartbeat_secs: Option<u16>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self}{})", self.virtual_host)
    }
}

/// Reads `amqp://[user[:password]@]host[:port][/vhost][?heartbeat=seconds]`. User and password default to `guest`, the
/// virtual host to `/`.
///
/// # Errors
/// What is wrong, in words for the operator. The password is never in it.
pub fn parse_url(url: &str) -> Result<Address, String> {
    let rest = match url.split_once("://") {
        Some(("amqp", rest)) => rest,
        Some(("amqps", _)) => {
            return Err("amqps:// is not supported: use amqp://, through a tunnel if needed".into());
        }
        // The text is not repeated: nobody knows where in it a password stands.
        _ => return Err("a RabbitMQ address begins with amqp://".into()),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, Some(path)),
        None => (rest, None),
    };
    let (login, node) = match authority.rsplit_once('@') {
        Some((login, node)) => (Some(login), node),
        None => (None, authority),
    };
    let (user, password) = match login {
        None => ("guest", "guest"),
        Some(login) => login.split_once(':').unwrap_or((login, "guest")),
    };
    let (host, port) = parse_node(node)?;
    let address = Address {
        host: host.into(),
        port,
        user: decode("the user", user)?,
        password: decode("the password", password)?,
        // `amqp://host` and `amqp://host/` both mean the default; the empty virtual host has no use.
        virtual_host: match path {
            None | Some("") => "/".into(),
            // More likely a password with a slash in it, which must not be taken for a virtual host and be shown.
            Some(path) if path.contains(['/', '@']) => {
                return Err("/ and @ in user, password and virtual host are written %2F and %40".into());
            }
            Some(path) => decode("the virtual host", path)?,
        },
        heartbeat_secs: parse_query(query)?,
    };
    Ok(address)
}

fn parse_node(node: &str) -> Result<(&str, u16), String> {
    // Only a colon behind the bracket of an IPv6 address begins a port.
    let after_bracket = node.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match node[after_bracket..].rfind(':') {
        Some(at) => (&node[..after_bracket + at], Some(&node[after_bracket + at + 1..])),
        None => (node, None),
    };
    if host.is_empty() {
        return Err("the host is missing".into());
    }
    if host.len() > NAME_MAX_BYTES
        || host.chars().any(|c| c.is_whitespace() || c.is_control())
        || (host.contains(':') && !host.starts_with('['))
    {
        return Err("the host is none".into());
    }
    let port = match port {
        None => DEFAULT_PORT,
        // Not repeated: a password with a stray `@` or `/` can end up here.
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err("the port is no number from 1 to 65535".into()),
            Ok(port) => port,
        },
    };
    Ok((host, port))
}

fn parse_query(query: &str) -> Result<Option<u16>, String> {
    let mut heartbeat_secs = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("heartbeat", secs) => match secs.parse() {
                Ok(secs @ 2..) => heartbeat_secs = Some(secs),
                _ => return Err("heartbeat is a number of seconds from 2 to 65535".into()),
            },
            (name, _) => return Err(format!("the parameter `{name}` is not supported")),
        }
    }
    Ok(heartbeat_secs)
}

/// Replaces `%2F` and the like by the bytes they stand for.
fn decode(what: &str, text: &str) -> Result<String, String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        match (digit(), digit()) {
            (Some(high), Some(low)) => decoded.push((high * 16 + low) as u8),
            _ => return Err(format!("a percent sign in {what} is written %25")),
        }
    }
    if decoded.len() > NAME_MAX_BYTES {
        return Err(format!("{what} is longer than {NAME_MAX_BYTES} bytes"));
    }
    String::from_utf8(decoded).map_err(|_| format!("{what} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Address {
        parse_url(url).unwrap()
    }

    #[test]
    fn what_an_address_leaves_out_has_a_default() {
        let all = address("amqp://me:s%40cret@rabbit.example:5673/a%2Fb?heartbeat=5");
        assert_eq!((all.host.as_str(), all.port), ("rabbit.example", 5673));
        assert_eq!((all.user.as_str(), all.password.as_str()), ("me", "s@cret"));
        assert_eq!(all.virtual_host, "a/b");
        assert_eq!(all.heartbeat_secs, Some(5));
        for url in ["amqp://h", "amqp://h/", "amqp://h:5672", "amqp://guest@h/%2F"] {
            let bare = address(url);
            assert_eq!((bare.host.as_str(), bare.port), ("h", 5672), "{url}");
            assert_eq!((bare.user.as_str(), bare.password.as_str()), ("guest", "guest"));
            assert_eq!(bare.virtual_host, "/", "{url}");
        }
        assert_eq!(address("amqp://[::1]:7").to_string(), "[::1]:7");
        assert_eq!(address("amqp://[::1]").port, 5672);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, says) in [
            ("redis://me:secret@h", "begins with amqp://"),
            ("me:secret@h", "begins with amqp://"),
            ("amqps://me:secret@h", "amqps://"),
            ("amqp://me:secret@", "host is missing"),
            ("amqp://me:secret@h:0", "port"),
            ("amqp://me:secret@h:port", "port"),
            ("amqp://me:1/secret@h:port", "%2F and %40"),
            ("amqp://me:secret@::1", "host"),
            ("amqp://me:secret%@h", "percent sign in the password"),
            ("amqp://me:secret%ff@h", "not UTF-8"),
            ("amqp://me:secret@h/a/b", "%2F"),
            ("amqp://me:secret@h?heartbeat=1", "heartbeat"),
            ("amqp://me:secret@h?verify", "`verify` is not supported"),
        ] {
            let error = parse_url(url).unwrap_err();
            assert!(error.contains(says), "{url}: {error}");
            assert!(!error.contains("secret"), "{url}: {error}");
        }
        assert!(!format!("{0} {0:?}", address("amqp://me:secret@h")).contains("secret"));
    }
}

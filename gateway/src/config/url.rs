//! The URL of a Redis instance.
//!
//! Owns which URLs are accepted and how they are shown. Must never show what stands before the `@`, not even of a URL
//! that is refused.

use std::fmt;
use std::net::Ipv6Addr;

use super::secret::MASK;

/// `redis://` or `rediss://` (TLS), complete and checked. Formatting it hides user and password.
#[derive(Clone)]
pub struct RedisUrl {
    full: String,
    shown: String,
}

impl RedisUrl {
    /// Reads `redis://[[user]:password@]host[:port][/database]`.
    ///
    /// # Errors
    /// What is wrong with it, without showing it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .filter(|(scheme, _)| matches!(*scheme, "redis" | "rediss"))
            .ok_or("expected redis://host:port/database (or rediss:// for TLS)")?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\<>^`{|}".contains(&byte)) {
            return Err("holds characters that a URL cannot; percent-encode them (a space is %20)".into());
        }
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if tail.contains('@') || authority.matches('@').count() > 1 {
            return Err(
                "percent-encode user and password: `@` is %40, `/` is %2F, `?` is %3F, `#` is %23".into()
            );
        }
        let (credentials, host) =
            authority.split_once('@').map_or((None, authority), |(before, host)| (Some(before), host));
        credentials.map_or(Ok(()), check_credentials)?;
        let address = check_host(host)?;
        let database = check_tail(tail, scheme == "rediss")?;
        let mask = if credentials.is_some() { format!("{MASK}@") } else { String::new() };
        Ok(Self { full: text.into(), shown: format!("{scheme}://{mask}{address}/{database}") })
    }

    /// A Redis on this machine.
    pub(super) fn local() -> Self {
        let url = "redis://127.0.0.1:6379/0";
        Self { full: url.into(), shown: url.into() }
    }

    /// The whole URL, password included: for connecting, never for showing.
    pub fn expose(&self) -> &str {
        &self.full
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

fn check_credentials(credentials: &str) -> Result<(), String> {
    let Some((_, password)) = credentials.split_once(':') else {
        return Err(match credentials {
            MASK => masked(),
            _ => "has a user but no password; a password alone is written redis://:password@host".into(),
        });
    };
    match password {
        "" => Err("the password is empty; without one, leave everything up to the `@` out".into()),
        MASK => Err(masked()),
        _ => Ok(()),
    }
}

fn masked() -> String {
    format!("`{MASK}` only stands for a hidden password: give the password itself")
}

/// The address with its port, as it is shown.
fn check_host(text: &str) -> Result<String, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let ipv6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let well_formed = match ipv6 {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    match host {
        "" => return Err("has no host; expected redis://host:port/database".into()),
        "0.0.0.0" | "[::]" => return Err("names every address of this machine; name the server's".into()),
        _ if !well_formed => return Err("the host is neither a name nor an address (IPv6: [::1])".into()),
        _ => {}
    }
    let port = match port.map(str::parse::<u16>) {
        None => 6379,
        Some(Ok(port)) if port > 0 => port,
        Some(_) => return Err("the port is not a number from 1 to 65535".into()),
    };
    Ok(format!("{host}:{port}"))
}

/// The database number.
fn check_tail(tail: &str, tls: bool) -> Result<u32, String> {
    if tail.contains('#') {
        return Err("nothing may follow a `#`: certificates are always verified".into());
    }
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    match query {
        "" => {}
        "ssl_cert_reqs=required" if tls => {}
        "ssl_cert_reqs=required" => {
            return Err("`ssl_cert_reqs` needs TLS: rediss:// in the place of redis://".into());
        }
        _ => return Err("after the `?`, only `ssl_cert_reqs=required` is known".into()),
    }
    match path.trim_start_matches('/') {
        "" => Ok(0),
        number => {
            number.parse().map_err(|_| "what follows the host is not a database number, such as /0".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_user_and_password() {
        for (text, shown) in [
            ("redis://localhost", "redis://localhost:6379/0"),
            ("redis://10.0.0.1:6380/2", "redis://10.0.0.1:6380/2"),
            ("redis://[::1]:6379/", "redis://[::1]:6379/0"),
            ("redis://[fe80::1]", "redis://[fe80::1]:6379/0"),
            ("redis://:hunter2@host/1", "redis://***@host:6379/1"),
            ("rediss://default:hunter2@my-db.upstash.io:6379", "rediss://***@my-db.upstash.io:6379/0"),
            ("rediss://u:hunter2@host?ssl_cert_reqs=required", "rediss://***@host:6379/0"),
            ("redis://u:hun%40ter2:x@host", "redis://***@host:6379/0"),
        ] {
            let url = RedisUrl::parse(text).unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.into(), shown.into()), "{text}");
            assert_eq!(url.expose(), text);
        }
    }

    #[test]
    fn a_bad_url_is_refused_and_not_shown() {
        for (text, what) in [
            ("hunter2", "expected redis://host:port/database (or rediss:// for TLS)"),
            ("http://:hunter2@host", "expected redis://host:port/database (or rediss:// for TLS)"),
            ("redis://", "has no host; expected redis://host:port/database"),
            ("redis://:6379", "has no host; expected redis://host:port/database"),
            ("redis://:hunter2@", "has no host; expected redis://host:port/database"),
            (
                "redis://:hun ter2@host",
                "holds characters that a URL cannot; percent-encode them (a space is %20)",
            ),
            (
                "redis://:hun/ter2@host",
                "percent-encode user and password: `@` is %40, `/` is %2F, `?` is %3F, `#` is %23",
            ),
            (
                "redis://:hun#ter2@host",
                "percent-encode user and password: `@` is %40, `/` is %2F, `?` is %3F, `#` is %23",
            ),
            (
                "redis://:hun@ter2@host",
                "percent-encode user and password: `@` is %40, `/` is %2F, `?` is %3F, `#` is %23",
            ),
            (
                "redis://hunter2@host",
                "has a user but no password; a password alone is written redis://:password@host",
            ),
            (
                "redis://hunter2:@host",
                "the password is empty; without one, leave everything up to the `@` out",
            ),
            ("redis://***@host", "`***` only stands for a hidden password: give the password itself"),
            ("redis://:***@host", "`***` only stands for a hidden password: give the password itself"),
            ("redis://0.0.0.0", "names every address of this machine; name the server's"),
            ("redis://::1:6379", "the host is neither a name nor an address (IPv6: [::1])"),
            ("redis://[::1", "the host is neither a name nor an address (IPv6: [::1])"),
            ("redis://host:0", "the port is not a number from 1 to 65535"),
            ("redis://host:", "the port is not a number from 1 to 65535"),
            ("redis://host:637900", "the port is not a number from 1 to 65535"),
            ("redis://host/hunter2", "what follows the host is not a database number, such as /0"),
            ("redis://host/0/1", "what follows the host is not a database number, such as /0"),
            ("rediss://host/#insecure", "nothing may follow a `#`: certificates are always verified"),
            ("rediss://host?ssl_cert_reqs=none", "after the `?`, only `ssl_cert_reqs=required` is known"),
            (
                "redis://host?ssl_cert_reqs=required",
                "`ssl_cert_reqs` needs TLS: rediss:// in the place of redis://",
            ),
        ] {
            let error = RedisUrl::parse(text).unwrap_err();
            assert_eq!(error, what, "{text}");
            assert!(!error.contains("hunter2"));
        }
    }
}

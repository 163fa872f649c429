//! The address of a Redis server, parsed from a URL.
//!
//! Owns the accepted forms of URLs, and the meaning of each part. Must never show a secret: neither `Debug` nor an
//! error contains the part before the `@`.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The port if the URL has none.
const DEFAULT_PORT: u16 = 6379;

/// Replaces user and password.
const MASK: &str = "***";

/// The characters of a socket path that are percent-encoded.
const PATH_ENCODE_SET: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// The address of a server, with credentials and database.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Where it listens.
    pub endpoint: ServerEndpoint,
    /// Whether to use TLS.
    pub tls: bool,
    /// Whether the URL requires certificate verification (`ssl_cert_reqs=required`); valid only with TLS.
    pub verify: bool,
    /// The ACL user; `None`: `default`.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The database number; `None`: 0.
    pub database: Option<u32>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEndpoint {
    /// A TCP port. An IPv6 address has no brackets.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port; `None`: 6379.
        port: Option<u16>,
    },
    /// A Unix domain socket.
    Unix(PathBuf),
}

/// A URL without credentials and database, for logs: `scheme://host:port`.
pub fn redacted(url: &str) -> String {
    Address::parse(url).map_or_else(|_| "(not a Redis URL)".to_owned(), |address| address.location())
}

impl Address {
    /// Parses `redis://[[user]:password@]host[:port][/database]`, `rediss://` for TLS, or `unix:///path` with the database
    /// in a query (`?db=1`).
    ///
    /// # Errors
    /// A description of what is wrong, without the URL itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or(EXPECTED)?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') {
            return Err("contains invalid characters; percent-encode them (a space is %20)".into());
        }
        match scheme {
            "redis" => parse_tcp(rest, false),
            "rediss" => parse_tcp(rest, true),
            "unix" | "redis+unix" => parse_unix(rest),
            _ => Err(EXPECTED.into()),
        }
    }

    /// The address of a host on the default port.
    ///
    /// # Errors
    /// A description of what is wrong.
    pub fn from_host(host: &str) -> Result<Self, String> {
        let bracketed = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.into() };
        let (host, port) = parse_host(&bracketed)?;
        if port.is_some() {
            return Err("must not contain a port; set the port separately".into());
        }
        Ok(Self::tcp(host, None))
    }

    /// A server without credentials, on database 0.
    pub(super) fn tcp(host: String, port: Option<u16>) -> Self {
        let endpoint = ServerEndpoint::Tcp { host, port };
        Self { endpoint, tls: false, verify: false, username: None, password: None, database: None }
    }

    /// Parses `host[:port]`.
    ///
    /// # Errors
    /// A description of what is wrong.
    pub fn parse_host_port(text: &str, default_port: u16) -> Result<(String, u16), String> {
        let (host, port) = parse_host(text)?;
        Ok((host, port.unwrap_or(default_port)))
    }

    /// The URL of this address, including the password. Parses to an equal address.
    pub fn url(&self) -> String {
        let encoded = |text: &Option<String>| {
            text.as_deref().map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string())
        };
        let (user, password) = (encoded(&self.username).unwrap_or_default(), encoded(&self.password));
        let credentials = password.map(|password| format!("{user}:{password}@")).unwrap_or_default();
        self.with_credentials(&credentials)
    }

    /// The URL without credentials and database: `scheme://host:port`.
    pub fn location(&self) -> String {
        match &self.endpoint {
            ServerEndpoint::Tcp { .. } => format!("{}://{}", self.scheme(), self.host_port()),
            ServerEndpoint::Unix(path) => format!("unix://{}", path.display()),
        }
    }

    /// `host:port`, an IPv6 address in brackets; or the path of the socket.
    pub fn host_port(&self) -> String {
        match &self.endpoint {
            ServerEndpoint::Tcp { host, port } if host.contains(':') => {
                format!("[{host}]:{}", port.unwrap_or(DEFAULT_PORT))
            }
            ServerEndpoint::Tcp { host, port } => format!("{host}:{}", port.unwrap_or(DEFAULT_PORT)),
            ServerEndpoint::Unix(path) => path.display().to_string(),
        }
    }

    /// The port, or else the default.
    pub(super) fn port_or_default(port: Option<u16>) -> u16 {
        port.unwrap_or(DEFAULT_PORT)
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "rediss" } else { "redis" }
    }

    fn with_credentials(&self, credentials: &str) -> String {
        let database = self.database.unwrap_or(0);
        match &self.endpoint {
            ServerEndpoint::Tcp { .. } => {
                let verify = if self.verify { "?ssl_cert_reqs=required" } else { "" };
                format!("{}://{credentials}{}/{database}{verify}", self.scheme(), self.host_port())
            }
            ServerEndpoint::Unix(path) => {
                let path = path.to_string_lossy();
                format!("unix://{credentials}{}?db={database}", utf8_percent_encode(&path, &PATH_ENCODE_SET))
            }
        }
    }
}

impl fmt::Display for Address {
    /// The URL with user and password masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let masked = Self { verify: false, ..self.clone() };
        let credentials = if self.password.is_some() { format!("{MASK}@") } else { String::new() };
        f.write_str(&masked.with_credentials(&credentials))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const EXPECTED: &str =
    "expected redis://host:port/database, rediss:// for TLS, or unix:///path for a Unix socket";
const ENCODE: &str = "percent-encode the user and password: `@` is %40, `/` is %2F, `%` is %25";

fn parse_tcp(rest: &str, tls: bool) -> Result<Address, String> {
    // Tokens of managed services contain `#` and `?` without encoding: before the `@` they are literal.
    let head = &rest[..rest.find('/').unwrap_or(rest.len())];
    let (credentials, rest) = match head.rsplit_once('@') {
        Some((credentials, _)) => (Some(credentials), &rest[credentials.len() + 1..]),
        None => (None, rest),
    };
    if rest.contains('@') || credentials.is_some_and(|credentials| credentials.contains('@')) {
        return Err(ENCODE.into());
    }
    let (username, password) = credentials.map_or(Ok((None, None)), parse_credentials)?;
    let (host, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (host, port) = parse_host(host)?;
    let (path, verify) = parse_query(tail)?;
    let database = match path.trim_start_matches('/') {
        "" => None,
        number => Some(parse_database(number)?),
    };
    Ok(Address { endpoint: ServerEndpoint::Tcp { host, port }, tls, verify, username, password, database })
}

fn parse_unix(rest: &str) -> Result<Address, String> {
    let (credentials, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let credentials = match credentials.strip_suffix('@') {
        Some(credentials) => parse_credentials(credentials)?,
        None if credentials.is_empty() => (None, None),
        None => return Err("a Unix socket needs an absolute path: unix:///run/redis.sock".into()),
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if path.len() < 2 {
        return Err("has no path; expected unix:///run/redis.sock".into());
    }
    let endpoint = ServerEndpoint::Unix(decode(path)?.into());
    let (username, password) = credentials;
    let mut address = Address { endpoint, tls: false, verify: false, username, password, database: None };
    for (key, value) in
        query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| pair.split_once('='))
    {
        match key {
            "db" => address.database = Some(parse_database(value)?),
            "user" | "username" => address.username = Some(decode(value)?),
            "pass" | "password" => address.password = Some(decode(value)?),
            _ => return Err("unknown query parameter; a Unix socket accepts `db`, `user` and `pass`".into()),
        }
    }
    Ok(address)
}

fn parse_credentials(credentials: &str) -> Result<(Option<String>, Option<String>), String> {
    let masked = || format!("`{MASK}` is a placeholder for a hidden password; set the actual password");
    let Some((user, password)) = credentials.split_once(':') else {
        return Err(match credentials {
            MASK => masked(),
            _ => "has a user but no password; a password without a user is written redis://:password@host"
                .into(),
        });
    };
    match password {
        "" => Err("the password is empty; for no password, omit everything up to the `@`".into()),
        MASK => Err(masked()),
        _ => Ok(((!user.is_empty()).then(|| decode(user)).transpose()?, Some(decode(password)?))),
    }
}

/// Percent-decodes; a lone `%` is literal.
fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| "percent-encoded text is not UTF-8")?.into_owned())
}

fn parse_host(text: &str) -> Result<(String, Option<u16>), String> {
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
        "0.0.0.0" | "[::]" => return Err("is a wildcard address; use the address of the server".into()),
        _ if !well_formed => return Err("invalid host; expected a name or an address (IPv6: [::1])".into()),
        _ => {}
    }
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err("invalid port; expected 1 to 65535".into()),
    };
    Ok((ipv6.unwrap_or(host).to_owned(), port))
}

/// Splits into the path and whether the query requires certificate verification.
fn parse_query(tail: &str) -> Result<(&str, bool), String> {
    if tail.contains('#') {
        return Err(format!("a fragment (`#`) is not supported: {VERIFICATION}"));
    }
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    match query.split_once('=') {
        None if query.is_empty() => Ok((path, false)),
        Some(("ssl_cert_reqs", "required" | "CERT_REQUIRED")) => Ok((path, true)),
        Some(("ssl_cert_reqs", _)) => Err(format!("`ssl_cert_reqs` can only be `required`: {VERIFICATION}")),
        _ => Err("unknown query parameter; only `ssl_cert_reqs=required` is supported".into()),
    }
}

const VERIFICATION: &str = "a URL cannot disable certificate verification; `insecure_skip_verify = true` in \
                            [redis.NAME] does";

fn parse_database(number: &str) -> Result<u32, String> {
    number.parse().map_err(|_| "invalid database number after the host; expected for example /0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_urls_of_managed_services() {
        let token = "aB3!&#^<>-$?%{}|'()*+,;=[]~`._:XyZ0123456789".repeat(2);
        for (url, user, password) in [
            (format!("rediss://:{token}@host.example:6380/0"), None, token.as_str()),
            (format!("rediss://default:{token}@host.example:6380"), Some("default"), token.as_str()),
            ("redis://bob:a%40%2fb%25@host.example:6380".to_owned(), Some("bob"), "a@/b%"),
            ("redis://b%40b:a%zz@host.example:6380".to_owned(), Some("b@b"), "a%zz"),
        ] {
            let address = Address::parse(&url).unwrap();
            assert_eq!((address.username.as_deref(), address.password.as_deref()), (user, Some(password)));
            assert_eq!(address.host_port(), "host.example:6380");
            assert_eq!(Address::parse(&address.url()).unwrap().url(), address.url());
        }
    }

    #[test]
    fn parses_the_url_of_a_unix_socket() {
        let address = Address::parse("redis+unix://:hunter2@/run/re%20dis.sock?db=3&user=bob").unwrap();
        assert_eq!(address.endpoint, ServerEndpoint::Unix("/run/re dis.sock".into()));
        assert_eq!((address.database, address.username.as_deref()), (Some(3), Some("bob")));
        assert_eq!(address.to_string(), "unix://***@/run/re%20dis.sock?db=3");
        assert_eq!(address.location(), "unix:///run/re dis.sock");
        assert_eq!(Address::parse(&address.url()).unwrap(), address);
        assert_eq!(Address::parse("unix:///a/b?pass=x").unwrap().password.as_deref(), Some("x"));
        for url in ["unix://a/b", "unix://", "unix:///", "unix:///a?dbase=1", "unix:///a?db=x"] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn rejects_a_url_that_disables_verification() {
        for query in ["none", "optional", "CERT_NONE"] {
            let error = Address::parse(&format!("rediss://h?ssl_cert_reqs={query}")).unwrap_err();
            assert!(error.contains("insecure_skip_verify = true"), "{error}");
        }
        assert!(Address::parse("rediss://h#insecure").unwrap_err().contains("insecure_skip_verify"));
        assert!(Address::parse("rediss://h/0?ssl_cert_reqs=CERT_REQUIRED").unwrap().verify);
    }

    #[test]
    fn credentials_are_never_shown() {
        let address = Address::parse("rediss://bob:s3cret@h.example:1/0").unwrap();
        let all = format!("{address} {address:?} {} {}", address.location(), redacted(&address.url()));
        assert!(!all.contains("s3cret") && !all.contains("bob"), "{all}");
        assert_eq!(redacted("rediss://bob:s3cret@[::1]"), "rediss://[::1]:6379");
        assert_eq!(redacted("bob:s3cret"), "(not a Redis URL)");
    }
}

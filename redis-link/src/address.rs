//! The address of a Redis server, as a URL.
//!
//! Owns which URLs are accepted, and what each part of one means. Must never show a secret: neither `Debug` nor an error
//! holds what stands before the `@`.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The port of a server whose URL names none.
const PORT: u16 = 6379;

/// What stands where a user and a password would.
const MASK: &str = "***";

/// What a path keeps as it is.
const IN_PATH: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// Where a server is, and as whom one signs in there.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Where it is.
    pub place: Place,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether the URL says that certificates are to be verified, which makes sense with TLS alone.
    pub verify: bool,
    /// The ACL user; `None`: the default one.
    pub username: Option<String>,
    /// The password, if the URL says one.
    pub password: Option<String>,
    /// The database number; `None`: 0.
    pub database: Option<u32>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the network. An IPv6 address stands without brackets.
    Tcp {
        /// Name or address.
        host: String,
        /// The port; `None`: 6379.
        port: Option<u16>,
    },
    /// On a socket of this machine.
    Unix(PathBuf),
}

/// A URL as it may appear in logs: `scheme://host:port`.
pub fn shown(url: &str) -> String {
    Address::parse(url).map_or_else(|_| "(not a Redis URL)".to_owned(), |address| address.location())
}

impl Address {
    /// Reads `redis://[[user]:password@]host[:port][/database]`, `rediss://` for TLS, or `unix:///path` with the database
    /// in a query (`?db=1`).
    ///
    /// # Errors
    /// What is wrong with it, without showing it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or(EXPECTED)?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') {
            return Err("holds characters that a URL cannot; percent-encode them (a space is %20)".into());
        }
        match scheme {
            "redis" => parse_tcp(rest, false),
            "rediss" => parse_tcp(rest, true),
            "unix" | "redis+unix" => parse_unix(rest),
            _ => Err(EXPECTED.into()),
        }
    }

    /// A server by its host alone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_host(host: &str) -> Result<Self, String> {
        let bracketed = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.into() };
        let (host, port) = parse_host(&bracketed)?;
        if port.is_some() {
            return Err("is a host without a port; the port has a variable of its own".into());
        }
        Ok(Self::at(host, None))
    }

    /// A server without a password, on its first database.
    pub(super) fn at(host: String, port: Option<u16>) -> Self {
        let place = Place::Tcp { host, port };
        Self { place, tls: false, verify: false, username: None, password: None, database: None }
    }

    /// Reads `host:port`, with a port of its own when none is written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn host_and_port(text: &str, otherwise: u16) -> Result<(String, u16), String> {
        let (host, port) = parse_host(text)?;
        Ok((host, port.unwrap_or(otherwise)))
    }

    /// The URL that reads back as this address, secrets included.
    pub fn url(&self) -> String {
        let encoded = |text: &Option<String>| {
            text.as_deref().map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string())
        };
        let (user, password) = (encoded(&self.username).unwrap_or_default(), encoded(&self.password));
        let credentials = password.map(|password| format!("{user}:{password}@")).unwrap_or_default();
        self.with_credentials(&credentials)
    }

    /// Without user, password and database: `scheme://host:port`.
    pub fn location(&self) -> String {
        match &self.place {
            Place::Tcp { .. } => format!("{}://{}", self.scheme(), self.host_port()),
            Place::Unix(path) => format!("unix://{}", path.display()),
        }
    }

    /// `host:port`, an IPv6 address in brackets; or the path of the socket.
    pub fn host_port(&self) -> String {
        match &self.place {
            Place::Tcp { host, port } if host.contains(':') => format!("[{host}]:{}", port.unwrap_or(PORT)),
            Place::Tcp { host, port } => format!("{host}:{}", port.unwrap_or(PORT)),
            Place::Unix(path) => path.display().to_string(),
        }
    }

    /// The port that is dialled.
    pub(super) fn port(port: Option<u16>) -> u16 {
        port.unwrap_or(PORT)
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "rediss" } else { "redis" }
    }

    fn with_credentials(&self, credentials: &str) -> String {
        let database = self.database.unwrap_or(0);
        match &self.place {
            Place::Tcp { .. } => {
                let verify = if self.verify { "?ssl_cert_reqs=required" } else { "" };
                format!("{}://{credentials}{}/{database}{verify}", self.scheme(), self.host_port())
            }
            Place::Unix(path) => {
                let path = path.to_string_lossy();
                format!("unix://{credentials}{}?db={database}", utf8_percent_encode(&path, &IN_PATH))
            }
        }
    }
}

impl fmt::Display for Address {
    /// The URL with user and password hidden.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = Self { verify: false, ..self.clone() };
        let credentials = if self.password.is_some() { format!("{MASK}@") } else { String::new() };
        f.write_str(&hidden.with_credentials(&credentials))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const EXPECTED: &str =
    "expected redis://host:port/database, rediss:// for TLS, or unix:///path for a socket of this machine";
const ENCODE: &str = "percent-encode in user and password: `@` is %40, `/` is %2F, `%` is %25";

fn parse_tcp(rest: &str, tls: bool) -> Result<Address, String> {
    // Tokens of managed services hold `#` and `?` as they are: up to the `@`, these mean themselves.
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
    Ok(Address { place: Place::Tcp { host, port }, tls, verify, username, password, database })
}

fn parse_unix(rest: &str) -> Result<Address, String> {
    let (credentials, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let credentials = match credentials.strip_suffix('@') {
        Some(credentials) => parse_credentials(credentials)?,
        None if credentials.is_empty() => (None, None),
        None => return Err("a socket is written with its whole path: unix:///run/redis.sock".into()),
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if path.len() < 2 {
        return Err("has no path; expected unix:///run/redis.sock".into());
    }
    let place = Place::Unix(decoded(path)?.into());
    let (username, password) = credentials;
    let mut address = Address { place, tls: false, verify: false, username, password, database: None };
    for (key, value) in
        query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| pair.split_once('='))
    {
        match key {
            "db" => address.database = Some(parse_database(value)?),
            "user" | "username" => address.username = Some(decoded(value)?),
            "pass" | "password" => address.password = Some(decoded(value)?),
            _ => return Err("after the `?` of a socket, only `db`, `user` and `pass` are known".into()),
        }
    }
    Ok(address)
}

fn parse_credentials(credentials: &str) -> Result<(Option<String>, Option<String>), String> {
    let masked = || format!("`{MASK}` only stands for a hidden password: give the password itself");
    let Some((user, password)) = credentials.split_once(':') else {
        return Err(match credentials {
            MASK => masked(),
            _ => "has a user but no password; a password alone is written redis://:password@host".into(),
        });
    };
    match password {
        "" => Err("the password is empty; without one, leave everything up to the `@` out".into()),
        MASK => Err(masked()),
        _ => Ok(((!user.is_empty()).then(|| decoded(user)).transpose()?, Some(decoded(password)?))),
    }
}

/// A lone `%` means itself.
fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| "what is percent-encoded is not UTF-8")?.into_owned())
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
        "0.0.0.0" | "[::]" => return Err("names every address of this machine; name the server's".into()),
        _ if !well_formed => return Err("the host is neither a name nor an address (IPv6: [::1])".into()),
        _ => {}
    }
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err("the port is not a number from 1 to 65535".into()),
    };
    Ok((ipv6.unwrap_or(host).to_owned(), port))
}

/// The path, and whether certificates were said to be verified.
fn parse_query(tail: &str) -> Result<(&str, bool), String> {
    if tail.contains('#') {
        return Err(format!("nothing may follow a `#`: {NOT_BY_URL}"));
    }
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    match query.split_once('=') {
        None if query.is_empty() => Ok((path, false)),
        Some(("ssl_cert_reqs", "required" | "CERT_REQUIRED")) => Ok((path, true)),
        Some(("ssl_cert_reqs", _)) => Err(format!("`ssl_cert_reqs` can only be `required`: {NOT_BY_URL}")),
        _ => Err("after the `?`, only `ssl_cert_reqs=required` is known".into()),
    }
}

const NOT_BY_URL: &str = "no URL switches the verification of certificates off; where it must be, \
                          `insecure_skip_verify = true` in [redis.NAME] does";

fn parse_database(number: &str) -> Result<u32, String> {
    number.parse().map_err(|_| "what follows the host is not a database number, such as /0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_managed_services_hand_out_is_read_whole() {
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
    fn a_socket_has_a_path_and_its_database_in_the_query() {
        let address = Address::parse("redis+unix://:hunter2@/run/re%20dis.sock?db=3&user=bob").unwrap();
        assert_eq!(address.place, Place::Unix("/run/re dis.sock".into()));
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
    fn verification_cannot_be_switched_off_here() {
        for query in ["none", "optional", "CERT_NONE"] {
            let told = Address::parse(&format!("rediss://h?ssl_cert_reqs={query}")).unwrap_err();
            assert!(told.contains("insecure_skip_verify = true"), "{told}");
        }
        assert!(Address::parse("rediss://h#insecure").unwrap_err().contains("insecure_skip_verify"));
        assert!(Address::parse("rediss://h/0?ssl_cert_reqs=CERT_REQUIRED").unwrap().verify);
    }

    #[test]
    fn nothing_shows_a_secret() {
        let address = Address::parse("rediss://bob:s3cret@h.example:1/0").unwrap();
        let all = format!("{address} {address:?} {} {}", address.location(), shown(&address.url()));
        assert!(!all.contains("s3cret") && !all.contains("bob"), "{all}");
        assert_eq!(shown("rediss://bob:s3cret@[::1]"), "rediss://[::1]:6379");
        assert_eq!(shown("bob:s3cret"), "(not a Redis URL)");
    }
}

//! The URL of a Redis server.
//!
//! Owns the original text and the parsed address. Must never show the part before the `@`, not even of an invalid URL.

use std::fmt;

use earshot_redis_link::address::{Address, ServerEndpoint};

/// A valid URL of a Redis server. Formatting it redacts user and password.
#[derive(Clone)]
pub struct RedisUrl {
    full: String,
    address: Address,
}

impl RedisUrl {
    /// Parses `redis://[[user]:password@]host[:port][/database]`, `rediss://` for TLS, or `unix:///path`.
    ///
    /// # Errors
    /// If it is invalid. The message does not contain the URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { full: text.into(), address: Address::parse(text)? })
    }

    /// The default server: `redis://127.0.0.1:6379`.
    pub(super) fn local() -> Self {
        Self::of(Address {
            endpoint: ServerEndpoint::Tcp { host: "127.0.0.1".into(), port: Some(6379) },
            tls: false,
            verify: false,
            username: None,
            password: None,
            database: None,
        })
    }

    /// An address as a URL.
    pub(super) fn of(address: Address) -> Self {
        Self { full: address.url(), address }
    }

    /// The parsed address.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The URL including the password: for connecting, never for display.
    pub fn expose(&self) -> &str {
        &self.full
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.address, f)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.address, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: &str =
        "expected redis://host:port/database, rediss:// for TLS, or unix:///path for a Unix socket";
    const ENCODE: &str = "percent-encode the user and password: `@` is %40, `/` is %2F, `%` is %25";

    #[test]
    fn formatting_redacts_user_and_password() {
        for (text, shown) in [
            ("redis://localhost", "redis://localhost:6379/0"),
            ("redis://10.0.0.1:6380/2", "redis://10.0.0.1:6380/2"),
            ("redis://[::1]:6379/", "redis://[::1]:6379/0"),
            ("redis://[fe80::1]", "redis://[fe80::1]:6379/0"),
            ("redis://:hunter2@host/1", "redis://***@host:6379/1"),
            ("rediss://default:hunter2@my-db.upstash.io:6379", "rediss://***@my-db.upstash.io:6379/0"),
            ("rediss://u:hunter2@host?ssl_cert_reqs=required", "rediss://***@host:6379/0"),
            ("redis://u:hun%40ter2:x@host", "redis://***@host:6379/0"),
            ("redis://:hun#ter2?@host", "redis://***@host:6379/0"),
            ("unix://:hunter2@/run/redis.sock", "unix://***@/run/redis.sock?db=0"),
        ] {
            let url = RedisUrl::parse(text).unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.into(), shown.into()), "{text}");
            assert_eq!(url.expose(), text);
        }
    }

    #[test]
    fn errors_do_not_contain_the_url() {
        for (text, what) in [
            ("hunter2", EXPECTED),
            ("http://:hunter2@host", EXPECTED),
            ("redis://", "has no host; expected redis://host:port/database"),
            ("redis://:6379", "has no host; expected redis://host:port/database"),
            ("redis://:hunter2@", "has no host; expected redis://host:port/database"),
            ("redis://:hun ter2@host", "contains invalid characters; percent-encode them (a space is %20)"),
            ("redis://:hun/ter2@host", ENCODE),
            ("redis://:hun@ter2@host", ENCODE),
            (
                "redis://hunter2@host",
                "has a user but no password; a password without a user is written redis://:password@host",
            ),
            (
                "redis://hunter2:@host",
                "the password is empty; for no password, omit everything up to the `@`",
            ),
            ("redis://***@host", "`***` is a placeholder for a hidden password; set the actual password"),
            ("redis://:***@host", "`***` is a placeholder for a hidden password; set the actual password"),
            ("redis://0.0.0.0", "is a wildcard address; use the address of the server"),
            ("redis://::1:6379", "invalid host; expected a name or an address (IPv6: [::1])"),
            ("redis://[::1", "invalid host; expected a name or an address (IPv6: [::1])"),
            ("redis://host:0", "invalid port; expected 1 to 65535"),
            ("redis://host:", "invalid port; expected 1 to 65535"),
            ("redis://host:637900", "invalid port; expected 1 to 65535"),
            ("redis://host/hunter2", "invalid database number after the host; expected for example /0"),
            ("redis://host/0/1", "invalid database number after the host; expected for example /0"),
            (
                "redis://:hunter2@host?x=1",
                "unknown query parameter; only `ssl_cert_reqs=required` is supported",
            ),
        ] {
            let error = RedisUrl::parse(text).unwrap_err();
            assert_eq!(error, what, "{text}");
            assert!(!error.contains("hunter2"));
        }
    }
}

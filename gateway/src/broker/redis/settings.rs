//! What a Redis broker is told at start: addresses, time-outs, bounds.
//!
//! Owns the reading of Redis URLs. Must never show a secret: a URL leaves here only as `scheme://host:port`.

use std::fmt;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};

/// Settings of one Redis instance.
#[derive(Clone)]
pub struct RedisSettings {
    /// The instance's name in logs and metrics.
    pub name: String,
    /// Where commands go: `redis://` or `rediss://`.
    pub url: String,
    /// Where publications go and come from when pub/sub has an instance of its own; otherwise `url`.
    pub pubsub_url: Option<String>,
    /// The longest that one attempt to connect may take: resolving, TCP, TLS and sign-in together.
    pub connect_timeout: Duration,
    /// The longest that a command may wait for its answer, the time in our queue included.
    pub command_timeout: Duration,
    /// Upper bound of the first (jittered) wait between two attempts to connect; it doubles from there.
    pub retry_min: Duration,
    /// Upper bound of every wait between two attempts to connect.
    pub retry_max: Duration,
    /// Shortest wait after the server refused us (password, ACL, TLS), where haste helps nobody.
    pub refused_retry_min: Duration,
    /// Longest wait after the server refused us.
    pub refused_retry_max: Duration,
    /// How often each connection is asked whether it lives.
    pub ping_interval: Duration,
    /// How long it may take to answer before it is given up.
    pub ping_timeout: Duration,
    /// Publications that may wait between the link and the listener.
    pub handover_items: usize,
    /// Bytes that may wait between the link and the listener.
    pub handover_bytes: usize,
    /// The largest payload that is handed on; a larger one is a loss of its channel.
    pub message_bytes: usize,
    /// Topics in one `SUBSCRIBE`.
    pub subscribe_chunk: usize,
    /// Publications of ours that may wait for the server.
    pub queue_items: usize,
    /// Bytes of ours that may wait for the server.
    pub queue_bytes: usize,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            name: "redis".to_owned(),
            url: "redis://127.0.0.1:6379/0".to_owned(),
            pubsub_url: None,
            connect_timeout: Duration::from_secs(10),
            command_timeout: Duration::from_secs(5),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(2),
            refused_retry_min: Duration::from_secs(2),
            refused_retry_max: Duration::from_secs(10),
            ping_interval: Duration::from_secs(1),
            ping_timeout: Duration::from_secs(3),
            handover_items: 256 * 1024,
            handover_bytes: 64 * 1024 * 1024,
            message_bytes: 1024 * 1024,
            subscribe_chunk: 500,
            queue_items: 16 * 1024,
            queue_bytes: 64 * 1024 * 1024,
        }
    }
}

impl RedisSettings {
    /// Where publications go and come from.
    pub(super) fn pubsub_url(&self) -> &str {
        self.pubsub_url.as_deref().unwrap_or(&self.url)
    }
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("name", &self.name)
            .field("url", &shown(&self.url))
            .field("pubsub_url", &self.pubsub_url.as_deref().map(shown))
            .field("connect_timeout", &self.connect_timeout)
            .field("command_timeout", &self.command_timeout)
            .field("ping_interval", &self.ping_interval)
            .finish_non_exhaustive()
    }
}

/// Checks a Redis URL without connecting. The error says what is wrong and never repeats the URL.
///
/// # Errors
/// A sentence for the person who wrote the URL.
pub fn validate(url: &str) -> Result<(), String> {
    parse(url).map(|_| ())
}

/// A URL as it may appear in logs: `scheme://host:port`.
pub(super) fn shown(url: &str) -> String {
    let Some(parsed) = redis::parse_redis_url(&lenient(url)) else {
        return "(not a Redis URL)".to_owned();
    };
    let host = parsed.host_str().unwrap_or("?");
    format!("{}://{host}:{}", parsed.scheme(), parsed.port().unwrap_or(6379))
}

/// Reads a URL into what the client needs.
pub(super) fn parse(url: &str) -> Result<ConnectionInfo, String> {
    let parsed = redis::parse_redis_url(&lenient(url))
        .ok_or("it is not a URL of the form redis://user:password@host:port/database")?;
    if !matches!(parsed.scheme(), "redis" | "rediss") {
        return Err(format!("the scheme is {}, but only redis and rediss are spoken", parsed.scheme()));
    }
    if parsed.fragment().is_some() {
        return Err("it has a #fragment; certificates cannot be left unverified by URL".to_owned());
    }
    for (key, value) in parsed.query_pairs() {
        if key == "ssl_cert_reqs" && value != "required" {
            return Err("ssl_cert_reqs must be `required`: certificates are always verified".to_owned());
        }
    }
    // The client's errors name what is wrong and quote at most the database number.
    parsed.into_connection_info().map_err(|error| error.to_string())
}

/// Escapes what a managed service's token may hold (`#`, `?`, a lone `%`) but a URL's user part may not.
fn lenient(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split('/').next().unwrap_or(rest);
    let Some(at) = authority.rfind('@') else { return url.to_owned() };
    let (user, tail) = rest.split_at(at);
    let mut escaped = String::with_capacity(url.len());
    for (index, character) in user.char_indices() {
        match character {
            '#' => escaped.push_str("%23"),
            '?' => escaped.push_str("%3F"),
            '%' if !is_escape(&user.as_bytes()[index + 1..]) => escaped.push_str("%25"),
            other => escaped.push(other),
        }
    }
    format!("{scheme}://{escaped}{tail}")
}

fn is_escape(after: &[u8]) -> bool {
    after.len() >= 2 && after[..2].iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_managed_services_hand_out() {
        for url in [
            "redis://127.0.0.1:6379",
            "redis://localhost",
            "redis://[::1]:6380/3",
            "rediss://default:to%6ben@host.example:6380/0",
            "rediss://:token@host.example?ssl_cert_reqs=required",
            "rediss://default:a#b?c%d@host.example:6380",
        ] {
            assert_eq!(validate(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn a_token_with_url_characters_is_read_whole() {
        let info = parse("rediss://default:a#b?c%d%41@host.example:6380").unwrap();
        assert_eq!(info.redis_settings().password(), Some("a#b?c%dA"));
        assert_eq!(info.addr().to_string(), "host.example:6380");
    }

    #[test]
    fn refuses_with_a_reason_and_without_the_secret() {
        for url in [
            "",
            "s3cret",
            "http://u:s3cret@h",
            "unix:///tmp/s3cret",
            "redis://:s3cret@h:notaport",
            "redis://:s3cret@h/notanumber",
            "rediss://:s3cret@h#insecure",
            "rediss://:s3cret@h?ssl_cert_reqs=none",
        ] {
            let reason = validate(url).expect_err(url);
            assert!(!reason.contains("s3cret"), "{url}: {reason}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let settings = RedisSettings {
            url: "rediss://bob:s3cret@h.example:1/0".to_owned(),
            pubsub_url: Some("redis://:s3cret#x@p.example".to_owned()),
            ..RedisSettings::default()
        };
        let debug = format!("{settings:?}");
        assert!(!debug.contains("s3cret") && !debug.contains("bob"), "{debug}");
        assert!(
            debug.contains("rediss://h.example:1") && debug.contains("redis://p.example:6379"),
            "{debug}"
        );
    }
}

//! The address of a Redis server, as a URL.
//!
//! Owns the reading of URLs. Must never show a secret: a URL leaves here only as `scheme://host:port`.

use redis::{ConnectionInfo, IntoConnectionInfo};

/// A URL as it may appear in logs: `scheme://host:port`.
pub fn shown(url: &str) -> String {
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
            assert_eq!(parse(url).err(), None, "{url}");
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
            let reason = parse(url).expect_err(url);
            assert!(!reason.contains("s3cret"), "{url}: {reason}");
        }
    }
}

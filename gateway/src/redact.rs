//! Redacts credentials in URLs.
//!
//! Finds URLs with credentials in any text that is displayed: a diagnostic, a log line, a report. This is the last
//! defence, for a URL in an unexpected place; known secrets are masked by their own types.

use std::borrow::Cow;

/// The replacement of credentials.
const MASK: &str = "***";

/// Characters that end a token: white space, quotes, the backslash of escaped quotes, and separators of values.
const ENDS: [char; 12] = [' ', '\t', '\\', '"', '\'', '`', ',', ';', '(', ')', '<', '>'];

/// Placeholders for credentials in the gateway's own messages.
const EXAMPLES: [&str; 2] = [":password", "[[user]:password"];

/// Returns the text with `***` instead of user and password in each URL.
pub fn urls(text: &str) -> Cow<'_, str> {
    by_line(text, "://", url_line)
}

/// Like [`urls`], and also redacts addresses without a scheme (`:password@host`). Use it only for texts without names
/// of keys or channels, which may look like such addresses.
pub fn addresses(text: &str) -> Cow<'_, str> {
    match urls(text) {
        Cow::Borrowed(text) => by_line(text, "@", address_line),
        Cow::Owned(text) => Cow::Owned(by_line(&text, "@", address_line).into_owned()),
    }
}

fn by_line<'t>(text: &'t str, mark: &str, line: fn(&str) -> String) -> Cow<'t, str> {
    if !text.contains(mark) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.split('\n').map(line).collect::<Vec<_>>().join("\n"))
}

fn url_line(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find("://").map(|at| at + "://".len()) {
        let (head, tail) = rest.split_at(start);
        shown.push_str(head);
        rest = tail;
        let token = first_token(rest);
        // A password may contain any character, including those that end a token. Everything before the last `@` in
        // front of the next URL counts as credentials, unless the token is a host without a port.
        let next_url = rest.find("://").unwrap_or(rest.len());
        let end = match rest[..token.len().max(next_url)].rfind('@') {
            Some(at) if EXAMPLES.contains(&&rest[..at]) => 0,
            Some(_) if is_host(token) && !token.contains(':') => 0,
            Some(at) => at,
            None if is_host(token) => 0,
            None if !is_cut_off(token) => 0,
            None => rest.rfind('@').unwrap_or(token.trim_end_matches('…').len()),
        };
        if end > 0 {
            shown.push_str(MASK);
            rest = &rest[end..];
        }
    }
    shown + rest
}

fn address_line(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while !rest.is_empty() {
        let token = first_token(rest);
        match token.rsplit_once('@') {
            Some((credentials, host)) if credentials.contains(':') && !token.contains("://") => {
                shown.extend([MASK, "@", host]);
            }
            _ => shown.push_str(token),
        }
        rest = &rest[token.len()..];
        let end = rest.chars().next().map_or(0, char::len_utf8);
        shown.push_str(&rest[..end]);
        rest = &rest[end..];
    }
    shown
}

fn first_token(text: &str) -> &str {
    &text[..text.find(ENDS).unwrap_or(text.len())]
}

/// Whether a token without `@` may be the beginning of credentials (`user:password`) in a truncated text.
fn is_cut_off(token: &str) -> bool {
    token.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains(':'))
}

/// Whether the part of a URL after the scheme is a host, optionally with port and path, or a placeholder for a host.
fn is_host(text: &str) -> bool {
    let authority = text.split(['/', '?', '#']).next().unwrap_or_default();
    let is_name =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_*[]:{}".contains(&byte));
    let is_port =
        |text: &str| (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_server = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => !host.is_empty() && is_name(host) && is_port(port),
        _ => is_name(authority),
    };
    !text.contains('@') && (is_server || authority.starts_with("host:port") || authority.starts_with("host["))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn redacts_credentials_only() {
        for (text, shown) in [
            ("", ""),
            ("found \"redis://:hunter2@host:1/0\"; why", "found \"redis://***@host:1/0\"; why"),
            ("redis://u:hunter2@a, rediss://u:hunter2@b", "redis://***@a, rediss://***@b"),
            ("redis://a:6379/0, redis://***@[::1]:6379/0", "redis://a:6379/0, redis://***@[::1]:6379/0"),
            ("redis://:hun/ter2@host", "redis://***@host"),
            ("redis://:hun ter\"2@host\nredis://h", "redis://***@host\nredis://h"),
            ("found \"redis://:hunter2-and-much-mo…\"", "found \"redis://***…\""),
            ("redis://u:hunter2", "redis://***"),
            (
                "https://app.example.com:8443/a?b=c, unix:///run/redis.sock",
                "https://app.example.com:8443/a?b=c, unix:///run/redis.sock",
            ),
            ("expected redis://host:port/database", "expected redis://host:port/database"),
            ("written redis://:password@host", "written redis://:password@host"),
            (r#"= [\"https://app.example\"] http://$host/"#, r#"= [\"https://app.example\"] http://$host/"#),
            ("wss://[fe80::1]/ws http://{host}/", "wss://[fe80::1]/ws http://{host}/"),
        ] {
            assert_eq!(urls(text), shown, "{text}");
            assert_eq!(urls(&urls(text)), shown, "{text}");
        }
    }

    #[test]
    fn redacts_addresses_without_a_scheme() {
        assert_eq!(addresses("seed \":hunter2@host:7000\" is wrong"), "seed \"***@host:7000\" is wrong");
        assert_eq!(addresses("`__keyevent@*`, a@b.example"), "`__keyevent@*`, a@b.example");
        assert_eq!(urls("key user:7@example.com"), "key user:7@example.com");
    }

    proptest! {
        #[test]
        fn redacts_any_password(user in "[a-z]{0,5}", password in "[ -~é]{6,30}", before in "[ -~]{0,20}", after in "[ -?A-~]{0,20}") {
            let shown = urls(&format!("{before} redis://{user}:{password}@host{after}")).into_owned();
            // Text outside the URL is not redacted.
            prop_assume!(!before.contains(&password) && !after.contains(&password));
            prop_assert!(!shown.contains(&password), "{}", shown);
        }

        #[test]
        fn accepts_any_text(text in "\\PC{0,80}") {
            let _ = addresses(&text);
        }
    }
}

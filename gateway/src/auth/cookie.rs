//! Finds cookies in header fields.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// Maximum number of matching cookies to try: each may require an HMAC with every secret.
const COOKIES_MAX: usize = 8;
/// Maximum size of a cookie value. Browsers store at most 4096 bytes of name and value.
const VALUE_BYTES_MAX: usize = 4096;

/// The cookies that have one of the names: name and value, in the order of the request.
///
/// `headers` are the values of the `Cookie` header fields, of which HTTP/2 sends several. Quotes around a value are
/// removed.
pub fn values<'c, 'n>(
    headers: impl Iterator<Item = &'c [u8]>,
    names: &'n [String],
) -> impl Iterator<Item = (&'n str, &'c [u8])> {
    let pairs = headers.flat_map(|header| header.split(|byte| *byte == b';'));
    let values = pairs.filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let name = pair[..at].trim_ascii();
        let name = names.iter().find(|wanted| wanted.as_bytes() == name)?;
        Some((name.as_str(), unquoted(pair[at + 1..].trim_ascii())))
    });
    values.take(COOKIES_MAX).filter(|(_, value)| value.len() <= VALUE_BYTES_MAX)
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// A value as text, percent-decoded; `None` if it is not UTF-8.
pub fn decode(value: &[u8]) -> Option<Cow<'_, str>> {
    percent_decode(value).decode_utf8().ok()
}

/// Whether a text can be the name of a cookie: a token of RFC 9110.
pub fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_all_cookies_of_a_name() {
        let headers =
            [&b"a=1; sid=x;sid = \"y\" ; Sid=no; sidx=no; sid"[..], b"sid=z=; ;=; sid=", b"\xff=\xff"];
        let found: Vec<_> =
            values(headers.into_iter(), &["sid".to_owned()]).map(|(_, value)| value).collect();
        assert_eq!(found, [&b"x"[..], b"y", b"z=", b""]);
    }

    #[test]
    fn the_work_of_a_request_is_bounded() {
        let many = [&b"sid=a; "[..]; 100].concat();
        assert_eq!(values([&many[..]].into_iter(), &["sid".to_owned()]).count(), COOKIES_MAX);
        let long = [&b"sid="[..], &[b'a'; VALUE_BYTES_MAX + 1]].concat();
        assert_eq!(values([&long[..]].into_iter(), &["sid".to_owned()]).count(), 0);
    }

    #[test]
    fn decodes_percent_encoding() {
        assert_eq!(decode(b"s%3Aa%2Bb+c%"), Some(Cow::Borrowed("s:a+b+c%")));
        assert_eq!(decode(b"%ff"), None);
    }

    #[test]
    fn names_are_tokens() {
        assert!(is_name("__Secure-better-auth.session_token"));
        for text in ["", "a b", "a=b", "a;b", "é", "a\n"] {
            assert!(!is_name(text), "{text}");
        }
    }
}

//! JSON pointers (RFC 6901), which name values in a session or in the claims of a token.

/// A JSON pointer with at least one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer(Vec<String>);

/// The text is not a JSON pointer with at least one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InvalidPointer(pub(super) String);

impl Pointer {
    /// Parses a pointer.
    ///
    /// # Errors
    /// The text does not start with `/`, or contains a `~` that is not followed by 0 or 1.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidPointer> {
        let invalid = || InvalidPointer(text.to_owned());
        let tokens = text.strip_prefix('/').ok_or_else(invalid)?.split('/').map(unescape);
        tokens.collect::<Option<Vec<_>>>().map(Self).ok_or_else(invalid)
    }

    /// The tokens, unescaped.
    pub(super) fn tokens(&self) -> &[String] {
        &self.0
    }
}

fn unescape(token: &str) -> Option<String> {
    let mut parts = token.split('~');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let (character, rest) = match part.as_bytes().first()? {
            b'0' => ('~', &part[1..]),
            b'1' => ('/', &part[1..]),
            _ => return None,
        };
        text.push(character);
        text.push_str(rest);
    }
    Some(text)
}

/// Parses a token as an array index: decimal digits without leading zeros.
pub(super) fn index(token: &str) -> Option<usize> {
    let is_index =
        token.bytes().all(|byte| byte.is_ascii_digit()) && (token == "0" || !token.starts_with('0'));
    if is_index { token.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_pointers_of_rfc_6901() {
        let tokens = |text: &str| Pointer::parse(text).map(|pointer| pointer.tokens().join(" | "));
        for (text, expected) in [
            ("/passport/user", "passport | user"),
            ("/", ""),
            ("/a~1b/m~0n/~01", "a/b | m~n | ~1"),
            ("/0//x", "0 |  | x"),
        ] {
            assert_eq!(tokens(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "passport", "/a~", "/a~2", "#/a"] {
            assert_eq!(tokens(text), Err(InvalidPointer(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn indexes_have_no_leading_zeros() {
        for (token, expected) in
            [("0", Some(0)), ("12", Some(12)), ("01", None), ("", None), ("-1", None), ("+1", None)]
        {
            assert_eq!(index(token), expected, "{token}");
        }
        assert_eq!(index("99999999999999999999999"), None);
    }
}

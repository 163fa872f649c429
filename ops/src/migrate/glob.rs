//! Glob patterns for keys, which are bytes.
//!
//! Owns `*`, `?` and `\`. Must never assume that a key is UTF-8.

/// Pattern that must match a whole key.
#[derive(Clone, Debug)]
pub(super) struct Glob {
    /// Bytes before the first wildcard.
    literal: Vec<u8>,
    rest: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Byte(u8),
    One,
    Any,
}

impl Glob {
    /// Parses a pattern; a pattern without a wildcard is a prefix.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let mut parts = parts(text)?;
        if parts.iter().all(|part| matches!(part, Part::Byte(_))) {
            if parts.is_empty() {
                return Err("the pattern is empty: `*` matches every key".to_owned());
            }
            parts.push(Part::Any);
        }
        let split = parts.iter().position(|part| !matches!(part, Part::Byte(_))).unwrap_or(parts.len());
        let rest = parts.split_off(split);
        let literal =
            parts.iter().filter_map(|part| if let Part::Byte(byte) = part { Some(*byte) } else { None });
        Ok(Self { literal: literal.collect(), rest })
    }

    /// Literal prefix of all matching keys.
    pub(super) fn literal(&self) -> &[u8] {
        &self.literal
    }

    pub(super) fn matches(&self, key: &[u8]) -> bool {
        key.strip_prefix(self.literal.as_slice()).is_some_and(|tail| matches(&self.rest, tail))
    }
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        parts.push(match byte {
            b'*' => Part::Any,
            b'?' => Part::One,
            b'\\' => Part::Byte(bytes.next().ok_or("the pattern ends with `\\`")?),
            other => Part::Byte(other),
        });
    }
    parts.dedup_by(|next, part| *next == Part::Any && *part == Part::Any);
    Ok(parts)
}

/// Backtracks only to the last `*`, so the time is at most quadratic.
fn matches(parts: &[Part], key: &[u8]) -> bool {
    let (mut part, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < key.len() {
        match parts.get(part) {
            Some(Part::Any) => {
                star = Some((part, at));
                part += 1;
            }
            Some(Part::One) => (part, at) = (part + 1, at + 1),
            Some(Part::Byte(byte)) if *byte == key[at] => (part, at) = (part + 1, at + 1),
            _ => {
                let Some((any, from)) = star else { return false };
                star = Some((any, from + 1));
                (part, at) = (any + 1, from + 1);
            }
        }
    }
    parts[part..].iter().all(|part| *part == Part::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_keys() {
        for (pattern, key, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("a:", "a:1", true),
            ("a:", "b:1", false),
            ("a:*", "a:", true),
            ("*:status", "user:1:status", true),
            ("*:status", "user:1:statuses", false),
            ("user:*:s*s", "user:1:s:ss", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a**c", "abbc", true),
            ("a*b*c", "aXbYbZc", true),
            ("\\*", "*x", true),
            ("\\*", "x", false),
            ("a\\?*", "a?b", true),
            ("a\\?*", "abb", false),
            ("{nest}:*", "{nest}:1", true),
        ] {
            assert_eq!(Glob::new(pattern).unwrap().matches(key.as_bytes()), expected, "{pattern} {key}");
        }
        assert!(Glob::new("*").unwrap().matches(b"\xff\x00"));
    }

    #[test]
    fn literal_prefix_ends_at_the_first_wildcard() {
        for (pattern, literal) in
            [("room:", "room:"), ("room:*", "room:"), ("a?b", "a"), ("*", ""), ("a\\*b*", "a*b")]
        {
            assert_eq!(Glob::new(pattern).unwrap().literal(), literal.as_bytes(), "{pattern}");
        }
    }

    #[test]
    fn invalid_patterns_are_rejected() {
        assert!(Glob::new("").is_err());
        assert!(Glob::new("a\\").is_err());
    }
}

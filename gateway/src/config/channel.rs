//! Patterns of channel names.
//!
//! Owns matching, and which pattern covers which. Must never know what a namespace does with its channels.

use std::fmt;

use earshot_protocol::ChannelName;
use wildmatch::WildMatch;

/// An exact channel name, or a glob: `*` is any run of characters (dots, colons and none at all included), `?` is one
/// character. Nothing else is special.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelPattern {
    /// As it was written.
    pub text: String,
    glob: Option<WildMatch>,
}

impl ChannelPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        // A glob follows the rules of a name, too: there is nothing else that it could match.
        ChannelName::parse(text).map_err(|error| error.to_string())?;
        let glob = text.contains(['*', '?']).then(|| WildMatch::new(text));
        Ok(Self { text: text.into(), glob })
    }

    /// Whether a channel is one of these.
    pub fn matches(&self, channel: &str) -> bool {
        self.glob.as_ref().map_or(self.text == channel, |glob| glob.matches(channel))
    }

    /// Whether it names one channel.
    pub fn is_exact(&self) -> bool {
        self.glob.is_none()
    }

    /// The pattern in the syntax of Redis' `PSUBSCRIBE`, where brackets and backslashes are special, too.
    /// Redis' `?` is one byte: it does not find a character beyond ASCII.
    pub fn as_redis_pattern(&self) -> String {
        let mut pattern = String::with_capacity(self.text.len());
        for letter in self.text.chars() {
            if matches!(letter, '[' | ']' | '\\') {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern
    }

    /// Whether every channel of the other pattern is one of these, too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self.is_exact(), other.is_exact()) {
            (_, true) => self.matches(&other.text),
            (true, false) => false,
            (false, false) => glob_covers(&ordered(&self.text), &ordered(&other.text)),
        }
    }
}

impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Equal globs written alike: in a run of wildcards, each `?` stands before the one `*`.
fn ordered(glob: &str) -> Vec<char> {
    let mut letters: Vec<char> = Vec::with_capacity(glob.len());
    for letter in glob.chars() {
        match (letter, letters.last()) {
            ('*', Some('*')) => {}
            ('?', Some('*')) => letters.insert(letters.len() - 1, '?'),
            _ => letters.push(letter),
        }
    }
    letters
}

/// Matches a glob against a glob, whose `*` only a `*` can match. One row of the table at a time, so that no pattern
/// makes it slow.
fn glob_covers(outer: &[char], inner: &[char]) -> bool {
    // reach[j]: the part of `outer` before this letter covers the first j letters of `inner`.
    let mut reach = vec![false; inner.len() + 1];
    reach[0] = true;
    for letter in outer {
        let mut next = vec![false; inner.len() + 1];
        next[0] = reach[0] && *letter == '*';
        for (j, other) in inner.iter().enumerate() {
            next[j + 1] = match letter {
                '*' => reach[j + 1] || next[j],
                '?' => reach[j] && *other != '*',
                letter => reach[j] && letter == other,
            };
        }
        reach = next;
    }
    reach[inner.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> ChannelPattern {
        ChannelPattern::parse(text).unwrap()
    }

    #[test]
    fn channels_match_exact_names_and_globs() {
        for (text, channel, matches) in [
            ("web-signals", "web-signals", true),
            ("web-signals", "web-signals2", false),
            ("*", "a.b:c/d", true),
            ("jobs:*", "jobs:1:progress", true),
            ("jobs:*", "jobs:", true),
            ("jobs:*", "job:1", false),
            ("room.?", "room.é", true),
            ("room.?", "room.", false),
            ("a[b]", "a[b]", true),
            ("a[b]*", "ab", false),
            ("*-*-*", "a-b", false),
        ] {
            assert_eq!(pattern(text).matches(channel), matches, "{text} and {channel}");
        }
        assert!(pattern("a[b]").is_exact());
        assert!(!pattern("a?").is_exact());
    }

    #[test]
    fn redis_takes_brackets_and_backslashes_literally() {
        assert_eq!(pattern(r"a[1]\*?").as_redis_pattern(), r"a\[1\]\\*?");
    }

    #[test]
    fn names_that_no_channel_can_have_are_refused() {
        for text in ["", "a\nb", "a\u{7f}", &"x".repeat(256)] {
            assert!(ChannelPattern::parse(text).is_err(), "{text:?}");
        }
        assert!(ChannelPattern::parse(&"x".repeat(255)).is_ok());
    }

    #[test]
    fn a_wider_pattern_covers_a_narrower_one() {
        for (outer, inner, covers) in [
            ("*", "web-*", true),
            ("web-*", "*", false),
            ("web-*", "web-signals", true),
            ("web-signals", "web-*", false),
            ("web-*", "web-*-x", true),
            ("a?c", "abc", true),
            ("a?c", "a*c", false),
            ("?*", "*?", true),
            ("*?*", "?", true),
            ("**", "*", true),
            ("*a*", "*b*", false),
            ("*a*", "*ba*c", true),
        ] {
            assert_eq!(pattern(outer).covers(&pattern(inner)), covers, "{outer} and {inner}");
        }
    }

    proptest! {
        #[test]
        fn what_is_covered_is_matched(outer in "[ab*?]{1,6}", inner in "[ab*?]{1,6}", name in "[abc]{1,8}") {
            let (outer, inner) = (pattern(&outer), pattern(&inner));
            if outer.covers(&inner) && inner.matches(&name) {
                prop_assert!(outer.matches(&name));
            }
        }
    }
}

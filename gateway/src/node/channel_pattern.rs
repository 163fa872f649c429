//! Patterns of channel names.
//!
//! Owns matching and covering. Must never know the settings of a namespace.

use std::fmt;
use std::sync::Arc;

use earshot_protocol::ChannelName;
use wildmatch::WildMatch;

use crate::auth::ChannelTemplate;

/// An exact channel name, or a glob: `*` matches any number of characters, including none and including dots and colons;
/// `?` matches one character; a placeholder such as `{user}` matches the value of a client. All other characters are literal.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelPattern {
    /// As in the configuration.
    pub text: String,
    glob: Option<WildMatch>,
    template: Option<ChannelTemplate>,
    /// The pattern in the syntax of the broker, if the broker subscribes to the pattern and not to names.
    pub(super) broker_pattern: Option<Arc<str>>,
}

impl ChannelPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// If it is not a valid channel name.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::with_placeholders(text, &[])
    }

    /// Parses a pattern in which these names in braces are placeholders.
    ///
    /// # Errors
    /// If it is not a valid channel name.
    pub fn with_placeholders(text: &str, placeholders: &[&str]) -> Result<Self, String> {
        // A glob must be a valid name: an invalid one cannot match any channel.
        ChannelName::parse(text).map_err(|error| error.to_string())?;
        let template = ChannelTemplate::parse(text, |name| placeholders.contains(&name));
        let glob = template.as_ref().map_or_else(|| text.to_owned(), ChannelTemplate::as_glob);
        let glob = glob.contains(['*', '?']).then(|| WildMatch::new(&glob));
        Ok(Self { text: text.into(), glob, template, broker_pattern: None })
    }

    /// Makes the broker subscribe to this pattern, in the syntax of the broker.
    #[must_use]
    pub fn subscribed_by(self, broker_pattern: Arc<str>) -> Self {
        Self { broker_pattern: Some(broker_pattern), ..self }
    }

    /// Whether it matches a channel. A placeholder matches any characters here, so that a channel with an illegal value
    /// does not fall through to the next namespace.
    pub fn matches(&self, channel: &str) -> bool {
        self.glob.as_ref().map_or(self.text == channel, |glob| glob.matches(channel))
    }

    /// The pattern as a template, if it has a placeholder.
    pub fn template(&self) -> Option<&ChannelTemplate> {
        self.template.as_ref()
    }

    /// The pattern as a glob; it may match more channels than a template does.
    pub fn as_glob(&self) -> String {
        self.template.as_ref().map_or_else(|| self.text.clone(), ChannelTemplate::as_glob)
    }

    /// Whether it is an exact name.
    pub fn is_exact(&self) -> bool {
        self.glob.is_none()
    }

    /// Whether it matches every channel that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.is_exact(), other.is_exact()) {
            (_, true) => self.matches(&other.text),
            (true, false) => false,
            (false, false) => glob_covers(&normalized(&self.as_glob()), &normalized(&other.as_glob())),
        }
    }
}

impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Normalizes a glob: in a sequence of wildcards, all `?` precede a single `*`.
fn normalized(glob: &str) -> Vec<char> {
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

/// Matches a glob against a glob, in which only a `*` matches a `*`. Takes time proportional to the product of the
/// lengths for every pattern.
fn glob_covers(outer: &[char], inner: &[char]) -> bool {
    // reach[j]: the part of `outer` before this character covers the first j characters of `inner`.
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
    fn rejects_invalid_channel_names() {
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
        fn a_covered_channel_is_matched(outer in "[ab*?]{1,6}", inner in "[ab*?]{1,6}", name in "[abc]{1,8}") {
            let (outer, inner) = (pattern(&outer), pattern(&inner));
            if outer.covers(&inner) && inner.matches(&name) {
                prop_assert!(outer.matches(&name));
            }
        }
    }
}

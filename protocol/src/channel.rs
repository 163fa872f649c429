//! Owns the name of a channel and the rules that make a text such a name.
//! Must never know which channels exist or who may hear them.

use std::{borrow::Borrow, fmt, sync::Arc};

/// The name of a channel, checked. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// Why a text is not a channel name.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum ChannelNameError {
    /// The text is empty.
    #[error("a channel name must not be empty")]
    Empty,
    /// The text is longer than [`ChannelName::MAX_BYTES`].
    #[error("a channel name has at most {} bytes, this one has {bytes}", ChannelName::MAX_BYTES)]
    TooLong {
        /// The length of the text.
        bytes: usize,
    },
    /// The text holds a control character, which would break the `event:` line of an SSE stream.
    #[error("a channel name must not hold a control character")]
    ControlCharacter,
}

impl ChannelName {
    /// The longest name, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 255;

    /// Checks a text.
    ///
    /// # Errors
    /// When the text is empty, too long, or holds a control character.
    pub fn parse(name: &str) -> Result<Self, ChannelNameError> {
        if name.is_empty() {
            return Err(ChannelNameError::Empty);
        }
        if name.len() > Self::MAX_BYTES {
            return Err(ChannelNameError::TooLong { bytes: name.len() });
        }
        if name.chars().any(char::is_control) {
            return Err(ChannelNameError::ControlCharacter);
        }
        Ok(Self(Arc::from(name)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AsRef<str> for ChannelName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_as_it_was_written() {
        for name in ["web-signals", "asl:title-screening", "#7", "комната", " "] {
            assert_eq!(ChannelName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn the_longest_name_passes_and_one_byte_more_does_not() {
        assert!(ChannelName::parse(&"x".repeat(255)).is_ok());
        assert_eq!(ChannelName::parse(&"x".repeat(256)), Err(ChannelNameError::TooLong { bytes: 256 }));
    }

    #[test]
    fn empty_names_and_control_characters_are_refused() {
        assert_eq!(ChannelName::parse(""), Err(ChannelNameError::Empty));
        for name in ["a\nb", "a\rb", "a\0b", "\u{7f}", "\u{85}"] {
            assert_eq!(ChannelName::parse(name), Err(ChannelNameError::ControlCharacter));
        }
    }
}

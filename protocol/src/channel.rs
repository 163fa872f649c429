//! Channel names and their validation. Which channels exist and who may subscribe is decided elsewhere.

use std::{borrow::Borrow, fmt, sync::Arc};

/// A valid channel name. Clones share the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// Why a channel name is invalid.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum ChannelNameError {
    /// The name is empty.
    #[error("a channel name must not be empty")]
    Empty,
    /// The name is longer than [`ChannelName::MAX_BYTES`].
    #[error("a channel name has at most {} bytes, this one has {bytes}", ChannelName::MAX_BYTES)]
    TooLong {
        /// The length of the name.
        bytes: usize,
    },
    /// The name contains a control character, which would break the `event:` line of an SSE stream.
    #[error("a channel name must not contain a control character")]
    ControlCharacter,
}

impl ChannelName {
    /// The maximum length of a name, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 255;

    /// Validates a channel name.
    ///
    /// # Errors
    /// When the name is empty, too long, or contains a control character.
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
    fn keeps_a_valid_name_unchanged() {
        for name in ["web-signals", "asl:title-screening", "#7", "комната", " "] {
            assert_eq!(ChannelName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn rejects_a_name_over_the_maximum_length() {
        assert!(ChannelName::parse(&"x".repeat(255)).is_ok());
        assert_eq!(ChannelName::parse(&"x".repeat(256)), Err(ChannelNameError::TooLong { bytes: 256 }));
    }

    #[test]
    fn rejects_empty_names_and_control_characters() {
        assert_eq!(ChannelName::parse(""), Err(ChannelNameError::Empty));
        for name in ["a\nb", "a\rb", "a\0b", "\u{7f}", "\u{85}"] {
            assert_eq!(ChannelName::parse(name), Err(ChannelNameError::ControlCharacter));
        }
    }
}

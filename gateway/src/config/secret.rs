//! Keys and passwords.
//!
//! Owns redaction. Must never return a secret except from [`Secret::expose`].

use std::fmt;

/// The text shown instead of a secret.
pub(super) const MASK: &str = "***";

/// A key or password. Formatting it shows `***`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Parses an API key.
    ///
    /// # Errors
    /// If it is invalid. The message does not contain it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the key is empty".into());
        }
        if text == MASK {
            return Err("`***` is a placeholder for a hidden key; set the actual key".into());
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "expected visible ASCII characters without spaces, because a key is sent in an HTTP header"
                    .into(),
            );
        }
        Ok(Self(text.into()))
    }

    /// Parses a password: any text except the mask.
    ///
    /// # Errors
    /// If it is the mask.
    pub fn password(text: &str) -> Result<Self, String> {
        if text == MASK {
            return Err("`***` is a placeholder for a hidden password; set the actual password".into());
        }
        Ok(Self(text.into()))
    }

    /// Parses a secret that signs cookies or tokens. In a file, it is one line.
    ///
    /// # Errors
    /// If it is empty, contains a line break, has white space at its start or end, or is the mask. The message does not
    /// contain it.
    pub fn signing(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the secret is empty".into());
        }
        if text == MASK {
            return Err("`***` is a placeholder for a hidden secret; set the actual secret".into());
        }
        if text.trim() != text || text.contains(['\r', '\n']) {
            return Err("a secret has no line breaks, and no white space at its start and end".into());
        }
        Ok(Self(text.into()))
    }

    /// The secret: for comparison and authentication, never for display.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

//! A text that nobody may read by accident.
//!
//! Owns the masking of secrets. Must never let one out by any other way than [`Secret::expose`].

use std::fmt;

/// What stands where a secret would.
pub(super) const MASK: &str = "***";

/// A key or password. Formatting it shows `***`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes an API key.
    ///
    /// # Errors
    /// What is wrong with it, without showing it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the key is empty".into());
        }
        if text == MASK {
            return Err("`***` only stands for a hidden key: give the key itself".into());
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a key travels in an HTTP header: visible ASCII characters only, no spaces".into());
        }
        Ok(Self(text.into()))
    }

    /// Takes a password, which may be anything but the mask.
    ///
    /// # Errors
    /// What is wrong with it, without showing it.
    pub fn password(text: &str) -> Result<Self, String> {
        if text == MASK {
            return Err("`***` is a placeholder for a hidden password; set the actual password".into());
        }
        Ok(Self(text.into()))
    }

    /// The secret itself: for comparing and for signing in, never for showing.
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

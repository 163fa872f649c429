//! A setting that is one of several words.
//!
//! Owns reading it and the error for any other word. Must never know what the words mean.

use super::document::{Located, Section, text_of};
use super::setting::shown;

/// Reads a key that takes one of these words. Any other value is a diagnostic and counts as absent.
pub(in crate::config) fn read<'d, T: Copy>(
    section: &mut Section<'d>,
    key: &'static str,
    choices: &[T],
    as_str: impl Fn(T) -> &'static str,
) -> Option<Located<'d, T>> {
    section.read(key, |value| {
        let text = text_of(value)?;
        let chosen = choices.iter().copied().find(|choice| as_str(*choice) == text);
        chosen.ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|choice| format!("\"{}\"", as_str(*choice))).collect();
            format!("expected {}, found {}", words.join(" or "), shown(value))
        })
    })
}

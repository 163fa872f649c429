//! A choice: one word out of a few.
//!
//! Owns how it is read, and what somebody is told who wrote another. Must never know what the words mean.

use super::document::{Found, Section, text_of};
use super::knob::shown;

/// Reads a key that takes one of these words. A wrong one is a problem of the document, and counts as absent.
pub(super) fn read<'d, T: Copy>(
    section: &mut Section<'d>,
    key: &'static str,
    choices: &[T],
    as_str: impl Fn(T) -> &'static str,
) -> Option<Found<'d, T>> {
    section.read(key, |value| {
        let text = text_of(value)?;
        let chosen = choices.iter().copied().find(|choice| as_str(*choice) == text);
        chosen.ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|choice| format!("\"{}\"", as_str(*choice))).collect();
            format!("expected {}, found {}", words.join(" or "), shown(value))
        })
    })
}

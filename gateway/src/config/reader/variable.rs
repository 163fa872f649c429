//! Environment variables that set keys of the file: `EARSHOT_SECTION__KEY`.
//!
//! Owns the path of keys in a name and the type of a value. Must never show a value, which may be a secret.

use std::fmt;

use toml::Spanned;
use toml::de::DeValue;

/// Separates sections and keys in the name of a variable.
const SEPARATOR: &str = "__";

/// A variable that sets one key of the file.
#[derive(Clone)]
pub(in crate::config) struct SettingVariable {
    /// The complete name.
    pub(in crate::config) name: String,
    /// The part of the name before the path.
    pub(super) prefix: &'static str,
    /// The sections and the key, in lower case.
    pub(super) path: Vec<String>,
    value: String,
}

impl SettingVariable {
    /// A variable whose name is `prefix` and a path.
    pub(in crate::config) fn new(prefix: &'static str, path: &str, value: String) -> Self {
        let keys = path.split(SEPARATOR).map(str::to_ascii_lowercase).collect();
        Self { name: format!("{prefix}{path}"), prefix, path: keys, value }
    }

    /// Whether the rest of a name contains a section.
    pub(in crate::config) fn has_section(path: &str) -> bool {
        path.contains(SEPARATOR)
    }

    /// The value as in the file. An integer, a boolean or a list is written as in TOML; any other text with commas is a
    /// list of strings, and one without is a string.
    pub(super) fn value(&self, at: usize) -> DeValue<'_> {
        let spanned = |value| Spanned::new(at..at, value);
        match DeValue::parse(&self.value).map(Spanned::into_inner) {
            Ok(DeValue::Array(list)) => {
                DeValue::Array(list.into_iter().map(Spanned::into_inner).map(spanned).collect())
            }
            Ok(value @ (DeValue::Integer(_) | DeValue::Boolean(_))) => value,
            _ if self.value.contains(',') => {
                let texts = self.value.split(',').map(|text| DeValue::String(text.trim().into()));
                DeValue::Array(texts.map(spanned).collect())
            }
            _ => DeValue::String(self.text().into()),
        }
    }

    /// The value as a string.
    pub(super) fn text(&self) -> &str {
        &self.value
    }

    /// The name of the variable for a key of the file. A name in the path that replaces `NAME` is the one of this
    /// variable.
    pub(super) fn name_of(&self, section: &str, key: &str) -> String {
        let keys = section.split('.').filter(|part| !part.is_empty()).chain([key]);
        let named = keys.enumerate().map(|(index, part)| match part {
            "NAME" => self.path.get(index).map_or(part, String::as_str),
            part => part,
        });
        let path: Vec<String> = named.map(|part| part.replace('-', "_").to_ascii_uppercase()).collect();
        format!("{}{}", self.prefix, path.join(SEPARATOR))
    }
}

impl fmt::Debug for SettingVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

//! Writes TOML line by line.
//!
//! Owns the layout. Must never write a secret: callers pass redacted values.

use std::fmt::Write as _;

use toml::Value;

/// A TOML text that is being written.
#[derive(Debug, Default)]
pub(in crate::config) struct TomlWriter(String);

impl TomlWriter {
    /// Writes a comment.
    pub(in crate::config) fn comment(&mut self, text: &str) {
        self.write(format_args!("# {}\n", text.escape_debug()));
    }

    /// Writes the header of a section, including brackets.
    pub(in crate::config) fn section(&mut self, head: &str) {
        self.write(format_args!("\n{head}\n"));
    }

    /// Writes a key; `value` is TOML.
    pub(in crate::config) fn line(&mut self, key: &str, value: &str) {
        self.write(format_args!("{key} = {value}\n"));
    }

    /// Writes keys; the values are TOML.
    pub(in crate::config) fn lines(&mut self, settings: &[(&str, String)]) {
        settings.iter().for_each(|(key, value)| self.line(key, value));
    }

    /// Writes a key with an inline table; the values are TOML.
    pub(in crate::config) fn inline(&mut self, key: &str, settings: &[(&str, String)]) {
        let settings: Vec<_> = settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        self.line(key, &format!("{{ {} }}", settings.join(", ")));
    }

    /// Writes a key with a string.
    pub(in crate::config) fn text(&mut self, key: &str, text: &str) {
        self.line(key, &Value::from(text).to_string());
    }

    /// Writes a key with a list of strings.
    pub(in crate::config) fn texts<'t>(&mut self, key: &str, texts: impl IntoIterator<Item = &'t str>) {
        let list: Vec<Value> = texts.into_iter().map(Value::from).collect();
        self.line(key, &Value::from(list).to_string());
    }

    fn write(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(line);
    }

    /// The text written so far.
    pub(in crate::config) fn finish(self) -> String {
        self.0
    }
}

//! `earshot.toml` as a tree in which every key and value has a line.
//!
//! Owns the text, its lines, its diagnostics, and the report of unknown keys. Must never know what a key means, and
//! must never show a value.

use std::cell::RefCell;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::diagnostics::{ConfigErrors, Diagnostics, Location};
use super::suggest::suggest;
use super::variable::SettingVariable;

mod overlay;
mod section;

pub(in crate::config) use section::Section;

/// A parsed file, or an empty one, with the diagnostics found so far.
pub(in crate::config) struct Document<'d> {
    path: &'d Path,
    text: &'d str,
    root: DeTable<'d>,
    variables: &'d [SettingVariable],
    diagnostics: RefCell<Diagnostics>,
    /// Every key that a section has read, with the section: `limits`, `request_header_bytes`.
    known: RefCell<Vec<(String, &'static str)>>,
    unknown: RefCell<Vec<Unknown>>,
    /// The keys that are lists of sections.
    lists: RefCell<Vec<&'static str>>,
}

/// A key that no section has read.
struct Unknown {
    section: String,
    kind: String,
    key: String,
    at: usize,
}

/// A value and its location.
#[derive(Clone, Debug)]
pub(in crate::config) struct Located<'d, T> {
    pub(in crate::config) value: T,
    pub(in crate::config) location: Location<'d>,
}

impl<'d> Document<'d> {
    /// Parses a text. Returns the document, and whether the entire text is valid TOML; syntax errors are diagnostics of
    /// the document.
    pub(in crate::config) fn parse(path: &'d Path, text: &'d str, diagnostics: Diagnostics) -> (Self, bool) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Self {
            path,
            text,
            root: root.into_inner(),
            variables: &[],
            lists: RefCell::default(),
            diagnostics: RefCell::new(diagnostics),
            known: RefCell::default(),
            unknown: RefCell::default(),
        };
        for error in &errors {
            // Only the message: the display of the error quotes the line, which may contain a password.
            let location = Location::Line(path, document.line(error.span().map_or(0, |span| span.start)));
            document.error(&location, format!("not valid TOML: {}", error.message()));
        }
        (document, errors.is_empty())
    }

    /// Adds a diagnostic.
    pub(in crate::config) fn error(&self, location: &Location<'_>, what: impl Into<String>) {
        self.diagnostics.borrow_mut().add(location, what);
    }

    /// Discards the document and returns its diagnostics.
    pub(in crate::config) fn abandon<T>(self) -> Result<T, ConfigErrors> {
        Err(self.diagnostics.into_inner().into_errors())
    }

    /// The root of the file.
    pub(in crate::config) fn root(&self) -> Section<'_> {
        Section::new(self, String::new(), String::new(), Some(&self.root), 0)
    }

    /// A section that the file does not contain, for values from the environment.
    pub(in crate::config) fn empty_section(&self, name: &str, kind: &str) -> Section<'_> {
        Section::new(self, name.into(), kind.into(), None, 0)
    }

    /// Reports every key that no section has read, and returns all diagnostics.
    pub(in crate::config) fn finish(self) -> Diagnostics {
        for unknown in self.unknown.borrow().iter() {
            if let Some(variable) = self.variable_at(unknown.at) {
                let what = self.unknown_variable(unknown, variable);
                self.error(&Location::Variable(&variable.name), what);
                continue;
            }
            let location = self.location(unknown.at, join(&unknown.section, &unknown.key));
            self.error(&location, format!("unknown key{}", self.suggestion(unknown)));
        }
        self.diagnostics.into_inner()
    }

    /// Every key that a section has read, with its section.
    #[cfg(test)]
    pub(in crate::config) fn known_keys(&self) -> Vec<(String, &'static str)> {
        self.known.borrow().clone()
    }

    fn suggestion(&self, unknown: &Unknown) -> String {
        let known = self.known.borrow();
        let siblings = known.iter().filter(|(kind, _)| *kind == unknown.kind).map(|(_, key)| *key);
        if let Some(key) = suggest(&unknown.key, siblings.clone()) {
            return format!("; did you mean `{key}`?");
        }
        if let Some((kind, key)) = known.iter().find(|(_, key)| *key == unknown.key) {
            return match kind.as_str() {
                "" => format!("; `{key}` is a top-level key: move it before the first [section]"),
                kind => format!("; `{key}` belongs to [{kind}]"),
            };
        }
        let mut keys: Vec<_> = siblings.map(|key| format!("`{key}`")).collect();
        keys.dedup();
        format!("; valid keys: {}", keys.join(", "))
    }

    /// The location of a key at a position.
    fn location(&self, at: usize, key: String) -> Location<'d> {
        match self.variable_at(at) {
            Some(variable) => Location::Variable(&variable.name),
            None => Location::Key(self.path, self.line(at), key),
        }
    }

    fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// The text of a string value.
///
/// # Errors
/// If it is not a string. The message contains the type, never the value, which may be a secret.
pub(in crate::config) fn text_of<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("expected a string in quotes, found {}", kind_of(value)))
}

/// The type of a value, for messages.
pub(in crate::config) fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.into() } else { format!("{section}.{key}") }
}

//! `earshot.toml` as a tree whose every key and value knows its line.
//!
//! Owns the text, its lines, and what is wrong with it; notices the keys that nobody asked for, and says which were
//! meant. Must never know what a key means, nor show a value.

use std::cell::RefCell;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::errors::{ConfigErrors, Place, Problems};
use super::nearest::nearest;

mod section;

pub(super) use section::Section;

/// A parsed file, or an empty one. What is wrong with it gathers in it.
pub(super) struct Document<'d> {
    path: &'d Path,
    text: &'d str,
    root: DeTable<'d>,
    problems: RefCell<Problems>,
    /// Every key that some section asked for, with its section: `limits.request_header_bytes`.
    known: RefCell<Vec<(String, &'static str)>>,
    unknown: RefCell<Vec<Unknown>>,
}

/// A key that nobody asked for.
struct Unknown {
    section: String,
    kind: String,
    key: String,
    at: usize,
}

/// A value together with its place, for checks that come later.
#[derive(Clone, Debug)]
pub(super) struct Found<'d, T> {
    pub(super) value: T,
    pub(super) place: Place<'d>,
}

impl<'d> Document<'d> {
    /// Parses a text, and says whether all of it is TOML. Where not, that is a problem of the document.
    pub(super) fn parse(path: &'d Path, text: &'d str, problems: Problems) -> (Self, bool) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Self {
            path,
            text,
            root: root.into_inner(),
            problems: RefCell::new(problems),
            known: RefCell::default(),
            unknown: RefCell::default(),
        };
        for error in &errors {
            // Only the message: the error's own display quotes the line, and a line may hold a password.
            let place = Place::Line(path, document.line(error.span().map_or(0, |span| span.start)));
            document.refuse(&place, format!("not valid TOML: {}", error.message()));
        }
        (document, errors.is_empty())
    }

    /// Says that something is wrong.
    pub(super) fn refuse(&self, place: &Place<'_>, what: impl Into<String>) {
        self.problems.borrow_mut().add(place, what);
    }

    /// Ends without having read anything, for what is already wrong.
    pub(super) fn abandon<T>(self) -> Result<T, ConfigErrors> {
        Err(self.problems.into_inner().into_errors())
    }

    /// The keys at the top of the file.
    pub(super) fn top(&self) -> Section<'_> {
        Section::new(self, String::new(), String::new(), Some(&self.root), 0)
    }

    /// A section that the file does not have, for what the environment alone speaks of.
    pub(super) fn nothing(&self, name: &str, kind: &str) -> Section<'_> {
        Section::new(self, name.into(), kind.into(), None, 0)
    }

    /// Ends the reading: every key that no section asked for is a problem.
    pub(super) fn finish(self) -> Problems {
        for unknown in self.unknown.borrow().iter() {
            let place = Place::Key(self.path, self.line(unknown.at), join(&unknown.section, &unknown.key));
            self.refuse(&place, format!("unknown key{}", self.suggestion(unknown)));
        }
        self.problems.into_inner()
    }

    /// Every key that some section asked for, with its section.
    #[cfg(test)]
    pub(super) fn known_keys(&self) -> Vec<(String, &'static str)> {
        self.known.borrow().clone()
    }

    fn suggestion(&self, unknown: &Unknown) -> String {
        let known = self.known.borrow();
        let here = known.iter().filter(|(kind, _)| *kind == unknown.kind).map(|(_, key)| *key);
        if let Some(key) = nearest(&unknown.key, here.clone()) {
            return format!("; did you mean `{key}`?");
        }
        if let Some((kind, key)) = known.iter().find(|(_, key)| *key == unknown.key) {
            return match kind.as_str() {
                "" => format!("; `{key}` stands at the top of the file, before any [section]"),
                kind => format!("; `{key}` belongs to [{kind}]"),
            };
        }
        let mut keys: Vec<_> = here.map(|key| format!("`{key}`")).collect();
        keys.dedup();
        format!("; known here: {}", keys.join(", "))
    }

    fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// A text, or what is there in its place (never the value: it may be a secret).
pub(super) fn text_of<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("expected a text in quotes, found {}", kind_of(value)))
}

/// What a value is, in words.
pub(super) fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.into() } else { format!("{section}.{key}") }
}

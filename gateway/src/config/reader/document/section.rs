//! One section of the file, with typed access to its keys.
//!
//! Owns the list of keys that were read. Must never know what a key means, and must never show a value.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Document, Located, Unknown, join, kind_of, text_of};
use crate::config::reader::diagnostics::Location;
use crate::config::reader::variable::SettingVariable;

/// One table of the document, or its absence.
pub(in crate::config) struct Section<'d> {
    document: &'d Document<'d>,
    /// The name in errors: `redis.shared`.
    name: String,
    /// The name in the documentation: `redis.NAME`.
    kind: String,
    table: Option<&'d DeTable<'d>>,
    at: usize,
    keys_read: Vec<&'static str>,
}

impl<'d> Section<'d> {
    pub(in crate::config) fn new(
        document: &'d Document<'d>,
        name: String,
        kind: String,
        table: Option<&'d DeTable<'d>>,
        at: usize,
    ) -> Self {
        Self { document, name, kind, table, at, keys_read: Vec::new() }
    }

    /// The location of the section.
    pub(in crate::config) fn location(&self) -> Location<'d> {
        self.document.location(self.at, self.name.clone())
    }

    /// Adds a diagnostic.
    pub(in crate::config) fn error(&self, location: &Location<'_>, what: impl Into<String>) {
        self.document.error(location, what);
    }

    /// The value of a key. Marks the key as known.
    pub(in crate::config) fn value(&mut self, key: &'static str) -> Option<Located<'d, &'d DeValue<'d>>> {
        self.keys_read.push(key);
        self.document.known.borrow_mut().push((self.kind.clone(), key));
        let (_, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Located { value: value.get_ref(), location: self.location_of(key, value) })
    }

    /// The value of a key, converted by `read`. An invalid value is a diagnostic and counts as absent.
    pub(in crate::config) fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'d DeValue<'d>) -> Result<T, String>,
    ) -> Option<Located<'d, T>> {
        let found = self.value(key)?;
        match read(found.value) {
            Ok(value) => Some(Located { value, location: found.location }),
            Err(what) => {
                self.error(&found.location, what);
                None
            }
        }
    }

    /// A string, converted by `parse`.
    pub(in crate::config) fn text<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Located<'d, T>> {
        let found = self.value(key)?;
        let text = match self.text_of_variable(key) {
            Some(text) => Ok(text),
            None => text_of(found.value),
        };
        match text.and_then(parse) {
            Ok(value) => Some(Located { value, location: found.location }),
            Err(what) => {
                self.error(&found.location, what);
                None
            }
        }
    }

    /// A boolean.
    pub(in crate::config) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let found = self.read(key, |value| {
            value.as_bool().ok_or_else(|| format!("expected true or false, found {}", kind_of(value)))
        });
        found.map_or(default, |found| found.value)
    }

    /// A list of strings; a single string is a list of one. An invalid element is a diagnostic and is omitted.
    pub(in crate::config) fn texts<T>(
        &mut self,
        key: &'static str,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Vec<Located<'d, T>>> {
        let found = self.value(key)?;
        let items: Vec<(Result<&str, String>, Location<'d>)> = match (found.value, self.text_of_variable(key))
        {
            (DeValue::Array(items), _) => {
                items.iter().map(|item| (text_of(item.get_ref()), self.location_of(key, item))).collect()
            }
            (_, Some(text)) => vec![(Ok(text), found.location)],
            (value, None) => vec![(text_of(value), found.location)],
        };
        let mut values = Vec::new();
        for (item, location) in items {
            match item.and_then(&mut parse) {
                Ok(value) => values.push(Located { value, location }),
                Err(what) => self.error(&location, what),
            }
        }
        Some(values)
    }

    /// The section of this name, which may be absent.
    pub(in crate::config) fn section(&mut self, key: &'static str) -> Self {
        self.table(key, format_args!("a section [{key}]"))
    }

    /// The section of this name, which is usually an inline table as in the example.
    pub(in crate::config) fn inline(&mut self, key: &'static str, example: &str) -> Self {
        self.table(key, format_args!("a section such as {example}"))
    }

    fn table(&mut self, key: &'static str, expected: std::fmt::Arguments<'_>) -> Self {
        let found = self.value(key);
        let (table, at) = match found.as_ref().map(|found| found.value) {
            Some(DeValue::Table(table)) => (Some(table), self.start_of(key)),
            Some(other) => {
                let what = format!("expected {expected}, found {}", kind_of(other));
                self.error(&self.location_at(key, self.start_of(key)), what);
                (None, self.start_of(key))
            }
            None => (None, self.at),
        };
        Self::new(self.document, join(&self.name, key), join(&self.kind, key), table, at)
    }

    /// A table of names that the user chooses, each with a string or a list of strings. An invalid value is a diagnostic
    /// and is omitted.
    pub(in crate::config) fn named_texts(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Vec<(&'d str, Vec<Located<'d, &'d str>>)> {
        let inner = self.inline(key, example);
        let mut entries = Vec::new();
        for (name, value) in inner.table.into_iter().flatten() {
            let items = match value.get_ref() {
                DeValue::Array(items) => items.iter().collect(),
                _ => vec![value],
            };
            let (mut texts, count) = (Vec::new(), items.len());
            for item in items {
                let location = inner.location_of(name.get_ref(), item);
                match text_of(item.get_ref()) {
                    Ok(value) => texts.push(Located { value, location }),
                    Err(what) => inner.error(&location, what),
                }
            }
            if texts.len() == count {
                entries.push((name.get_ref().as_ref(), texts));
            }
        }
        entries
    }

    /// The sections `[key.NAME]`, with their names.
    pub(in crate::config) fn named(&mut self, key: &'static str) -> Vec<(&'d str, Self)> {
        let outer = self.section(key);
        let mut sections = Vec::new();
        for (name, value) in outer.table.into_iter().flatten() {
            let (path, kind) = (join(&outer.name, name.get_ref()), format!("{key}.NAME"));
            let at = name.span().start;
            let section = Self::new(self.document, path, kind, value.get_ref().as_table(), at);
            if section.table.is_some() {
                sections.push((name.get_ref().as_ref(), section));
            } else {
                let what = format!("expected a section [{key}.NAME], found {}", kind_of(value.get_ref()));
                self.error(&section.location(), what);
            }
        }
        sections
    }

    /// The sections `[[key]]` in their order; `None` if the key is absent.
    pub(in crate::config) fn list(&mut self, key: &'static str) -> Option<Vec<Self>> {
        self.document.lists.borrow_mut().push(key);
        let found = self.value(key)?;
        let DeValue::Array(items) = found.value else {
            let location = self.location_at(key, self.start_of(key));
            if self.document.variable_at(self.start_of(key)).is_some() {
                self.error(&location, format!("only the file can set the sections [[{key}]]"));
                return Some(Vec::new());
            }
            self.error(
                &location,
                format!("expected a list of sections, written with two brackets: [[{key}]]"),
            );
            return Some(Vec::new());
        };
        let mut sections = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => sections.push(Self::new(
                    self.document,
                    key.into(),
                    key.into(),
                    Some(table),
                    item.span().start,
                )),
                other => {
                    let what = format!("expected a section [[{key}]], found {}", kind_of(other));
                    self.error(&self.location_of(key, item), what);
                }
            }
        }
        Some(sections)
    }

    /// Ends this section: its remaining keys are unknown.
    pub(in crate::config) fn finish(self) {
        for (key, _) in self.table.into_iter().flatten() {
            if !self.keys_read.iter().any(|read| read == key.get_ref()) {
                self.document.unknown.borrow_mut().push(Unknown {
                    section: self.name.clone(),
                    kind: self.kind.clone(),
                    key: key.get_ref().to_string(),
                    at: key.span().start,
                });
            }
        }
    }

    /// The location of a key, or of the section if the key is absent.
    pub(in crate::config) fn location_of_key(&self, key: &str) -> Location<'d> {
        self.location_at(key, self.start_of(key))
    }

    /// The text of a key that a variable sets.
    fn text_of_variable(&self, key: &str) -> Option<&'d str> {
        self.document.variable_at(self.start_of(key)).map(SettingVariable::text)
    }

    /// Whether the file has this section.
    pub(in crate::config) fn exists(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the file or a variable sets this key.
    pub(in crate::config) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.iter().any(|(name, _)| name.get_ref() == key))
    }

    /// Whether the file or a variable sets this key to `true`.
    pub(in crate::config) fn is_true(&self, key: &str) -> bool {
        self.flag_of(key) == Some(true)
    }

    /// Whether the file or a variable sets this key to `false`.
    pub(in crate::config) fn is_false(&self, key: &str) -> bool {
        self.flag_of(key) == Some(false)
    }

    fn flag_of(&self, key: &str) -> Option<bool> {
        self.table.and_then(|table| table.get(key)).and_then(|value| value.get_ref().as_bool())
    }

    /// Whether the file or a variable sets this key to a list without elements.
    pub(in crate::config) fn is_empty_list(&self, key: &str) -> bool {
        let value = self.table.and_then(|table| table.get(key)).map(Spanned::get_ref);
        value.and_then(DeValue::as_array).is_some_and(|items| items.is_empty())
    }

    fn start_of(&self, key: &str) -> usize {
        let mut keys = self.table.into_iter().flatten().map(|(name, _)| name);
        keys.find(|name| name.get_ref() == key).map_or(self.at, |name| name.span().start)
    }

    fn location_of(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Location<'d> {
        self.location_at(key, value.span().start)
    }

    fn location_at(&self, key: &str, at: usize) -> Location<'d> {
        self.document.location(at, join(&self.name, key))
    }
}

//! One section of the file, and typed access to its keys.
//!
//! Owns the list of keys that somebody asked for. Must never know what a key means, and never show a value that it was
//! not told to show.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Document, Found, Unknown, join, kind_of, text_of};
use crate::config::errors::Place;

/// One table of the document, or its absence.
pub(in crate::config) struct Section<'d> {
    document: &'d Document<'d>,
    /// As errors name it: `redis.shared`.
    name: String,
    /// As the documentation names it: `redis.NAME`.
    kind: String,
    table: Option<&'d DeTable<'d>>,
    at: usize,
    asked: Vec<&'static str>,
}

impl<'d> Section<'d> {
    pub(super) fn new(
        document: &'d Document<'d>,
        name: String,
        kind: String,
        table: Option<&'d DeTable<'d>>,
        at: usize,
    ) -> Self {
        Self { document, name, kind, table, at, asked: Vec::new() }
    }

    /// Where the section begins.
    pub(in crate::config) fn place(&self) -> Place<'d> {
        Place::Key(self.document.path, self.document.line(self.at), self.name.clone())
    }

    /// Says that something is wrong.
    pub(in crate::config) fn refuse(&self, place: &Place<'_>, what: impl Into<String>) {
        self.document.refuse(place, what);
    }

    /// The value of a key. Asking makes the key a known one.
    pub(in crate::config) fn value(&mut self, key: &'static str) -> Option<Found<'d, &'d DeValue<'d>>> {
        self.asked.push(key);
        self.document.known.borrow_mut().push((self.kind.clone(), key));
        let (_, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Found { value: value.get_ref(), place: self.place_of(key, value) })
    }

    /// The value of a key as something makes it. A wrong one is a problem, and counts as absent.
    pub(in crate::config) fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'d DeValue<'d>) -> Result<T, String>,
    ) -> Option<Found<'d, T>> {
        let found = self.value(key)?;
        match read(found.value) {
            Ok(value) => Some(Found { value, place: found.place }),
            Err(what) => {
                self.refuse(&found.place, what);
                None
            }
        }
    }

    /// A text, as something makes it.
    pub(in crate::config) fn text<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Found<'d, T>> {
        self.read(key, |value| parse(text_of(value)?))
    }

    /// Yes or no.
    pub(in crate::config) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let found = self.read(key, |value| {
            value.as_bool().ok_or_else(|| format!("expected true or false, found {}", kind_of(value)))
        });
        found.map_or(default, |found| found.value)
    }

    /// A list of texts; a single text is a list of one. A wrong element is a problem, and is left out.
    pub(in crate::config) fn texts<T>(
        &mut self,
        key: &'static str,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Vec<Found<'d, T>>> {
        let found = self.value(key)?;
        let mut values = Vec::new();
        let mut take = |value: &'d DeValue<'d>, place: Place<'d>| match text_of(value).and_then(&mut parse) {
            Ok(value) => values.push(Found { value, place }),
            Err(what) => self.refuse(&place, what),
        };
        match found.value {
            DeValue::Array(items) => {
                items.iter().for_each(|item| take(item.get_ref(), self.place_of(key, item)));
            }
            value => take(value, found.place),
        }
        Some(values)
    }

    /// The one section of this name, there or not.
    pub(in crate::config) fn section(&mut self, key: &'static str) -> Self {
        self.table(key, format_args!("a section [{key}]"))
    }

    /// The one section of this name, which is usually written on one line as in the example.
    pub(in crate::config) fn inline(&mut self, key: &'static str, example: &str) -> Self {
        self.table(key, format_args!("a section such as {example}"))
    }

    fn table(&mut self, key: &'static str, expected: std::fmt::Arguments<'_>) -> Self {
        let found = self.value(key);
        let (table, at) = match found.as_ref().map(|found| found.value) {
            Some(DeValue::Table(table)) => (Some(table), self.start_of(key)),
            Some(other) => {
                let what = format!("expected {expected}, found {}", kind_of(other));
                self.refuse(&self.place_at(key, self.start_of(key)), what);
                (None, self.start_of(key))
            }
            None => (None, self.at),
        };
        Self::new(self.document, join(&self.name, key), join(&self.kind, key), table, at)
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
                self.refuse(&section.place(), what);
            }
        }
        sections
    }

    /// The sections `[[key]]`, in their order; nothing when there is none.
    pub(in crate::config) fn list(&mut self, key: &'static str) -> Option<Vec<Self>> {
        let found = self.value(key)?;
        let DeValue::Array(items) = found.value else {
            let place = self.place_at(key, self.start_of(key));
            self.refuse(&place, format!("a list of sections is written with two brackets: [[{key}]]"));
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
                    self.refuse(&self.place_of(key, item), what);
                }
            }
        }
        Some(sections)
    }

    /// Ends the reading of this section.
    pub(in crate::config) fn finish(self) {
        for (key, _) in self.table.into_iter().flatten() {
            if !self.asked.iter().any(|asked| asked == key.get_ref()) {
                self.document.unknown.borrow_mut().push(Unknown {
                    section: self.name.clone(),
                    kind: self.kind.clone(),
                    key: key.get_ref().to_string(),
                    at: key.span().start,
                });
            }
        }
    }

    /// Where a key of this section stands, or else the section.
    pub(in crate::config) fn place_of_key(&self, key: &str) -> Place<'d> {
        self.place_at(key, self.start_of(key))
    }

    /// Whether the file has this section.
    pub(in crate::config) fn exists(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the file sets this key.
    pub(in crate::config) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.iter().any(|(name, _)| name.get_ref() == key))
    }

    /// Whether the file sets this key to `true`.
    pub(in crate::config) fn is_true(&self, key: &str) -> bool {
        self.flag_of(key) == Some(true)
    }

    /// Whether the file sets this key to `false`.
    pub(in crate::config) fn is_false(&self, key: &str) -> bool {
        self.flag_of(key) == Some(false)
    }

    fn flag_of(&self, key: &str) -> Option<bool> {
        self.table.and_then(|table| table.get(key)).and_then(|value| value.get_ref().as_bool())
    }

    /// Whether the file sets this key to a list without elements.
    pub(in crate::config) fn is_empty_list(&self, key: &str) -> bool {
        let value = self.table.and_then(|table| table.get(key)).map(Spanned::get_ref);
        value.and_then(DeValue::as_array).is_some_and(|items| items.is_empty())
    }

    fn start_of(&self, key: &str) -> usize {
        let mut keys = self.table.into_iter().flatten().map(|(name, _)| name);
        keys.find(|name| name.get_ref() == key).map_or(self.at, |name| name.span().start)
    }

    fn place_of(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Place<'d> {
        self.place_at(key, value.span().start)
    }

    fn place_at(&self, key: &str, at: usize) -> Place<'d> {
        Place::Key(self.document.path, self.document.line(at), join(&self.name, key))
    }
}

//! Environment variables as keys of the document.
//!
//! Owns their place in the tree. The position of such a key is beyond the text: its distance from the end of the text
//! is the index of the variable. Must never replace a list of sections.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Document, Unknown};
use crate::config::reader::diagnostics::Location;
use crate::config::reader::suggest::suggest;
use crate::config::reader::variable::SettingVariable;

impl<'d> Document<'d> {
    /// Sets the keys of these variables, which replace those of the file.
    pub(in crate::config) fn with_variables(mut self, variables: &'d [SettingVariable]) -> Self {
        self.variables = variables;
        for (index, variable) in variables.iter().enumerate() {
            let at = self.text.len() + 1 + index;
            if let Err(what) = set(&mut self.root, &variable.path, variable, at) {
                self.error(&Location::Variable(&variable.name), what);
            }
        }
        self
    }

    /// The variable at a position; `None` if the position is in the file.
    pub(super) fn variable_at(&self, at: usize) -> Option<&'d SettingVariable> {
        self.variables.get(at.checked_sub(self.text.len() + 1)?)
    }

    /// A key that no section has read, in a variable.
    pub(super) fn unknown_variable(&self, unknown: &Unknown, variable: &SettingVariable) -> String {
        let prefix = variable.prefix;
        let known = self.known.borrow();
        let is_section = |path: &str| known.iter().any(|(section, _)| section == path);
        let lists = self.lists.borrow();
        let is_list = |section: &str| lists.contains(&section);
        let names: Vec<String> = known
            .iter()
            .filter(|(section, key)| !is_section(&super::join(section, key)))
            .filter(|(section, _)| !section.split('.').next().is_some_and(is_list))
            .map(|(section, key)| variable.name_of(section, key))
            .collect();
        let word = &variable.name[prefix.len()..];
        let hint = match suggest(word, names.iter().map(|name| &name[prefix.len()..])) {
            Some(name) => format!("; did you mean {prefix}{name}?"),
            None => format!("; expected {prefix}SECTION__KEY, with a section and a key of the file"),
        };
        format!("unknown key `{}`{hint}", super::join(&unknown.section, &unknown.key))
    }
}

/// Sets the key at the end of a path.
fn set<'d>(
    table: &mut DeTable<'d>,
    path: &'d [String],
    variable: &'d SettingVariable,
    at: usize,
) -> Result<(), String> {
    let Some((name, rest)) = path.split_first() else { return Ok(()) };
    if name.is_empty() {
        return Err("expected a section and a key between the underscores".into());
    }
    let key = existing(table, name).unwrap_or(Cow::Borrowed(name.as_str()));
    let spanned = |value| Spanned::new(at..at, value);
    if rest.is_empty() {
        match table.get(&*key).map(Spanned::get_ref) {
            Some(DeValue::Table(_)) => return Err(format!("`{key}` is a section: add `__` and a key")),
            Some(DeValue::Array(items)) if items.iter().any(|item| item.get_ref().is_table()) => {
                return Err(only_in_file(&key));
            }
            _ => drop(table.remove(&*key)),
        }
        table.insert(Spanned::new(at..at, key), spanned(variable.value(at)));
        return Ok(());
    }
    if !table.contains_key(&*key) {
        table.insert(Spanned::new(at..at, key.clone()), spanned(DeValue::Table(DeTable::new())));
    }
    match table.get_mut(&*key).map(Spanned::get_mut) {
        Some(DeValue::Table(inner)) => set(inner, rest, variable, at),
        Some(DeValue::Array(_)) => Err(only_in_file(&key)),
        _ => Err(format!("`{key}` is not a section")),
    }
}

/// The key of the file with this name; case does not matter, nor does `-` instead of `_`.
fn existing<'d>(table: &DeTable<'d>, name: &str) -> Option<Cow<'d, str>> {
    let is_same = |key: &str| key.replace('-', "_").eq_ignore_ascii_case(&name.replace('-', "_"));
    let mut same: Vec<_> = table.keys().map(Spanned::get_ref).filter(|key| is_same(key)).collect();
    same.sort_by_key(|key| key.as_ref() != name);
    same.first().map(|key| (*key).clone())
}

fn only_in_file(key: &str) -> String {
    format!("only the file can set `{key}`, which is a list of sections")
}

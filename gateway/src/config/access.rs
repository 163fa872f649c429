//! `subscribe`, `publish`, `read_history` and `require` of a namespace: its permissions.
//!
//! Owns their keywords and defaults. Must never decide a permission: [`crate::auth`] does.

use super::reader::diagnostics::Location;
use super::reader::toml_writer::TomlWriter;
use super::reader::{Located, Section};
use crate::auth::access::{Access, AccessRules, Grant, Operation, Requirement};
use crate::node::channel_pattern::ChannelPattern;

/// The word for an empty list of grants.
const NOBODY: &str = "nobody";

/// The grants that an operation can have.
fn choices(operation: Operation) -> &'static [Grant] {
    match operation {
        // A subscriber is subscribed because another rule permitted it.
        Operation::Subscribe => {
            &[Grant::Anyone, Grant::Authenticated, Grant::Owner, Grant::Token, Grant::Hook]
        }
        Operation::Publish => &Grant::ALL,
        Operation::ReadHistory => {
            &[Grant::Anyone, Grant::Authenticated, Grant::Subscribers, Grant::Owner, Grant::Token]
        }
    }
}

/// Reads the permissions of a namespace with these channels.
pub(super) fn read(section: &mut Section<'_>, channels: &[ChannelPattern]) -> AccessRules {
    let defaults = AccessRules::default();
    let owned: Box<[_]> = channels.iter().filter_map(|pattern| pattern.template().cloned()).collect();
    let mut operation = |operation: Operation| {
        let access = read_access(section, operation).unwrap_or(defaults.of(operation));
        if access.contains(Grant::Owner) && owned.is_empty() {
            let what = "\"owner\" requires a placeholder in `channels`, such as channels = [\"user:{user}\"]";
            section.error(&section.location_of_key(operation.setting()), what);
        }
        access
    };
    AccessRules {
        subscribe: operation(Operation::Subscribe),
        publish: operation(Operation::Publish),
        read_history: operation(Operation::ReadHistory),
        owned,
        require: read_requirements(section),
        permits_without_hook: false,
    }
}

fn read_access(section: &mut Section<'_>, operation: Operation) -> Option<Access> {
    let key = operation.setting();
    let choices = choices(operation);
    let parse = |text: &str| match choices.iter().find(|grant| grant.as_str() == text) {
        Some(grant) => Ok(Some(*grant)),
        None if text == NOBODY => Ok(None),
        None => {
            let words = [NOBODY].into_iter().chain(choices.iter().map(|grant| grant.as_str()));
            let words: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
            Err(format!("expected {}, found \"{}\"", words.join(" or "), text.escape_debug()))
        }
    };
    let found: Vec<Located<'_, Option<Grant>>> = section.texts(key, parse)?;
    if section.is_empty_list(key) {
        section.error(&section.location_of_key(key), format!("empty list; for no client use \"{NOBODY}\""));
    }
    if let Some(nobody) = found.iter().find(|found| found.value.is_none()).filter(|_| found.len() > 1) {
        section.error(&nobody.location, format!("\"{NOBODY}\" cannot be combined with other words"));
    }
    let grants: Vec<Grant> = found.into_iter().filter_map(|found| found.value).collect();
    Some(Access::of(&grants))
}

fn read_requirements(section: &mut Section<'_>) -> Box<[Requirement]> {
    let mut requirements = Vec::new();
    for (field, values) in section.named_texts("require", "{ roles = \"editor\" }") {
        if values.is_empty() {
            let location: Location<'_> = section.location_of_key("require");
            section.error(
                &location,
                format!("`{}` has no value, so no client could meet it", field.escape_debug()),
            );
        }
        let values = values.iter().map(|found| found.value.to_owned()).collect();
        requirements.push(Requirement { field: field.to_owned(), values });
    }
    requirements.into()
}

/// The value of an operation in the file.
pub fn access_as_text(access: Access) -> String {
    let words: Vec<&str> = access.grants().map(Grant::as_str).collect();
    match words[..] {
        [] => NOBODY.to_owned(),
        _ => words.join(", "),
    }
}

pub(super) fn show(rules: &AccessRules, out: &mut TomlWriter) {
    for operation in Operation::ALL {
        let words: Vec<&str> = rules.of(operation).grants().map(Grant::as_str).collect();
        match words[..] {
            [] => out.text(operation.setting(), NOBODY),
            [word] => out.text(operation.setting(), word),
            _ => out.texts(operation.setting(), words),
        }
    }
    let require: Vec<(&str, String)> = rules
        .require
        .iter()
        .map(|requirement| (requirement.field.as_str(), list(&requirement.values)))
        .collect();
    if !require.is_empty() {
        out.inline("require", &require);
    }
}

/// A list of strings in TOML.
fn list(values: &[String]) -> String {
    let values: Vec<toml::Value> = values.iter().map(|value| toml::Value::from(value.as_str())).collect();
    toml::Value::from(values).to_string()
}

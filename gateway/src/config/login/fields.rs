//! `fields` in a login: the values of a session or a token that become fields of the identity.
//!
//! Owns their names. Must never resolve a pointer.

use std::collections::BTreeMap;

use super::super::redis::check_name;
use crate::auth::identity::USER;
use crate::config::reader::toml_writer::TomlWriter;
use crate::config::reader::{Located, Section};

/// The section in error messages.
const EXAMPLE: &str = "{ tenant = \"/tenant\" }";

/// A field and the JSON pointer to its value.
#[derive(Clone, Debug)]
pub(super) struct Field<'d> {
    pub(super) name: String,
    pub(super) pointer: Located<'d, String>,
}

/// Reads the fields. An invalid one is a diagnostic and is omitted.
pub(super) fn read<'d>(section: &mut Section<'d>) -> Vec<Field<'d>> {
    let mut fields = Vec::new();
    for (name, pointers) in section.named_texts("fields", EXAMPLE) {
        let [pointer] = &pointers[..] else {
            let location = section.location_of_key("fields");
            let name = name.escape_debug();
            section.error(&location, format!("expected one JSON pointer for `{name}`, as in {EXAMPLE}"));
            continue;
        };
        if name == USER {
            let what = "`user` is the user of the login: set `user` or `user_claim`, or choose another name";
            section.error(&pointer.location, what);
        } else if let Err(what) = check_name(name) {
            section.error(&pointer.location, what);
        } else {
            let pointer = Located { value: pointer.value.to_owned(), location: pointer.location.clone() };
            fields.push(Field { name: name.to_owned(), pointer });
        }
    }
    fields
}

/// The names and pointers.
pub(super) fn to_map(fields: &[Field<'_>]) -> BTreeMap<String, String> {
    fields.iter().map(|field| (field.name.clone(), field.pointer.value.clone())).collect()
}

/// Writes the key as [`read`] reads it.
pub(super) fn show(fields: &BTreeMap<String, String>, out: &mut TomlWriter) {
    let fields: Vec<(&str, String)> = fields
        .iter()
        .map(|(name, pointer)| (name.as_str(), toml::Value::from(pointer.as_str()).to_string()))
        .collect();
    if !fields.is_empty() {
        out.inline("fields", &fields);
    }
}

//! `slow_consumer` in a namespace: the handling of clients that read more slowly than their channels publish.
//!
//! Owns the conflicts between its keys. Must never decide when a client is slow: that depends on `limits`.

use super::reader::keyword;
use super::reader::toml_writer::TomlWriter;
use super::reader::{Located, Section};
use crate::node::backpressure_policy::{BackpressurePolicy, TerminalStates};

/// The value of `policy` in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum PolicyKeyword {
    /// The client is disconnected, and recovers when it reconnects.
    #[default]
    Disconnect,
    Latest,
    DropOldest,
}

impl PolicyKeyword {
    const ALL: [Self; 3] = [Self::Disconnect, Self::Latest, Self::DropOldest];

    fn as_str(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::Latest => "latest",
            Self::DropOldest => "drop-oldest",
        }
    }

    fn of(policy: Option<&BackpressurePolicy>) -> Self {
        match policy {
            None => Self::Disconnect,
            Some(BackpressurePolicy::Latest { .. }) => Self::Latest,
            Some(BackpressurePolicy::DropOldest) => Self::DropOldest,
        }
    }
}

/// The section in error messages.
const EXAMPLE: &str = "{ policy = \"latest\", conflation_key = \"/job/id\" }";

/// Reads the policy of a namespace. Returns `None` when slow consumers are disconnected.
pub(super) fn read(namespace: &mut Section<'_>) -> Option<BackpressurePolicy> {
    let mut section = namespace.inline("slow_consumer", EXAMPLE);
    let keyword = keyword::read(&mut section, "policy", &PolicyKeyword::ALL, PolicyKeyword::as_str);
    let key = section.text("conflation_key", json_pointer).map(|found| found.value);
    let terminal = read_terminal(&mut section);
    // An invalid policy is an error already; nothing is known about the keys that go with it.
    let is_invalid = keyword.is_none() && section.has("policy");
    let keyword = keyword.map_or(PolicyKeyword::default(), |Located { value, .. }| value);
    if keyword != PolicyKeyword::Latest && !is_invalid {
        reject_without_latest(&section, keyword);
    }
    section.finish();
    match keyword {
        PolicyKeyword::Disconnect => None,
        PolicyKeyword::Latest => Some(BackpressurePolicy::Latest { key, terminal }),
        PolicyKeyword::DropOldest => Some(BackpressurePolicy::DropOldest),
    }
}

/// Writes the section as [`read`] reads it.
pub(super) fn show(policy: Option<&BackpressurePolicy>, out: &mut TomlWriter) {
    out.text("slow_consumer.policy", PolicyKeyword::of(policy).as_str());
    let Some(BackpressurePolicy::Latest { key, terminal }) = policy else { return };
    if let Some(key) = key {
        out.text("slow_consumer.conflation_key", key);
    }
    if let Some(terminal) = terminal {
        show_terminal(terminal, out);
    }
}

fn reject_without_latest(section: &Section<'_>, policy: PolicyKeyword) {
    for key in ["conflation_key", "terminal"] {
        if section.has(key) {
            let what = format!("requires policy = \"latest\"; the policy is \"{}\"", policy.as_str());
            section.error(&section.location_of_key(key), what);
        }
    }
}

/// The section `terminal` in error messages.
const TERMINAL_EXAMPLE: &str = "{ key = \"/state\", values = [\"completed\", \"failed\"] }";

fn read_terminal(slow_consumer: &mut Section<'_>) -> Option<TerminalStates> {
    let mut section = slow_consumer.inline("terminal", TERMINAL_EXAMPLE);
    let key = section.text("key", json_pointer);
    let values = section.texts("values", |text| Ok(text.to_owned()));
    if section.exists() {
        if !section.has("key") {
            section.error(
                &section.location(),
                "missing `key`: set it to the JSON pointer of the state, for example \"/state\"",
            );
        }
        if values.is_none() {
            section.error(
                &section.location(),
                "missing `values`: list the terminal states, for example [\"completed\"]",
            );
        } else if section.is_empty_list("values") {
            section.error(&section.location_of_key("values"), "empty list: no state would be terminal");
        }
    }
    section.finish();
    let values = values?.into_iter().map(|found| found.value).collect();
    Some(TerminalStates { key: key?.value, values })
}

fn show_terminal(terminal: &TerminalStates, out: &mut TomlWriter) {
    let values: Vec<_> = terminal.values.iter().map(String::as_str).map(toml::Value::from).collect();
    out.inline(
        "slow_consumer.terminal",
        &[
            ("key", toml::Value::from(terminal.key.as_str()).to_string()),
            ("values", toml::Value::from(values).to_string()),
        ],
    );
}

/// Reads a JSON pointer (RFC 6901).
fn json_pointer(text: &str) -> Result<String, String> {
    const LENGTH_MAX: usize = 256;
    if text.len() > LENGTH_MAX {
        return Err(format!("a JSON pointer has at most {LENGTH_MAX} bytes"));
    }
    let shown = text.escape_debug();
    if !text.is_empty() && !text.starts_with('/') {
        return Err(format!(
            "expected a JSON pointer such as \"/job/id\" (\"\" is the entire payload), found \"{shown}\""
        ));
    }
    if text.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
        return Err(format!(
            "invalid escape in a JSON pointer, where `~0` is `~` and `~1` is `/`: \"{shown}\""
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_pointers_are_empty_or_begin_with_a_slash() {
        for pointer in ["", "/", "/job/id", "/a~1b/m~0n", "/0/ /é", "//"] {
            assert_eq!(json_pointer(pointer).as_deref(), Ok(pointer));
        }
        for wrong in ["job", "job.id", "#/job", " /job", "/a~", "/a~2b", "/~/", "/~~0", &"/x".repeat(200)] {
            assert!(json_pointer(wrong).is_err(), "{wrong}");
        }
    }
}

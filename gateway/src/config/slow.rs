//! `slow`, `slow_key` and `slow_terminal` in a namespace: what becomes of a client that reads more slowly than others
//! publish.
//!
//! Owns which of the three fit together. Must never say when a client is slow: those are limits.

use super::choice;
use super::document::{Found, Section};
use super::show::Shown;

/// What becomes of a client that is too slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slow {
    /// It is disconnected, and resumes from where it stood.
    #[default]
    Disconnect,
    /// What it has not been sent yet is replaced by its successor.
    Latest,
    /// The oldest publications are dropped, and it is told of the gap.
    DropOldest,
}

impl Slow {
    /// As the file says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::Latest => "latest",
            Self::DropOldest => "drop-oldest",
        }
    }
}

/// Which publications are never replaced or dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Where in the payload the state stands, as a JSON pointer.
    pub key: String,
    /// The states that are the last; never empty.
    pub values: Vec<String>,
}

/// All that a namespace says about the slow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SlowRules {
    pub(super) slow: Slow,
    pub(super) key: Option<String>,
    pub(super) terminal: Option<Terminal>,
}

impl SlowRules {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let choices = [Slow::Disconnect, Slow::Latest, Slow::DropOldest];
        let slow = choice::read(section, "slow", &choices, Slow::as_str);
        let key = section.text("slow_key", json_pointer).map(|found| found.value);
        let terminal = Terminal::read(section);
        // Where `slow` is no word at all, nobody knows yet what goes with it.
        let is_unknown = slow.is_none() && section.has("slow");
        let slow = slow.map_or(Slow::default(), |Found { value, .. }| value);
        if slow != Slow::Latest && !is_unknown {
            refuse_without_latest(section, slow);
        }
        Self { slow, key, terminal }
    }
}

fn refuse_without_latest(section: &Section<'_>, slow: Slow) {
    for key in ["slow_key", "slow_terminal"] {
        if section.has(key) {
            let what = format!("goes with slow = \"latest\"; here it is \"{}\"", slow.as_str());
            section.refuse(&section.place_of_key(key), what);
        }
    }
}

impl Terminal {
    /// What a file is told that has something else in this place.
    const EXPECTED: &str = "{ key = \"/state\", values = [\"completed\", \"failed\"] }";

    fn read(namespace: &mut Section<'_>) -> Option<Self> {
        let mut section = namespace.inline("slow_terminal", Self::EXPECTED);
        let key = section.text("key", json_pointer);
        let values = section.texts("values", |text| Ok(text.to_owned()));
        if section.exists() {
            if !section.has("key") {
                section.refuse(&section.place(), "has no `key`, such as key = \"/state\"");
            }
            if values.is_none() {
                section.refuse(&section.place(), "has no `values`, such as values = [\"completed\"]");
            } else if section.is_empty_list("values") {
                section.refuse(&section.place_of_key("values"), "no value at all: nothing would be terminal");
            }
        }
        section.finish();
        let values = values?.into_iter().map(|found| found.value).collect();
        Some(Self { key: key?.value, values })
    }

    /// Writes it as [`SlowRules::read`] reads it.
    pub(super) fn show(&self, out: &mut Shown) {
        let values: Vec<_> = self.values.iter().map(String::as_str).map(toml::Value::from).collect();
        out.inline(
            "slow_terminal",
            &[
                ("key", toml::Value::from(self.key.as_str()).to_string()),
                ("values", toml::Value::from(values).to_string()),
            ],
        );
    }
}

/// Reads a JSON pointer (RFC 6901).
fn json_pointer(text: &str) -> Result<String, String> {
    const LONGEST: usize = 256;
    if text.len() > LONGEST {
        return Err(format!("a JSON pointer has at most {LONGEST} bytes"));
    }
    let shown = text.escape_debug();
    if !text.is_empty() && !text.starts_with('/') {
        return Err(format!(
            "expected a JSON pointer such as \"/job/id\" (or \"\": the whole), found \"{shown}\""
        ));
    }
    if text.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
        return Err(format!("in a JSON pointer, `~` is written `~0` (and `/` in a name `~1`): \"{shown}\""));
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

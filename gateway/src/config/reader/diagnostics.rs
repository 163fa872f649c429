//! Errors of a configuration and their locations.
//!
//! Owns the format of a location: file, line and key, or variable, or flag. Must never contain a secret.

use std::fmt;
use std::path::Path;

use crate::redact;

/// One error and its location.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Diagnostic {
    line: usize,
    location: String,
    what: String,
}

/// All errors of a configuration, displayed one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Diagnostic>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{}: {}", diagnostic.location, diagnostic.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Where a value comes from.
#[derive(Clone, Debug, Default)]
pub(in crate::config) enum Location<'p> {
    /// No location.
    #[default]
    None,
    /// An entire file.
    File(&'p Path),
    /// A line of a file.
    Line(&'p Path, usize),
    /// A key in a file.
    Key(&'p Path, usize, String),
    /// An environment variable.
    Variable(&'p str),
    /// A flag of the command line.
    Flag(&'static str),
}

impl Location<'_> {
    /// The line in the file; 0 for the entire file, the maximum for variables and flags.
    pub(in crate::config) fn line(&self) -> usize {
        match self {
            Self::None | Self::File(_) => 0,
            Self::Line(_, line) | Self::Key(_, line, _) => *line,
            Self::Variable(_) | Self::Flag(_) => usize::MAX,
        }
    }
}

impl fmt::Display for Location<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Key(path, line, key) => write!(f, "{}:{line}: {key}", path.display()),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Collects errors, so that all of them are reported together.
#[derive(Debug, Default)]
pub(in crate::config) struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    pub(in crate::config) fn add(&mut self, location: &Location<'_>, what: impl Into<String>) {
        // A URL with a password may be anywhere, even in a key.
        let redact = |text: String| redact::addresses(&text).into_owned();
        let (line, location, what) = (location.line(), redact(location.to_string()), redact(what.into()));
        self.0.push(Diagnostic { line, location, what });
    }

    /// The value if there is no error.
    pub(in crate::config) fn into_result<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.is_empty() { Ok(value) } else { Err(self.into_errors()) }
    }

    /// All errors in the order of their lines.
    pub(in crate::config) fn into_errors(mut self) -> ConfigErrors {
        self.0.sort_by_key(|diagnostic| diagnostic.line);
        self.0.dedup();
        ConfigErrors(self.0)
    }

    pub(in crate::config) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

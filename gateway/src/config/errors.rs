//! What is wrong with a configuration, and where.
//!
//! Owns the wording of places: file and line and key, variable, flag. Must never hold a value that may be a secret.

use std::fmt;
use std::path::Path;

use crate::redact;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    line: usize,
    place: String,
    what: String,
}

/// Everything that is wrong with a configuration; displayed as one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{}: {}", problem.place, problem.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Where a value came from.
#[derive(Clone, Debug)]
pub(super) enum Place<'p> {
    /// A file as a whole.
    File(&'p Path),
    /// A line of a file.
    Line(&'p Path, usize),
    /// A key in a file.
    Key(&'p Path, usize, String),
    /// An environment variable.
    Variable(&'static str),
    /// A flag of the command line.
    Flag(&'static str),
}

impl Place<'_> {
    /// The line in the file; places outside of it sort around its lines.
    pub(super) fn line(&self) -> usize {
        match self {
            Self::File(_) => 0,
            Self::Line(_, line) | Self::Key(_, line, _) => *line,
            Self::Variable(_) | Self::Flag(_) => usize::MAX,
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Key(path, line, key) => write!(f, "{}:{line}: {key}", path.display()),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Collects what is wrong, so that all of it is said at once.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, place: &Place<'_>, what: impl Into<String>) {
        // A URL may stand anywhere, in a wrong place and as a key as well.
        let redact = |text: String| redact::addresses(&text).into_owned();
        let (line, place, what) = (place.line(), redact(place.to_string()), redact(what.into()));
        self.0.push(Problem { line, place, what });
    }

    /// The value if nothing was wrong.
    pub(super) fn into_result<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.is_empty() { Ok(value) } else { Err(self.into_errors()) }
    }

    /// Everything that was wrong, in the order of the lines.
    pub(super) fn into_errors(mut self) -> ConfigErrors {
        self.0.sort_by_key(|problem| problem.line);
        self.0.dedup();
        ConfigErrors(self.0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

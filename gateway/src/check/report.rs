//! What was found, and how it is told.
//!
//! Owns the two forms of a report: lines for people, and one JSON document, whose keys stay as they are. Must never
//! judge: whoever looks does.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Could not be looked at; the text says why.
    Skipped,
    /// It works, but something will hurt sooner or later.
    Warning,
    /// It does not work.
    Failed,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What was looked at: a word that stays the same, for scripts.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was seen.
    pub said: String,
    /// The likely cause, where something is wrong.
    pub cause: Option<String>,
    /// What to do about it.
    pub advice: Option<String>,
    /// What was measured, for scripts. Names say the unit.
    pub facts: Map<String, Value>,
}

impl Finding {
    fn new(check: &'static str, level: Level, said: impl Into<String>) -> Self {
        Self { check, level, said: said.into(), cause: None, advice: None, facts: Map::new() }
    }

    /// All is well.
    pub fn ok(check: &'static str, said: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, said)
    }

    /// It could not be looked at.
    pub fn skipped(check: &'static str, said: impl Into<String>) -> Self {
        Self::new(check, Level::Skipped, said)
    }

    /// It works, for now.
    pub fn warning(check: &'static str, said: impl Into<String>) -> Self {
        Self::new(check, Level::Warning, said)
    }

    /// It does not work.
    pub fn failed(check: &'static str, said: impl Into<String>) -> Self {
        Self::new(check, Level::Failed, said)
    }

    /// Names the likely cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// All of it in one line.
    pub fn in_words(&self) -> String {
        let parts = [Some(&self.said), self.cause.as_ref(), self.advice.as_ref()];
        parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    /// Adds what was measured.
    #[must_use]
    pub fn with(mut self, fact: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(fact.to_owned(), value.into());
        self
    }
}

/// Everything about one server, or one way.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// `redis` or `path`.
    pub kind: &'static str,
    /// What the configuration calls it.
    pub name: String,
    /// Where it is, without any secret.
    pub address: String,
    /// In the order in which it was looked at.
    pub findings: Vec<Finding>,
}

impl Section {
    /// A section without findings yet.
    pub fn new(kind: &'static str, name: impl Into<String>, address: impl Into<String>) -> Self {
        Self { kind, name: name.into(), address: address.into(), findings: Vec::new() }
    }

    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// How bad the worst is.
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One for each server or way.
    pub sections: Vec<Section>,
}

impl Report {
    /// Whether nothing failed. Warnings and what could not be looked at are no failures.
    pub fn is_good(&self) -> bool {
        self.count(Level::Failed) == 0
    }

    /// How many findings are of a level.
    pub fn count(&self, level: Level) -> usize {
        let findings = self.sections.iter().flat_map(|section| &section.findings);
        findings.filter(|finding| finding.level == level).count()
    }

    /// The JSON document. Keys may be added to it, none changes its meaning.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "earshot": env!("CARGO_PKG_VERSION"),
            "result": if self.is_good() { "ok" } else { "failed" },
            "failed": self.count(Level::Failed),
            "warnings": self.count(Level::Warning),
            "sections": self.sections,
        })
    }
}

/// The text for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            writeln!(f, "{section}")?;
        }
        let (failed, warnings) = (self.count(Level::Failed), self.count(Level::Warning));
        match (failed, warnings) {
            (0, 0) => writeln!(f, "All is well."),
            (0, warnings) => writeln!(f, "It works. Warnings: {warnings}."),
            (failed, warnings) => writeln!(f, "Failed: {failed}. Warnings: {warnings}."),
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}: {}", self.kind, self.name, self.address)?;
        self.findings.iter().try_for_each(|finding| write!(f, "{finding}"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<8} {:<13} {}", self.level.as_str(), self.check, self.said)?;
        for (word, text) in [("cause", &self.cause), ("do", &self.advice)] {
            if let Some(text) = text {
                writeln!(f, "  {:<8} {word:>13}: {text}", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut section = Section::new("redis", "default", "redis://h:6379");
        section.add(Finding::ok("name", "h is 10.0.0.1").with("addresses", 1));
        section.add(Finding::warning("timeout", "5 s").because("a short one").advise("raise it"));
        Report { sections: vec![section] }
    }

    #[test]
    fn people_read_lines_with_cause_and_advice() {
        let mut report = report();
        let text = report.to_string();
        assert_eq!(
            text,
            "redis default: redis://h:6379\n  \
               ok       name          h is 10.0.0.1\n  \
               warning  timeout       5 s\n                   cause: a short one\n                      do: raise it\n\n\
             It works. Warnings: 1.\n"
        );
        report.sections[0].add(Finding::failed("auth", "no"));
        assert!(report.to_string().ends_with("Failed: 1. Warnings: 1.\n") && !report.is_good());
    }

    #[test]
    fn scripts_read_one_document() {
        let json = report().to_json();
        assert_eq!((&json["result"], &json["warnings"]), (&"ok".into(), &1.into()));
        let finding = &json["sections"][0]["findings"][0];
        assert_eq!((&finding["level"], &finding["facts"]["addresses"]), (&"ok".into(), &1.into()));
        assert_eq!(finding["cause"], Value::Null);
    }
}

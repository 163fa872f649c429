//! Findings and their presentation.
//!
//! Owns the two forms of a report: text, and one JSON document with stable keys. Must never evaluate anything.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// Severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No problem.
    Ok,
    /// Not tested; the message shows the reason.
    Skipped,
    /// Works, but will cause problems.
    Warning,
    /// Does not work.
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
    /// Name of the check, stable for scripts.
    pub check: &'static str,
    /// Severity.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// Likely cause of a problem.
    pub cause: Option<String>,
    /// How to fix it.
    pub fix: Option<String>,
    /// Measurements for scripts. Names contain the unit.
    pub facts: Map<String, Value>,
}

impl Finding {
    fn new(check: &'static str, level: Level, message: impl Into<String>) -> Self {
        Self { check, level, message: message.into(), cause: None, fix: None, facts: Map::new() }
    }

    /// No problem.
    pub fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, message)
    }

    /// Not tested.
    pub fn skipped(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Skipped, message)
    }

    /// Works, with a problem.
    pub fn warning(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Warning, message)
    }

    /// Does not work.
    pub fn failed(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Failed, message)
    }

    /// Sets the likely cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Sets the fix.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Message, cause and fix in one line.
    pub fn one_line(&self) -> String {
        let parts = [Some(&self.message), self.cause.as_ref(), self.fix.as_ref()];
        parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    /// Adds a measurement.
    #[must_use]
    pub fn with(mut self, fact: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(fact.to_owned(), value.into());
        self
    }
}

/// Findings about one server or one client path.
#[derive(Clone, Debug, Serialize)]
pub struct ReportSection {
    /// `redis` or `path`.
    pub kind: &'static str,
    /// Name in the configuration.
    pub name: String,
    /// Address without secrets.
    pub address: String,
    /// Findings in order.
    pub findings: Vec<Finding>,
}

impl ReportSection {
    /// Creates an empty section.
    pub fn new(kind: &'static str, name: impl Into<String>, address: impl Into<String>) -> Self {
        Self { kind, name: name.into(), address: address.into(), findings: Vec::new() }
    }

    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Highest severity.
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }
}

/// All findings.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One section for each server or client path.
    pub sections: Vec<ReportSection>,
}

impl Report {
    /// Whether nothing failed. Warnings and skipped checks are not failures.
    pub fn is_good(&self) -> bool {
        self.count(Level::Failed) == 0
    }

    /// Number of findings of a level.
    pub fn count(&self, level: Level) -> usize {
        let findings = self.sections.iter().flat_map(|section| &section.findings);
        findings.filter(|finding| finding.level == level).count()
    }

    /// JSON document. Keys can be added; their meaning never changes.
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

/// Text form.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            writeln!(f, "{section}")?;
        }
        let (failed, warnings) = (self.count(Level::Failed), self.count(Level::Warning));
        match (failed, warnings) {
            (0, 0) => writeln!(f, "No problems found."),
            (0, warnings) => writeln!(f, "No failures. Warnings: {warnings}."),
            (failed, warnings) => writeln!(f, "Failed: {failed}. Warnings: {warnings}."),
        }
    }
}

impl fmt::Display for ReportSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}: {}", self.kind, self.name, self.address)?;
        self.findings.iter().try_for_each(|finding| write!(f, "{finding}"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<8} {:<13} {}", self.level.as_str(), self.check, self.message)?;
        for (word, text) in [("cause", &self.cause), ("fix", &self.fix)] {
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
        let mut section = ReportSection::new("redis", "default", "redis://h:6379");
        section.add(Finding::ok("dns", "h is 10.0.0.1").with("addresses", 1));
        section.add(Finding::warning("timeout", "5 s").cause("a short one").fix("raise the limit"));
        Report { sections: vec![section] }
    }

    #[test]
    fn lines_with_cause_and_fix_for_people() {
        let mut report = report();
        let text = report.to_string();
        assert_eq!(
            text,
            "redis default: redis://h:6379\n  \
               ok       dns           h is 10.0.0.1\n  \
               warning  timeout       5 s\n                   cause: a short one\n                     fix: raise the limit\n\n\
             No failures. Warnings: 1.\n"
        );
        report.sections[0].add(Finding::failed("auth", "no"));
        assert!(report.to_string().ends_with("Failed: 1. Warnings: 1.\n") && !report.is_good());
    }

    #[test]
    fn json_document() {
        let json = report().to_json();
        assert_eq!((&json["result"], &json["warnings"]), (&"ok".into(), &1.into()));
        let finding = &json["sections"][0]["findings"][0];
        assert_eq!((&finding["level"], &finding["facts"]["addresses"]), (&"ok".into(), &1.into()));
        assert_eq!(finding["cause"], Value::Null);
    }
}

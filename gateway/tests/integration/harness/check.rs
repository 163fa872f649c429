//! Runs `earshot check` and parses its report. Uses only what a script sees: the exit code and the JSON document.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::gateway::binary;
use super::within_timeout;

/// A finished run.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) code: i32,
    pub(crate) report: Value,
    /// Standard output and standard error.
    pub(crate) text: String,
}

/// Runs with these arguments and a clean environment.
pub(crate) async fn check(arguments: &[&str]) -> Checked {
    run(arguments, &[], None, "").await
}

/// Runs with a configuration.
pub(crate) async fn check_configured(config: &str) -> Checked {
    run(&[], &[], Some(config), "").await
}

/// Runs with an environment and standard input.
pub(crate) async fn run(
    arguments: &[&str],
    environment: &[(&str, &str)],
    config: Option<&str>,
    input: &str,
) -> Checked {
    let output = raw(&[&["--json"], arguments].concat(), environment, config, input).await;
    let (out, errors) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    Checked {
        code: output.status.code().expect("it was not killed"),
        report: serde_json::from_str(&out).unwrap_or_default(),
        text: out + &errors,
    }
}

/// The text report.
pub(crate) async fn output_of(arguments: &[&str]) -> String {
    String::from_utf8(raw(arguments, &[], None, "").await.stdout).unwrap()
}

async fn raw(arguments: &[&str], environment: &[(&str, &str)], config: Option<&str>, input: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.env_clear().current_dir(directory.path()).arg("check").args(arguments);
    command.envs(environment.iter().copied()).kill_on_drop(true);
    if let Some(config) = config {
        std::fs::write(directory.path().join("earshot.toml"), config).unwrap();
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The process may exit without reading it.
    drop(stdin.write_all(input.as_bytes()).await);
    drop(stdin);
    within_timeout("the check ends", child.wait_with_output()).await.unwrap()
}

impl Checked {
    /// All findings of a check, over all sections.
    pub(crate) fn findings(&self, check: &str) -> Vec<&Value> {
        let sections =
            self.report["sections"].as_array().unwrap_or_else(|| panic!("no report: {}", self.text));
        let all = sections.iter().flat_map(|section| section["findings"].as_array().unwrap());
        all.filter(|finding| finding["check"] == check).collect()
    }

    /// Asserts that a finding of the check has this level and contains each of these texts.
    pub(crate) fn expect(&self, check: &str, level: &str, texts: &[&str]) {
        let found = self.findings(check);
        let matches = |finding: &&Value| {
            let report = finding.to_string();
            finding["level"] == level && texts.iter().all(|text| report.contains(text))
        };
        assert!(found.iter().any(matches), "{check} is not {level} with {texts:?}: {}", self.text);
        // Every problem must have a cause.
        for finding in
            found.iter().filter(|finding| finding["level"] == "failed" || finding["level"] == "warning")
        {
            assert!(finding["cause"].is_string(), "no cause: {finding}");
        }
    }

    /// Failed checks, each once.
    pub(crate) fn failed(&self) -> Vec<&str> {
        self.with_level("failed")
    }

    /// Checks with a warning, each once; except latency, which depends on the test machine.
    pub(crate) fn warned(&self) -> Vec<&str> {
        let mut names = self.with_level("warning");
        names.retain(|name| *name != "latency");
        names
    }

    fn with_level(&self, level: &str) -> Vec<&str> {
        let sections =
            self.report["sections"].as_array().unwrap_or_else(|| panic!("no report: {}", self.text));
        let all = sections.iter().flat_map(|section| section["findings"].as_array().unwrap());
        let mut names: Vec<&str> = all
            .filter(|finding| finding["level"] == level)
            .map(|finding| finding["check"].as_str().unwrap())
            .collect();
        names.dedup();
        names
    }
}

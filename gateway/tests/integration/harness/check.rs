//! `earshot check`, run to its end, with its report read. It must never see more than a script would: the exit code and
//! the JSON document.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::gateway::binary;
use super::soon;

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) code: i32,
    pub(crate) report: Value,
    /// Everything that was printed, by both streams.
    pub(crate) text: String,
}

/// Checks with these arguments and a clean environment.
pub(crate) async fn check(arguments: &[&str]) -> Checked {
    run(arguments, &[], None, "").await
}

/// Checks what a configuration says.
pub(crate) async fn check_configured(config: &str) -> Checked {
    run(&[], &[], Some(config), "").await
}

/// Checks with an environment and a standard input of its own.
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

/// What it prints for people.
pub(crate) async fn told(arguments: &[&str]) -> String {
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
    // Whoever does not read it may have ended already.
    drop(stdin.write_all(input.as_bytes()).await);
    drop(stdin);
    soon("the check ends", child.wait_with_output()).await.unwrap()
}

impl Checked {
    /// All findings of a check, of all sections.
    pub(crate) fn findings(&self, check: &str) -> Vec<&Value> {
        let sections =
            self.report["sections"].as_array().unwrap_or_else(|| panic!("no report: {}", self.text));
        let all = sections.iter().flat_map(|section| section["findings"].as_array().unwrap());
        all.filter(|finding| finding["check"] == check).collect()
    }

    /// Fails unless one finding of a check has this level, and says, explains or advises each of these texts.
    pub(crate) fn expect(&self, check: &str, level: &str, texts: &[&str]) {
        let found = self.findings(check);
        let fits = |finding: &&Value| {
            let said = finding.to_string();
            finding["level"] == level && texts.iter().all(|text| said.contains(text))
        };
        assert!(found.iter().any(fits), "{check} is not {level} with {texts:?}: {}", self.text);
        // A finding that is no good tells what to do.
        for finding in
            found.iter().filter(|finding| finding["level"] == "failed" || finding["level"] == "warning")
        {
            assert!(finding["cause"].is_string(), "no cause: {finding}");
        }
    }

    /// The checks that failed, each once.
    pub(crate) fn failed(&self) -> Vec<&str> {
        self.with_level("failed")
    }

    /// The checks that a warning was given of, each once; but for latency, which tells of the machine of the tests.
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

//! Runs of `earshot drill`. Tests only what an operator sees: the exit code, the output, and what is left behind.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::gateway::binary;
use super::within_timeout;

/// A finished run.
pub(crate) struct Drilled {
    pub(crate) code: Option<i32>,
    pub(crate) report: Value,
    /// Output of both streams.
    pub(crate) text: String,
}

/// A run in progress, with its own directory for temporary files.
pub(crate) struct Drill {
    child: Child,
    stderr: Lines<BufReader<ChildStderr>>,
    output: String,
    pub(crate) directory: TempDir,
}

/// Runs with these arguments, and with a Redis URL on standard input.
pub(crate) async fn drill(arguments: &[&str], input: &str) -> Drilled {
    Drill::start(&[&["--json"], arguments].concat(), input).await.end().await
}

impl Drill {
    /// Starts a run.
    pub(crate) async fn start(arguments: &[&str], input: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TMPDIR", directory.path());
        command.arg("drill").args(arguments).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A process that does not read its input may have ended already.
        drop(stdin.write_all(input.as_bytes()).await);
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, stderr, output: String::new(), directory }
    }

    /// Waits for output that contains these text.
    pub(crate) async fn wait_for_output(&mut self, text: &str) {
        while !self.output.contains(text) {
            let line = within_timeout(text, self.stderr.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("no output with {text}: {}", self.output));
            self.output += &(line + "\n");
        }
    }

    /// Its child processes.
    pub(crate) fn children(&self) -> Vec<u32> {
        let own = self.child.id().unwrap().to_string();
        let is_child = |id: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|parent| parent.trim() == own))
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
    }

    /// Sends a signal by name.
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().await.unwrap();
        assert!(sent.success(), "kill -{name}");
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self) -> Drilled {
        while let Some(line) = within_timeout("the drill ends", self.stderr.next_line()).await.unwrap() {
            self.output += &(line + "\n");
        }
        let output = within_timeout("the drill ends", self.child.wait_with_output()).await.unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(is_empty(self.directory.path()), "files are left behind");
        let report = serde_json::from_str(&out).unwrap_or_default();
        Drilled { code: output.status.code(), report, text: out + &self.output }
    }
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

impl Drilled {
    /// Result of a fault.
    pub(crate) fn outcome(&self, fault: &str) -> &Value {
        let outcomes = self.report["faults"].as_array().unwrap_or_else(|| panic!("no report: {}", self.text));
        let found = outcomes.iter().find(|outcome| outcome["fault"] == fault);
        found.unwrap_or_else(|| panic!("no {fault}: {}", self.text))
    }
}

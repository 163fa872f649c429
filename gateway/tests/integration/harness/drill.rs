//! `earshot drill`, run to its end or until it is interrupted. It must never see more than an operator would: the exit
//! code, what is printed, and what is left behind.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::gateway::binary;
use super::soon;

/// A run that is over.
pub(crate) struct Drilled {
    pub(crate) code: Option<i32>,
    pub(crate) report: Value,
    /// Everything that was printed, by both streams.
    pub(crate) text: String,
}

/// A run that goes on, with a directory of its own for whatever is temporary.
pub(crate) struct Drill {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
    heard: String,
    pub(crate) directory: TempDir,
}

/// Runs with these arguments, and with a Redis URL on its standard input.
pub(crate) async fn drill(arguments: &[&str], input: &str) -> Drilled {
    Drill::start(&[&["--json"], arguments].concat(), input).await.end().await
}

impl Drill {
    /// Starts it.
    pub(crate) async fn start(arguments: &[&str], input: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TMPDIR", directory.path());
        command.arg("drill").args(arguments).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Whoever does not read it may have ended already.
        drop(stdin.write_all(input.as_bytes()).await);
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, said, heard: String::new(), directory }
    }

    /// Waits until it says something.
    pub(crate) async fn says(&mut self, words: &str) {
        while !self.heard.contains(words) {
            let line = soon(words, self.said.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("it never said {words}: {}", self.heard));
            self.heard += &(line + "\n");
        }
    }

    /// The processes that it has started.
    pub(crate) fn children(&self) -> Vec<u32> {
        let own = self.child.id().unwrap().to_string();
        let is_child = |id: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|parent| parent.trim() == own))
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
    }

    /// Sends it a signal by its name.
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().await.unwrap();
        assert!(sent.success(), "kill -{name}");
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self) -> Drilled {
        while let Some(line) = soon("the drill ends", self.said.next_line()).await.unwrap() {
            self.heard += &(line + "\n");
        }
        let output = soon("the drill ends", self.child.wait_with_output()).await.unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(is_empty(self.directory.path()), "something is left behind");
        let report = serde_json::from_str(&out).unwrap_or_default();
        Drilled { code: output.status.code(), report, text: out + &self.heard }
    }
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

impl Drilled {
    /// What came of an exercise.
    pub(crate) fn outcome(&self, exercise: &str) -> &Value {
        let outcomes =
            self.report["exercises"].as_array().unwrap_or_else(|| panic!("no report: {}", self.text));
        let found = outcomes.iter().find(|outcome| outcome["exercise"] == exercise);
        found.unwrap_or_else(|| panic!("no {exercise}: {}", self.text))
    }
}

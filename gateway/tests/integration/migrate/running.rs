//! Runs the tool and compares keyspaces.

use std::process::{Command, ExitStatus};

use redis::aio::MultiplexedConnection;
use redis::cmd;

use crate::harness::gateway::binary;
use crate::harness::keyspace::{Keys, read};
use crate::harness::process::Process;
use crate::harness::{Redis, within_timeout};

/// Arguments of a run.
pub(super) struct Migrate {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// Result of a run.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) text: String,
}

impl Migrate {
    /// Sets the source and the state file.
    pub(super) fn from(url: &str, state: &std::path::Path) -> Self {
        let arguments = vec![
            "migrate".into(),
            "--from".into(),
            url.into(),
            "--state".into(),
            state.to_str().unwrap().into(),
        ];
        Self { arguments, environment: Vec::new() }
    }

    pub(super) fn to(self, name: &str, server: &str) -> Self {
        self.with(&["--to", &format!("{name}={server}")])
    }

    pub(super) fn rule(self, rule: &str) -> Self {
        self.with(&["--rule", rule])
    }

    pub(super) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    pub(super) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the run.
    pub(super) fn start(&self) -> Process {
        let mut command = Command::new(binary());
        command.env_clear().envs(self.environment.iter().cloned()).args(&self.arguments);
        Process::start(command, tempfile::tempdir().unwrap())
    }

    /// Runs to completion.
    pub(super) async fn run(&self) -> Ended {
        let mut process = self.start();
        finish(&mut process).await
    }
}

/// Waits for the end of a run, regardless of the number of keys.
pub(super) async fn finish(process: &mut Process) -> Ended {
    let status = loop {
        match process.exit_status() {
            Some(status) => break status,
            None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    };
    Ended { status, text: process.log() }
}

impl Ended {
    pub(super) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Asserts the exit code; shows the output otherwise.
    #[track_caller]
    pub(super) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{}", self.text);
        self
    }

    /// Sum of the numbers before this text, over all lines.
    pub(super) fn sum(&self, what: &str) -> u64 {
        let number = |line: &str| line.trim().split(' ').next()?.parse::<u64>().ok();
        self.text.lines().filter(|line| line.contains(what)).filter_map(number).sum()
    }
}

/// Number of keys of a server.
pub(super) async fn count(connection: &mut MultiplexedConnection) -> usize {
    within_timeout("DBSIZE", cmd("DBSIZE").query_async(connection)).await.unwrap()
}

/// All keys of a server.
pub(super) async fn keys(redis: &Redis) -> Keys {
    read(&mut redis.connection().await).await
}

/// Keys with this prefix, renamed to another prefix.
pub(super) fn renamed(keys: &Keys, prefix: &str, to: &str) -> Keys {
    let strip = |key: &Vec<u8>| key.strip_prefix(prefix.as_bytes()).map(<[u8]>::to_vec);
    let renamed = |key: Vec<u8>| [to.as_bytes(), &key].concat();
    keys.iter().filter_map(|(key, content)| Some((renamed(strip(key)?), content.clone()))).collect()
}

/// Expected keys with the expiry times that were found, where they differ by at most this many milliseconds: Redis
/// itself may have rounded them.
pub(super) fn about(mut expected: Keys, found: &Keys, milliseconds: u64) -> Keys {
    for (key, content) in &mut expected {
        if let Some(there) =
            found.get(key).filter(|there| content.expiry.abs_diff(there.expiry) <= milliseconds)
        {
            content.expiry = there.expiry;
        }
    }
    expected
}

/// Asserts that two keyspaces are equal; shows the first differences.
#[track_caller]
pub(super) fn assert_same(expected: &Keys, found: &Keys) {
    let missing: Vec<_> =
        expected.iter().filter(|(key, content)| found.get(*key) != Some(content)).take(3).collect();
    for (key, content) in &missing {
        eprintln!("{}: {content:?} against {:?}", key.escape_ascii(), found.get(*key));
    }
    let added: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key)).take(3).collect();
    for key in &added {
        eprintln!("{}: not expected", key.escape_ascii());
    }
    assert!(
        missing.is_empty() && added.is_empty(),
        "{} keys expected, {} found",
        expected.len(),
        found.len()
    );
}

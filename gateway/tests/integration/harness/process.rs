//! A process under test. Its output goes to a file that is shown if the test fails. It must never outlive its test.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

use super::until;

/// A running process with its own directory.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Deleted with the process.
    _directory: TempDir,
}

impl Process {
    /// Starts a command in a fresh directory, which also holds its output.
    pub(crate) fn start(mut command: Command, directory: TempDir) -> Self {
        let log = directory.path().join("log");
        let out = File::create(&log).unwrap();
        let name = format!("{command:?}");
        let child = command
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name, child, log, _directory: directory }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, for example `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.id())).status().unwrap();
        assert!(sent.success(), "kill -{name}");
    }

    /// The exit status, if the process has exited.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until the process exits.
    pub(crate) async fn wait_for_exit(&mut self) -> ExitStatus {
        until(&format!("{} exits", self.name), async || self.child.try_wait().unwrap()).await
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Kills the process and waits for it.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            eprintln!("--- {}\n{}", self.name, tail.join("\n"));
        }
    }
}

/// A port without a listener on both loopback addresses. Each call in this process returns another one, below the
/// kernel's range of ephemeral ports.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let start = std::process::id() % 10_000;
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(20_000 + (start + step) % 10_000).unwrap();
        if ["127.0.0.1", "::1"].iter().all(|host| TcpListener::bind((*host, port)).is_ok()) {
            return port;
        }
    }
}

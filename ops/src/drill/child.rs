//! Child processes of the drill.
//!
//! Owns their start and signals; they are killed when dropped. Must never outlive the drill, nor signal a process that
//! is not its child.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child as Process, Command, Stdio};

use std::os::unix::process::CommandExt as _;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Ports below the range of outgoing connections, so that a server finds its port free after a restart.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A running process.
#[derive(Debug)]
pub(super) struct ChildProcess {
    process: Process,
}

impl ChildProcess {
    /// Starts a program in a directory, which also gets its log. It inherits no environment and no terminal signals.
    pub(super) fn start(program: &Path, arguments: &[&str], directory: &Path) -> Result<Self, String> {
        let log = directory.join("log");
        let open = || File::options().create(true).append(true).open(&log);
        let start = || {
            let (out, errors) = (open()?, open()?);
            Command::new(program)
                .args(arguments)
                .current_dir(directory)
                .env_clear()
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(out)
                .stderr(errors)
                .spawn()
        };
        let process = start().map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        Ok(Self { process })
    }

    /// Sends SIGKILL, as a crash would end it, and waits for its end.
    pub(super) fn kill(&mut self) {
        // Fails if the process has exited by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Sends SIGSTOP.
    pub(super) fn suspend(&self) -> Result<(), String> {
        self.signal(Signal::SIGSTOP)
    }

    /// Sends SIGCONT.
    pub(super) fn resume(&self) -> Result<(), String> {
        self.signal(Signal::SIGCONT)
    }

    /// Whether it has exited by itself.
    pub(super) fn has_exited(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        let id = i32::try_from(self.process.id()).map_err(|_| "no process id")?;
        kill(Pid::from_raw(id), signal).map_err(|error| format!("cannot signal a child process: {error}"))
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Finds a program by its path, or by its name in PATH.
pub(super) fn find(program: &Path) -> Option<std::path::PathBuf> {
    if program.components().count() > 1 {
        return program.canonicalize().ok();
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// A free port on 127.0.0.1.
pub(super) fn free_port() -> Result<u16, String> {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let tries = std::iter::repeat_with(|| fastrand::u16(PORTS)).take(1000);
    tries.into_iter().find(free).ok_or_else(|| format!("no free port on 127.0.0.1 in {PORTS:?}"))
}

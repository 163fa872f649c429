//! Redis servers as child processes: one for the faults, and a replica that is promoted.
//!
//! Owns their configuration: random passwords, an ACL user for the gateway, and full durability, so that streams
//! survive a kill. Must never listen on an address other than loopback.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::backend::Backend;
use super::child::{ChildProcess, free_port};
use super::directory::{self, Directory};

/// ACL user of the gateway.
pub(super) const USER: &str = "earshot";

/// Time limit for the start of a server.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Passwords of a drill.
#[derive(Clone)]
pub(super) struct Passwords {
    /// Of the default user: for the drill, and for a replica at its primary.
    pub(super) admin: String,
    /// Of the gateway's user.
    pub(super) gateway: String,
    /// Key of the gateway's HTTP API.
    pub(super) api: String,
}

impl Passwords {
    pub(super) fn random() -> Self {
        Self { admin: secret(), gateway: secret(), api: secret() }
    }
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passwords")
    }
}

/// A random secret.
pub(super) fn secret() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// One `redis-server`.
#[derive(Debug)]
pub(super) struct TestServer {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    child: ChildProcess,
    backend: Backend,
}

impl TestServer {
    /// Starts a server and waits until it responds.
    pub(super) async fn start(
        program: &Path,
        passwords: &Passwords,
        name: &str,
        directory: &Directory,
    ) -> Result<Self, String> {
        let port = free_port()?;
        let subdirectory = directory.subdirectory(name)?;
        directory::write(&subdirectory.join("redis.conf"), &configuration(port, passwords))?;
        let backend = Backend::at(&format!("redis://:{}@127.0.0.1:{port}", passwords.admin));
        let child = spawn(program, &subdirectory)?;
        let mut server = Self { program: program.to_owned(), directory: subdirectory, port, child, backend };
        server.wait_until_up().await?;
        Ok(server)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Sends SIGKILL.
    pub(super) fn kill(&mut self) {
        self.child.kill();
    }

    /// Starts it again and waits until it responds.
    pub(super) async fn restart(&mut self) -> Result<(), String> {
        self.child = spawn(&self.program, &self.directory)?;
        self.wait_until_up().await
    }

    /// Sends SIGSTOP.
    pub(super) fn suspend(&self) -> Result<(), String> {
        self.child.suspend()
    }

    /// Sends SIGCONT.
    pub(super) fn resume(&self) -> Result<(), String> {
        self.child.resume()
    }

    async fn wait_until_up(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + STARTUP_TIMEOUT;
        loop {
            let Err(why) = self.backend.run(&["PING"]).await else { return Ok(()) };
            if self.child.has_exited() || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or("its log is empty").to_owned();
                return Err(format!("{} did not start: {why}; {last}", self.program.display()));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

fn spawn(program: &Path, directory: &Path) -> Result<ChildProcess, String> {
    ChildProcess::start(program, &["redis.conf"], directory)
}

fn configuration(port: u16, passwords: &Passwords) -> String {
    let Passwords { admin, gateway, .. } = passwords;
    format!(
        "bind 127.0.0.1\nport {port}\nsave \"\"\nappendonly yes\nappendfsync always\nrequirepass {admin}\n\
         masterauth {admin}\nuser {USER} on >{gateway} ~* &* +@all\n"
    )
}

//! Redis servers of the drill's own: one that is broken, and a replica that takes over.
//!
//! Owns their configuration: a random password, an ACL user for the gateway, and everything kept that was confirmed, so
//! that a log outlives a kill. Must never listen elsewhere than on loopback.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::backend::Backend;
use super::child::{Child, free_port};
use super::directory::{self, Directory};

/// The ACL user that the gateway signs in as.
pub(super) const USER: &str = "earshot";

/// How long a server may take to answer after its start.
const START: Duration = Duration::from_secs(20);
const GLANCE: Duration = Duration::from_millis(2);

/// Passwords of a drill.
#[derive(Clone)]
pub(super) struct Passwords {
    /// The default user's: the drill's own, and that of a replica at its primary.
    pub(super) admin: String,
    /// The gateway's.
    pub(super) gateway: String,
    /// The key of the gateway's HTTP API.
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

/// A random text that no server has seen.
pub(super) fn secret() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// One `redis-server`.
#[derive(Debug)]
pub(super) struct Server {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    child: Child,
    backend: Backend,
}

impl Server {
    /// Starts one and waits until it answers.
    pub(super) async fn start(
        program: &Path,
        passwords: &Passwords,
        name: &str,
        directory: &Directory,
    ) -> Result<Self, String> {
        let port = free_port()?;
        let below = directory.below(name)?;
        directory::write(&below.join("redis.conf"), &configuration(port, passwords))?;
        let backend = Backend::at(&format!("redis://:{}@127.0.0.1:{port}", passwords.admin));
        let child = spawn(program, &below)?;
        let mut server = Self { program: program.to_owned(), directory: below, port, child, backend };
        server.answers().await?;
        Ok(server)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        self.child.kill();
    }

    /// Starts it again, and waits until it answers.
    pub(super) async fn start_again(&mut self) -> Result<(), String> {
        self.child = spawn(&self.program, &self.directory)?;
        self.answers().await
    }

    /// Lets it hang.
    pub(super) fn stop(&self) -> Result<(), String> {
        self.child.stop()
    }

    /// Lets it go on.
    pub(super) fn go_on(&self) -> Result<(), String> {
        self.child.go_on()
    }

    async fn answers(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START;
        loop {
            let Err(why) = self.backend.run(&["PING"]).await else { return Ok(()) };
            if self.child.has_ended() || Instant::now() > deadline {
                let said = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it says nothing").to_owned();
                return Err(format!("{} does not come up: {why}; {last}", self.program.display()));
            }
            sleep(GLANCE).await;
        }
    }
}

fn spawn(program: &Path, directory: &Path) -> Result<Child, String> {
    Child::start(program, &["redis.conf"], directory)
}

fn configuration(port: u16, passwords: &Passwords) -> String {
    let Passwords { admin, gateway, .. } = passwords;
    format!(
        "bind 127.0.0.1\nport {port}\nsave \"\"\nappendonly yes\nappendfsync always\nrequirepass {admin}\n\
         masterauth {admin}\nuser {USER} on >{gateway} ~* &* +@all\n"
    )
}

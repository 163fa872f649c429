//! The gateway of the drill's own: this very program as `serve`, with the times that production has.
//!
//! Owns its configuration, which says only what must be said: everything else is the default, so the default is what is
//! proven. Must never be given a secret by an argument or the environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::child::{Child, free_port};
use super::directory::{self, Directory};
use super::server::{Passwords, USER};

/// What its channels are called.
pub(super) const PLAIN: &str = "drill:plain";
pub(super) const LOG: &str = "drill:log";
/// What the names of many channels begin with.
pub(super) const CROWD: &str = "drill:crowd:";

/// A gateway that can be killed.
#[derive(Debug)]
pub(super) struct OwnGateway {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    child: Child,
}

impl OwnGateway {
    /// Starts one whose Redis is behind an address.
    pub(super) fn start(
        redis: SocketAddr,
        passwords: &Passwords,
        directory: &Directory,
    ) -> Result<Self, String> {
        let program = std::env::current_exe()
            .map_err(|error| format!("this program does not find itself to start a gateway: {error}"))?;
        let (port, below) = (free_port()?, directory.below("gateway")?);
        directory::write(&below.join("password"), &passwords.gateway)?;
        directory::write(&below.join("earshot.toml"), &configuration(port, redis, &passwords.api))?;
        let child = spawn(&program, &below)?;
        Ok(Self { program, directory: below, port, child })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        self.child.kill();
    }

    pub(super) fn start_again(&mut self) -> Result<(), String> {
        self.child = spawn(&self.program, &self.directory)?;
        Ok(())
    }

    /// The last line of its log, when it has ended by itself.
    pub(super) fn last_words(&mut self) -> Option<String> {
        let log = || std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        self.child.has_ended().then(|| log().lines().last().unwrap_or("it says nothing").to_owned())
    }
}

fn spawn(program: &std::path::Path, directory: &std::path::Path) -> Result<Child, String> {
    Child::start(program, &["serve", "--config", "earshot.toml"], directory)
}

fn configuration(port: u16, redis: SocketAddr, api_key: &str) -> String {
    format!(
        "listen = [\"127.0.0.1:{port}\"]\n\n\
         [api]\nkey = \"{api_key}\"\n\n\
         [redis.default]\nurl = \"redis://{redis}\"\nusername = \"{USER}\"\npassword_file = \"password\"\n\n\
         [[namespace]]\nname = \"log\"\nchannels = [\"{LOG}\"]\nsource = \"stream\"\n\n\
         [[namespace]]\nname = \"plain\"\nchannels = [\"drill:*\"]\n"
    )
}

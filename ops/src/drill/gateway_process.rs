//! A gateway as a child process: this program with `serve` and production settings.
//!
//! Owns its configuration, which contains only what is required: the drill tests the defaults. Must never pass a secret
//! in an argument or the environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::child::{ChildProcess, free_port};
use super::directory::{self, Directory};
use super::server::{Passwords, USER};

/// Names of its channels.
pub(super) const PLAIN: &str = "drill:plain";
pub(super) const LOG: &str = "drill:log";
/// Prefix of the channels of the background load.
pub(super) const BACKGROUND_PREFIX: &str = "drill:background:";

/// A gateway that can be killed.
#[derive(Debug)]
pub(super) struct GatewayProcess {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    child: ChildProcess,
}

impl GatewayProcess {
    /// Starts a gateway for the Redis at this address.
    pub(super) fn start(
        redis: SocketAddr,
        passwords: &Passwords,
        directory: &Directory,
    ) -> Result<Self, String> {
        let program = std::env::current_exe()
            .map_err(|error| format!("cannot determine the path of this program: {error}"))?;
        let (port, subdirectory) = (free_port()?, directory.subdirectory("gateway")?);
        directory::write(&subdirectory.join("password"), &passwords.gateway)?;
        directory::write(&subdirectory.join("earshot.toml"), &configuration(port, redis, &passwords.api))?;
        let child = spawn(&program, &subdirectory)?;
        Ok(Self { program, directory: subdirectory, port, child })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Sends SIGKILL.
    pub(super) fn kill(&mut self) {
        self.child.kill();
    }

    pub(super) fn restart(&mut self) -> Result<(), String> {
        self.child = spawn(&self.program, &self.directory)?;
        Ok(())
    }

    /// Last line of its log, if it has exited.
    pub(super) fn exit_reason(&mut self) -> Option<String> {
        let log = || std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        self.child.has_exited().then(|| log().lines().last().unwrap_or("its log is empty").to_owned())
    }
}

fn spawn(program: &std::path::Path, directory: &std::path::Path) -> Result<ChildProcess, String> {
    ChildProcess::start(program, &["serve", "--config", "earshot.toml"], directory)
}

fn configuration(port: u16, redis: SocketAddr, api_key: &str) -> String {
    format!(
        "listen = [\"127.0.0.1:{port}\"]\n\n\
         [api]\nkey = \"{api_key}\"\n\n\
         [redis.default]\nurl = \"redis://{redis}\"\nusername = \"{USER}\"\npassword_file = \"password\"\n\n\
         [[namespace]]\nname = \"log\"\nchannels = [\"{LOG}\"]\nsubscribe = \"anyone\"\nsource = \"stream\"\n\n\
         [[namespace]]\nname = \"plain\"\nchannels = [\"drill:*\"]\nsubscribe = \"anyone\"\n"
    )
}

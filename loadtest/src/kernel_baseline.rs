//! `limit`: what the kernel takes in any case. A process of its own, the *bare loop*, writes one ready frame to each of
//! N sockets from one thread and does nothing else; it is measured with the same clients and the same counters as any
//! server. Whatever a server needs beyond that is its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use clap::Args;

use crate::options::{Defaults, Options, Transports};
use crate::publisher::PublishTarget;
use crate::record::Record;
use crate::resources::process::ProcessName;
use crate::scenario::{RunError, fanout};
use crate::target::{TargetKind, Url};

mod server;

pub(crate) use server::{BaselineServerArgs, serve};

/// What the kernel takes in any case: one thread that writes one ready frame to each socket.
#[derive(Args, Clone, Debug)]
pub(crate) struct KernelBaselineArgs {
    #[command(flatten)]
    pub(crate) options: Options,
    /// Messages at once; above 1 the loop writes them to each socket together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    burst: u64,
    /// The core that the loop runs on, by `taskset`; wherever the kernel puts it unless given
    #[arg(long, value_name = "CORE")]
    server_core: Option<String>,
}

/// Runs a fan-out against a bare loop of its own.
pub(crate) fn run(args: &KernelBaselineArgs) -> Result<Record, RunError> {
    let mut options = args.options.clone();
    let server = BaselineServer::start(args)?;
    options.target = TargetKind::KernelBaseline;
    options.url = Url::from(server.address);
    options.publish = PublishTarget::KernelBaseline;
    options.process = vec![ProcessName::Number(server.child.id())];
    options.transport = Some(options.transport.unwrap_or(Transports::Ws));
    let mut config = options.resolve("kernel-baseline", &Defaults::default())?;
    config.burst = args.burst;
    let mut record = fanout::play(config)?;
    for process in &mut record.processes {
        "kernel baseline".clone_into(&mut process.name);
    }
    Ok(record)
}

/// A bare loop in a process of its own; it ends with its owner.
#[derive(Debug)]
struct BaselineServer {
    child: Child,
    address: SocketAddr,
}

impl BaselineServer {
    fn start(args: &KernelBaselineArgs) -> Result<Self, RunError> {
        let own = std::env::current_exe()?;
        let mut command = match &args.server_core {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", core]).arg(own);
                command
            }
            None => Command::new(own),
        };
        command.args(["baseline-server", "--until-eof"]);
        if args.burst > 1 {
            command.arg("--join");
        }
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| RunError::InvalidOptions(format!("{command:?}: {error}")))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let address = line.trim().parse();
        server.address =
            address.map_err(|_| RunError::InvalidOptions(format!("{command:?} has not started")))?;
        Ok(server)
    }
}

impl Drop for BaselineServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! `kernel-baseline`: the cost of the kernel alone. A separate process writes one prepared frame to each of N sockets
//! from one thread and does nothing else. It is measured with the same clients and counters as any server, so the
//! difference is the cost of the server itself.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use clap::Args;

use crate::error::RunError;
use crate::options::{Defaults, Options};
use crate::publisher::PublishTarget;
use crate::record::Record;
use crate::resources::process::ProcessName;
use crate::run_config::Transports;
use crate::scenario::fanout;
use crate::target::{TargetKind, Url};

mod server;

pub(crate) use server::{BaselineServerArgs, serve};

/// Kernel baseline: one thread that writes one prepared frame to each socket.
#[derive(Args, Clone, Debug)]
pub(crate) struct KernelBaselineArgs {
    #[command(flatten)]
    pub(crate) options: Options,
    /// Messages per burst; above 1, a burst is written to each socket with one call
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    burst: u64,
    /// Core of the server process, set with `taskset` [default: chosen by the kernel]
    #[arg(long, value_name = "CORE")]
    server_core: Option<String>,
}

/// Runs a fan-out against its own baseline server.
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

/// The baseline server in a child process; killed on drop.
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
        server.address = address
            .map_err(|_| RunError::InvalidOptions(format!("{command:?} did not print its address")))?;
        Ok(server)
    }
}

impl Drop for BaselineServer {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

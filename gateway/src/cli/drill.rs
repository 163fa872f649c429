//! `earshot drill`: runs failure drills against Redis and verifies recovery.
//!
//! Owns the flags, the signals and the exit code. Must never show a secret; must never break what the drill did not
//! start without `--allow-destructive`.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::io::{print_message, read_stdin, usage_error, write_stdout};
use crate::config::{RedisUrl, duration};
use earshot_ops::drill::{self, DrillReport, DrillTarget, External, Fault, Settings};
use earshot_redis_link::{ConnectConfig, TlsConfig};

/// Flags of `earshot drill`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all checks passed, 1 a check failed or the drill could not be run, 2 invalid command line."
)]
pub struct DrillArgs {
    /// Faults to inject, separated by commas [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = fault)]
    only: Vec<Fault>,
    /// List the faults and exit
    #[arg(long)]
    list: bool,
    /// Duration of the long faults
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = outage_duration)]
    outage: Duration,
    /// Number of additional channels to subscribe to as background load
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    channels: usize,
    /// redis-server program to start: a path, or a name in PATH
    #[arg(long, value_name = "PATH", default_value = "redis-server", conflicts_with = "redis")]
    redis_server: PathBuf,
    /// Keep the directory with the configurations and logs of the child processes
    #[arg(long, conflicts_with = "redis")]
    keep: bool,
    /// Test this gateway instead of a temporary one: http://host:port, without a proxy in front. The API key is read
    /// from EARSHOT_API_KEY
    #[arg(long, value_name = "URL", requires = "redis")]
    gateway: Option<String>,
    /// Redis of that gateway, with a user that may run CLIENT, ACL and CONFIG; `-` reads the URL from standard input,
    /// because arguments are visible to all users in `ps`
    #[arg(long, value_name = "URL", requires = "gateway")]
    redis: Option<String>,
    /// Permit faults in that gateway and that Redis server: connections are closed, and passwords and permissions are changed
    /// for some seconds
    #[arg(long)]
    allow_destructive: bool,
    /// Listen on this address in front of that Redis server; the gateway must be configured to connect here
    #[arg(long, value_name = "ADDR", requires = "redis")]
    proxy: Option<String>,
    /// With --redis: trust the CA certificates (PEM) of this file instead of the system's
    #[arg(long, value_name = "PATH", requires = "redis")]
    ca_file: Option<PathBuf>,
    /// With --gateway: a `pubsub` channel without other publishers [default: drill: and a random suffix]
    #[arg(long, value_name = "CHANNEL", requires = "gateway")]
    channel: Option<String>,
    /// With --gateway: a `stream` channel without other publishers [default: none]
    #[arg(long, value_name = "CHANNEL", requires = "gateway")]
    stream_channel: Option<String>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

fn fault(name: &str) -> Result<Fault, String> {
    let names = || Fault::ALL.map(Fault::name).join(", ");
    Fault::by_name(name).ok_or_else(|| format!("expected one of {}", names()))
}

fn outage_duration(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    let outage_duration = duration(text).ok_or("expected a duration such as 10s or 1m")?;
    if range.contains(&outage_duration) { Ok(outage_duration) } else { Err("expected 1s to 1h".to_owned()) }
}

impl DrillArgs {
    /// Runs the drill, prints the report and returns the exit code.
    pub fn run(&self) -> ExitCode {
        if self.list {
            return write_stdout(&list(), ExitCode::SUCCESS);
        }
        let settings = match self.settings() {
            Ok(settings) => settings,
            Err(error) => return usage_error(&error),
        };
        match self.drill(&settings) {
            Ok(report) => self.print(&report),
            Err(error) => {
                print_message(&format!("the drill was not completed: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    fn settings(&self) -> Result<Settings, String> {
        let faults = if self.only.is_empty() { Fault::ALL.to_vec() } else { self.only.clone() };
        let target = match (&self.gateway, &self.redis) {
            (Some(gateway), Some(redis)) => DrillTarget::External(Box::new(self.external(gateway, redis)?)),
            _ => DrillTarget::Own { redis_server: self.redis_server.clone(), keep: self.keep },
        };
        Ok(Settings { target, faults, outage: self.outage, channels: self.channels })
    }

    fn external(&self, gateway: &str, redis: &str) -> Result<External, String> {
        if !self.allow_destructive {
            return Err("the drill injects faults into the given gateway and Redis: connections are closed, and \
                        passwords and permissions are changed for some seconds; use --allow-destructive to permit this"
                .to_owned());
        }
        let gateway = gateway.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let is_authority = |rest: &&str| {
            let host_and_port = rest.rsplit_once(':');
            host_and_port.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
                && !rest.contains(['/', '@', '?'])
        };
        let gateway = gateway.filter(is_authority).ok_or(
            "--gateway: expected http://host:port, the address of the gateway itself without TLS (`earshot check \
             --path` checks the public path)",
        )?;
        let url = if redis == "-" { read_stdin()? } else { redis.to_owned() };
        let url = RedisUrl::parse(url.trim()).map_err(|what| format!("--redis: {what}"))?;
        let tls = TlsConfig { ca_file: self.ca_file.clone(), ..TlsConfig::default() };
        let channel = || format!("drill:{:08x}", fastrand::u32(..));
        Ok(External {
            gateway: gateway.to_owned(),
            api_key: std::env::var("EARSHOT_API_KEY").ok().filter(|key| !key.is_empty()),
            redis: ConnectConfig { url: url.expose().to_owned(), tls, ..ConnectConfig::default() },
            proxy: self.proxy.clone(),
            channel: self.channel.clone().unwrap_or_else(channel),
            stream_channel: self.stream_channel.clone(),
        })
    }

    fn drill(&self, settings: &Settings) -> Result<DrillReport, String> {
        // One crypto provider for all TLS. A second installation is rejected, which is harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let prints_progress = !self.json || io::stderr().is_terminal();
        let progress = |text: &str| {
            if prints_progress {
                print_message(text);
            }
        };
        runtime.block_on(async {
            let interrupted = interrupted().map_err(|error| error.to_string())?;
            Box::pin(drill::run(settings, &progress, interrupted)).await
        })
    }

    fn print(&self, report: &DrillReport) -> ExitCode {
        let text = if self.json { format!("{:#}\n", report.to_json()) } else { report.to_string() };
        write_stdout(&text, if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Resolves on SIGINT, SIGTERM or SIGHUP.
fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut signals = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        signals.push(signal(kind)?);
    }
    Ok(async move {
        let any = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(any).await;
    })
}

fn list() -> String {
    let line = |fault: Fault| format!("{:<18} {}\n", fault.name(), fault.description());
    Fault::ALL.map(line).concat()
}

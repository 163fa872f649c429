//! `earshot check`: diagnostics for Redis servers and for the path to a gateway.
//!
//! Owns the flags, the sources of a URL, and the exit code. Must never show a secret, and must warn about secrets in
//! arguments.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::io::{print_message, read_stdin, usage_error, write_stdout};
use crate::config::{Config, Flags, RedisUrl};
use earshot_ops::check::client_path::GatewayTarget;
use earshot_ops::check::redis::{CheckPlan, CheckedServer};
use earshot_ops::check::{self, Report};
use earshot_redis_link::{ConnectConfig, TlsConfig};

/// Flags of `earshot check`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 no failures (possibly warnings), 1 a check failed, 2 invalid command line or configuration."
)]
pub struct CheckArgs {
    /// URL of a Redis server; `-` reads it from standard input. Arguments are visible to all users in `ps`: pass a URL with a
    /// password in REDIS_URL or with `-` [default: all Redis instances of the configuration]
    #[arg(value_name = "URL", conflicts_with_all = ["config", "path"])]
    url: Option<String>,
    /// Configuration file whose Redis instances are checked [default: EARSHOT_CONFIG, or earshot.toml in the working
    /// directory if it exists; REDIS_URL is used as by `earshot serve`]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Check a deployed gateway from a client's side, at `https://host:port/prefix` or `http://…`
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    path: Option<String>,
    /// With --path: origin of the page, as scheme://host [default: the gateway's own host]
    #[arg(long, value_name = "ORIGIN", requires = "path")]
    origin: Option<String>,
    /// With --path: channel to subscribe to, or a glob; needed if the configuration allows only certain channels
    #[arg(long, value_name = "CHANNEL", requires = "path")]
    channel: Option<String>,
    /// With --path: how long an idle connection must stay open, in seconds; 0 skips the test
    #[arg(long, value_name = "SECONDS", default_value = "75", value_parser = idle, requires = "path")]
    idle: Duration,
    /// With --path or a URL: CA certificates (PEM) to trust instead of the system's
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    ca_file: Option<PathBuf>,
    /// Time limit of one step, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    timeout: Duration,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    within(text, 0.1)
}

fn idle(text: &str) -> Result<Duration, String> {
    within(text, 0.0)
}

fn within(text: &str, min: f64) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if !(min..=3600.0).contains(&seconds) {
        return Err(format!("expected {min} to 3600 seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// The target of the checks.
enum Targets {
    Servers(Vec<CheckedServer>),
    Path(GatewayTarget),
}

impl CheckArgs {
    /// Runs the checks and prints the report.
    pub fn run(&self) -> ExitCode {
        let targets = match &self.path {
            Some(url) => self.target(url).map(Targets::Path),
            None => self.servers().map(Targets::Servers),
        };
        let targets = match targets {
            Ok(targets) => targets,
            Err(error) => return usage_error(&error),
        };
        if let Targets::Path(target) = &targets
            && !target.idle.is_zero()
        {
            print_message(&format!(
                "takes about {:?} because of the idle test; skip it with --idle 0",
                target.idle
            ));
        }
        match run_checks(&targets, self.timeout) {
            Ok(report) => self.print(&report),
            Err(error) => {
                print_message(&format!("cannot run the checks: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    fn target(&self, url: &str) -> Result<GatewayTarget, String> {
        let mut target = GatewayTarget::parse(url).map_err(|what| format!("--path: {what}"))?;
        target.tls.ca_file.clone_from(&self.ca_file);
        target.tls.load_roots().map_err(|what| format!("--ca-file: {what}"))?;
        if let Some(origin) = &self.origin {
            let is_origin =
                origin.split_once("://").is_some_and(|(_, host)| !host.is_empty() && !host.contains('/'));
            if !is_origin || !origin.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err("--origin: expected scheme://host[:port] without a path".to_owned());
            }
        }
        target.origin.clone_from(&self.origin);
        target.channel.clone_from(&self.channel);
        target.idle = self.idle;
        Ok(target)
    }

    fn print(&self, report: &Report) -> ExitCode {
        let text = if self.json { format!("{:#}\n", report.to_json()) } else { report.to_string() };
        let code = if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        write_stdout(&text, code)
    }

    fn servers(&self) -> Result<Vec<CheckedServer>, String> {
        let Some(url) = &self.url else { return self.configured() };
        let url = if url == "-" { read_stdin()? } else { url.clone() };
        let url = RedisUrl::parse(url.trim()).map_err(|what| format!("invalid URL: {what}"))?;
        let tls = TlsConfig { ca_file: self.ca_file.clone(), ..TlsConfig::default() };
        let instance = ConnectConfig { url: url.expose().to_owned(), tls, ..ConnectConfig::default() };
        let instance = self.timed(instance);
        Ok(vec![CheckedServer { name: "redis".to_owned(), instance, plan: CheckPlan::default() }])
    }

    fn configured(&self) -> Result<Vec<CheckedServer>, String> {
        let flags = Flags { config: self.config.clone(), ..Flags::default() };
        let config = Config::load(&flags).map_err(|errors| errors.to_string())?;
        let timed = |server: CheckedServer| CheckedServer { instance: self.timed(server.instance), ..server };
        let servers: Vec<CheckedServer> = config.servers().into_iter().map(timed).collect();
        if servers.is_empty() {
            return Err("no Redis to check: pass a URL, set REDIS_URL, or use --config with a file that has [redis.NAME]".to_owned());
        }
        Ok(servers)
    }

    fn timed(&self, settings: ConnectConfig) -> ConnectConfig {
        ConnectConfig { connect_timeout: self.timeout, command_timeout: self.timeout, ..settings }
    }
}

fn run_checks(targets: &Targets, limit: Duration) -> io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sections = runtime.block_on(async {
        match targets {
            // Concurrently, so that a hanging server does not delay the others.
            Targets::Servers(servers) => {
                futures::future::join_all(servers.iter().map(|server| check::redis::inspect(server, limit)))
                    .await
            }
            Targets::Path(target) => vec![Box::pin(check::client_path::inspect(target, limit)).await],
        }
    });
    Ok(Report { sections })
}

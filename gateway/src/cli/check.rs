//! `earshot check`: what is wrong with a Redis, or with the way to a gateway.
//!
//! Owns the flags, where a URL may come from, and the exit code. Must never show a secret, nor take one where `ps`
//! shows it without saying so.

use std::io::{self, Read as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::check::path::Target;
use crate::check::redis::{Plan, Server};
use crate::check::{self, Report};
use crate::config::{Config, Flags, RedisUrl};
use crate::instance::{InstanceSettings, TlsSettings};

/// The exit code of a command line, a URL or a configuration that is wrong.
const WRONG: u8 = 2;

/// The flags of `earshot check`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 it works (warnings included), 1 something failed, 2 the command line or the configuration is wrong."
)]
pub struct Args {
    /// URL of a Redis; `-` reads it from standard input. What is written here is visible to everybody in `ps`: a URL
    /// with a password is better given in REDIS_URL or by `-` [default: every Redis of the configuration]
    #[arg(value_name = "URL", conflicts_with_all = ["config", "path"])]
    url: Option<String>,
    /// Configuration file whose Redis instances are looked at [default: EARSHOT_CONFIG, or earshot.toml in the working
    /// directory if it is there; REDIS_URL counts as for `earshot serve`]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Look at a deployed gateway from a client's side, at `https://host:port/prefix` or `http://…`
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    path: Option<String>,
    /// With --path: the origin of the page that clients come from, as scheme://host [default: the gateway's own host]
    #[arg(long, value_name = "ORIGIN", requires = "path")]
    origin: Option<String>,
    /// With --path: the channel to open, or a glob of which a name is made up; where the configuration admits only some
    #[arg(long, value_name = "CHANNEL", requires = "path")]
    channel: Option<String>,
    /// With --path: how long a silent connection must live, in seconds; 0: not looked at
    #[arg(long, value_name = "SECONDS", default_value = "75", value_parser = idle, requires = "path")]
    idle: Duration,
    /// With --path or a URL: certificates (PEM) of the authorities to trust, in the place of the system's
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    ca_file: Option<PathBuf>,
    /// The longest that one step may take, in seconds
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

fn within(text: &str, least: f64) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if !(least..=3600.0).contains(&seconds) {
        return Err(format!("expected {least} to 3600 seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// What is looked at.
enum Targets {
    Servers(Vec<Server>),
    Path(Target),
}

impl Args {
    /// Looks, prints, and tells the exit code.
    pub fn run(&self) -> ExitCode {
        let targets = match &self.path {
            Some(url) => self.target(url).map(Targets::Path),
            None => self.servers().map(Targets::Servers),
        };
        let targets = match targets {
            Ok(targets) => targets,
            Err(why) => {
                say(&why);
                return ExitCode::from(WRONG);
            }
        };
        if let Targets::Path(target) = &targets
            && !target.idle.is_zero()
        {
            say(&format!(
                "this takes {:?} and a little more: silence is listened to (--idle 0 leaves that out)",
                target.idle
            ));
        }
        match look(&targets, self.timeout) {
            Ok(report) => self.print(&report),
            Err(error) => {
                say(&format!("nothing can be looked at: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    fn target(&self, url: &str) -> Result<Target, String> {
        let mut target = Target::parse(url).map_err(|what| format!("--path: {what}"))?;
        target.tls.ca_file.clone_from(&self.ca_file);
        target.tls.roots().map_err(|what| format!("--ca-file: {what}"))?;
        if let Some(origin) = &self.origin {
            let is_origin =
                origin.split_once("://").is_some_and(|(_, host)| !host.is_empty() && !host.contains('/'));
            if !is_origin || !origin.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err("--origin: expected scheme://host[:port], as browsers write it, without a path"
                    .to_owned());
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
        // A reader who has seen enough (`| head`) is no failure.
        match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            _ => code,
        }
    }

    fn servers(&self) -> Result<Vec<Server>, String> {
        let Some(url) = &self.url else { return self.configured() };
        let url = if url == "-" { from_stdin()? } else { url.clone() };
        let url = RedisUrl::parse(url.trim()).map_err(|what| format!("the URL: {what}"))?;
        let tls = TlsSettings { ca_file: self.ca_file.clone(), ..TlsSettings::default() };
        let instance = InstanceSettings { url: url.expose().to_owned(), tls, ..InstanceSettings::default() };
        let instance = self.timed(instance);
        Ok(vec![Server { name: "redis".to_owned(), instance, plan: Plan::default() }])
    }

    fn configured(&self) -> Result<Vec<Server>, String> {
        let flags = Flags { config: self.config.clone(), ..Flags::default() };
        let config = Config::load(&flags).map_err(|errors| errors.to_string())?;
        let timed = |server: Server| Server { instance: self.timed(server.instance), ..server };
        let servers: Vec<Server> = config.servers().into_iter().map(timed).collect();
        if servers.is_empty() {
            return Err("there is no Redis to look at: give a URL, set REDIS_URL, or name a file with [redis.NAME] by --config".to_owned());
        }
        Ok(servers)
    }

    fn timed(&self, settings: InstanceSettings) -> InstanceSettings {
        InstanceSettings { connect_timeout: self.timeout, command_timeout: self.timeout, ..settings }
    }
}

fn from_stdin() -> Result<String, String> {
    let mut text = String::new();
    // No URL is longer; whatever is, is none.
    let read = io::stdin().take(64 * 1024).read_to_string(&mut text);
    read.map_err(|error| format!("no URL could be read from standard input: {error}"))?;
    Ok(text)
}

fn look(targets: &Targets, limit: Duration) -> io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sections = runtime.block_on(async {
        match targets {
            // Side by side: one that hangs costs no time of another.
            Targets::Servers(servers) => {
                futures::future::join_all(servers.iter().map(|server| check::redis::inspect(server, limit)))
                    .await
            }
            Targets::Path(target) => vec![Box::pin(check::path::inspect(target, limit)).await],
        }
    });
    Ok(Report { sections })
}

/// For people, beside the report.
fn say(text: &str) {
    // Nobody is left to tell when even this cannot be written.
    let _ = writeln!(io::stderr(), "{text}");
}

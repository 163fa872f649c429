//! `earshot check`: what is wrong with a Redis, or with the way to a gateway.
//!
//! Owns the flags, where a URL may come from, and the exit code. Must never show a secret, nor take one where `ps`
//! shows it without saying so.

use std::io::{self, Read as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::check::redis::{Plan, PlannedChannel, PlannedLog, Server};
use crate::check::{self, Report};
use crate::config::{Config, Flags, Namespace, RedisInstance, RedisUrl, Source};
use crate::instance::InstanceSettings;

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
    /// Look at a deployed gateway from a client's side: http(s)://host[:port][/prefix]
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    path: Option<String>,
    /// The longest that one step may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    timeout: Duration,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if !(0.1..=3600.0).contains(&seconds) {
        return Err("expected 0.1 to 3600 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

impl Args {
    /// Looks, prints, and tells the exit code.
    pub fn run(&self) -> ExitCode {
        let servers = match self.servers() {
            Ok(servers) => servers,
            Err(why) => {
                // Nobody is left to tell when even this cannot be written.
                let _ = writeln!(io::stderr(), "{why}");
                return ExitCode::from(WRONG);
            }
        };
        let report = match look(&servers, self.timeout) {
            Ok(report) => report,
            Err(error) => {
                let _ = writeln!(io::stderr(), "nothing can be looked at: {error}");
                return ExitCode::FAILURE;
            }
        };
        self.print(&report)
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
        let instance = InstanceSettings { url: url.expose().to_owned(), ..self.timed("redis") };
        Ok(vec![Server { name: "redis".to_owned(), instance, plan: Plan::default() }])
    }

    fn configured(&self) -> Result<Vec<Server>, String> {
        let flags = Flags { config: self.config.clone(), listen: Vec::new() };
        let config = Config::load(&flags).map_err(|errors| errors.to_string())?;
        let servers: Vec<Server> = config.redis.iter().flat_map(|redis| self.of(redis, &config)).collect();
        if servers.is_empty() {
            return Err("there is no Redis to look at: give a URL, set REDIS_URL, or name a file with [redis.NAME] by --config".to_owned());
        }
        Ok(servers)
    }

    /// The servers of an instance: the one that the links go to, and the other one, where there are two.
    fn of(&self, redis: &RedisInstance, config: &Config) -> Vec<Server> {
        let plan = plan(redis, config);
        let server = |name: String, url: &RedisUrl, plan: Plan| {
            let instance = InstanceSettings { url: url.expose().to_owned(), ..self.timed(&redis.name) };
            Server { name, instance, plan }
        };
        match &redis.pubsub_url {
            None => vec![server(redis.name.clone(), &redis.url, plan)],
            Some(pubsub) => {
                let nothing = Plan { channels: Vec::new(), logs: Vec::new(), ..plan.clone() };
                vec![
                    server(redis.name.clone(), &redis.url, nothing),
                    server(format!("{} (pubsub_url)", redis.name), pubsub, plan),
                ]
            }
        }
    }

    fn timed(&self, name: &str) -> InstanceSettings {
        InstanceSettings {
            name: name.to_owned(),
            connect_timeout: self.timeout,
            command_timeout: self.timeout,
            ..InstanceSettings::default()
        }
    }
}

fn from_stdin() -> Result<String, String> {
    let mut text = String::new();
    // No URL is longer; whatever is, is none.
    let read = io::stdin().take(64 * 1024).read_to_string(&mut text);
    read.map_err(|error| format!("no URL could be read from standard input: {error}"))?;
    Ok(text)
}

/// What the namespaces of an instance are going to do there.
fn plan(redis: &RedisInstance, config: &Config) -> Plan {
    let namespaces = config.namespaces.iter().filter(|space| space.redis.as_ref() == Some(&redis.name));
    let mut plan = Plan {
        channels: Vec::new(),
        logs: Vec::new(),
        publication_bytes: config.limits.publication_bytes,
        ping_interval: redis.times.ping_interval,
        assumed: false,
    };
    for space in namespaces {
        plan.channels.extend(channels(space));
        if space.source == Source::Stream {
            plan.logs.extend(space.channels.iter().map(|channel| PlannedLog {
                key_prefix: space.key_prefix.clone(),
                channel: channel.text.clone(),
            }));
        }
    }
    plan
}

fn channels(space: &Namespace) -> impl Iterator<Item = PlannedChannel> {
    space.channels.iter().map(|channel| PlannedChannel {
        name: channel.text.clone(),
        pattern: (space.subscribe_pattern && !channel.is_exact()).then(|| channel.as_redis_pattern()),
    })
}

fn look(servers: &[Server], limit: Duration) -> io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sections = runtime.block_on(async {
        // Side by side: one that hangs costs no time of another.
        futures::future::join_all(servers.iter().map(|server| check::redis::inspect(server, limit))).await
    });
    Ok(Report { sections })
}

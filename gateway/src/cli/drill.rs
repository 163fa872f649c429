//! `earshot drill`: takes Redis away in every way, and proves that all heals.
//!
//! Owns the flags, the signals, and the exit code. Must never show a secret, nor break what the drill did not start
//! unless it was told twice.

use std::io::{self, IsTerminal as _, Read as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{RedisUrl, duration};
use crate::drill::{self, Exercise, Named, Place, Report, Settings};
use crate::instance::{InstanceSettings, TlsSettings};

/// The exit code of a command line that is wrong.
const WRONG: u8 = 2;

/// The flags of `earshot drill`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 everything passed, 1 something did not, or it could not be done, 2 the command line is wrong."
)]
pub struct Args {
    /// The exercises to do, by their names, separated by commas [default: all of them]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = exercise)]
    only: Vec<Exercise>,
    /// Print the exercises, and do none
    #[arg(long)]
    list: bool,
    /// How long the long faults last
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = lasting)]
    outage: Duration,
    /// So many channels are subscribed to beside those that are accounted for
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    channels: usize,
    /// The program that a Redis of the drill's own is started by: a path, or a name in PATH
    #[arg(long, value_name = "PATH", default_value = "redis-server", conflicts_with = "redis")]
    redis_server: PathBuf,
    /// Keep the directory with the configurations and logs of the drill's own children
    #[arg(long, conflicts_with = "redis")]
    keep: bool,
    /// A gateway to be drilled in the place of one of its own: http://host:port, without a proxy before it. Its key is
    /// taken from EARSHOT_API_KEY
    #[arg(long, value_name = "URL", requires = "redis")]
    gateway: Option<String>,
    /// The Redis of that gateway, with a user who may break it; `-` reads it from standard input, since what is
    /// written here is visible to everybody in `ps`
    #[arg(long, value_name = "URL", requires = "gateway")]
    redis: Option<String>,
    /// That gateway and that Redis may be broken: clients lose their connection, passwords and rights are changed for
    /// seconds
    #[arg(long)]
    i_mean_it: bool,
    /// Listen here in the place of that Redis: the gateway's configuration must lead here
    #[arg(long, value_name = "ADDR", requires = "redis")]
    proxy: Option<String>,
    /// With --redis: certificates (PEM) of the authorities to trust, in the place of the system's
    #[arg(long, value_name = "PATH", requires = "redis")]
    ca_file: Option<PathBuf>,
    /// With --gateway: a `pubsub` channel that nobody else publishes on [default: drill: and a random end]
    #[arg(long, value_name = "CHANNEL", requires = "gateway")]
    channel: Option<String>,
    /// With --gateway: a `stream` channel that nobody else publishes on [default: logs are left out]
    #[arg(long, value_name = "CHANNEL", requires = "gateway")]
    stream_channel: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn exercise(name: &str) -> Result<Exercise, String> {
    let names = || Exercise::ALL.map(Exercise::name).join(", ");
    Exercise::named(name).ok_or_else(|| format!("expected one of {}", names()))
}

fn lasting(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    let lasting = duration(text).ok_or("expected a time such as 10s or 1m")?;
    if range.contains(&lasting) { Ok(lasting) } else { Err("expected 1s to 1h".to_owned()) }
}

impl Args {
    /// Drills, prints, and tells the exit code.
    pub fn run(&self) -> ExitCode {
        if self.list {
            return end(&list(), ExitCode::SUCCESS);
        }
        let settings = match self.settings() {
            Ok(settings) => settings,
            Err(why) => {
                say(&why);
                return ExitCode::from(WRONG);
            }
        };
        match self.drill(&settings) {
            Ok(report) => self.print(&report),
            Err(why) => {
                say(&format!("the drill has not come to its end: {why}"));
                ExitCode::FAILURE
            }
        }
    }

    fn settings(&self) -> Result<Settings, String> {
        let exercises = if self.only.is_empty() { Exercise::ALL.to_vec() } else { self.only.clone() };
        let place = match (&self.gateway, &self.redis) {
            (Some(gateway), Some(redis)) => Place::Named(Box::new(self.named(gateway, redis)?)),
            _ => Place::Own { redis_server: self.redis_server.clone(), keep: self.keep },
        };
        Ok(Settings { place, exercises, outage: self.outage, channels: self.channels })
    }

    fn named(&self, gateway: &str, redis: &str) -> Result<Named, String> {
        if !self.i_mean_it {
            return Err("the drill breaks the gateway and the Redis that it is given: their clients are cut off, and \
                        passwords and rights are changed for seconds. Say --i-mean-it if that is wanted"
                .to_owned());
        }
        let gateway = gateway.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let is_authority = |rest: &&str| {
            let host_and_port = rest.rsplit_once(':');
            host_and_port.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
                && !rest.contains(['/', '@', '?'])
        };
        let gateway = gateway.filter(is_authority).ok_or(
            "--gateway: expected http://host:port, the gateway's own address (TLS ends before it: `earshot check \
             --path` looks at that)",
        )?;
        let url = if redis == "-" { from_stdin()? } else { redis.to_owned() };
        let url = RedisUrl::parse(url.trim()).map_err(|what| format!("--redis: {what}"))?;
        let tls = TlsSettings { ca_file: self.ca_file.clone(), ..TlsSettings::default() };
        let channel = || format!("drill:{:08x}", fastrand::u32(..));
        Ok(Named {
            gateway: gateway.to_owned(),
            api_key: std::env::var("EARSHOT_API_KEY").ok().filter(|key| !key.is_empty()),
            redis: InstanceSettings { url: url.expose().to_owned(), tls, ..InstanceSettings::default() },
            proxy: self.proxy.clone(),
            channel: self.channel.clone().unwrap_or_else(channel),
            stream_channel: self.stream_channel.clone(),
        })
    }

    fn drill(&self, settings: &Settings) -> Result<Report, String> {
        // One provider of cryptography for all of TLS; a second installation would be refused, and is not tried.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let tells = !self.json || io::stderr().is_terminal();
        let tell = |text: &str| {
            if tells {
                say(text);
            }
        };
        runtime.block_on(async {
            let interrupted = interruption().map_err(|error| error.to_string())?;
            Box::pin(drill::run(settings, &tell, interrupted)).await
        })
    }

    fn print(&self, report: &Report) -> ExitCode {
        let text = if self.json { format!("{:#}\n", report.to_json()) } else { report.to_string() };
        end(&text, if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Resolves when somebody wants the drill to end.
fn interruption() -> io::Result<impl Future<Output = ()>> {
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
    let line = |exercise: Exercise| format!("{:<18} {}\n", exercise.name(), exercise.about());
    Exercise::ALL.map(line).concat()
}

fn from_stdin() -> Result<String, String> {
    let mut text = String::new();
    // No URL is longer; whatever is, is none.
    let read = io::stdin().take(64 * 1024).read_to_string(&mut text);
    read.map_err(|error| format!("no URL could be read from standard input: {error}"))?;
    Ok(text)
}

/// A reader who has seen enough (`| head`) is no failure.
fn end(text: &str, code: ExitCode) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => code,
    }
}

/// For people, beside the report.
fn say(text: &str) {
    // Nobody is left to tell when even this cannot be written.
    let _ = writeln!(io::stderr(), "{text}");
}

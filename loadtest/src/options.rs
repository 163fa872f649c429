//! Command-line options that all scenarios share, and how they become a [`RunConfig`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;

use crate::error::RunError;
use crate::progress::ProgressMode;
use crate::publisher::PublishTarget;
use crate::resources::process::ProcessName;
use crate::run_config::{Rate, RunConfig, SocketEncoding, Transports};
use crate::target::{BenchTarget, Paths, TargetKind, Url};

/// Connections opened concurrently. A larger number would overflow the listen backlog and measure SYN retries.
const CONNECT_CONCURRENCY: usize = 256;

/// Options that all scenarios share.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Kind of server under test
    #[arg(long, value_enum, default_value_t = TargetKind::Earshot)]
    pub(crate) target: TargetKind,
    /// URL of the server
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    pub(crate) url: Url,
    /// Number of subscribers
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) subscribers: Option<u32>,
    /// Transport of the subscribers; by default every transport that the target supports
    #[arg(long, value_enum)]
    pub(crate) transport: Option<Transports>,
    /// Encoding of WebSockets that speak the Centrifuge protocol
    #[arg(long, value_enum, default_value_t = SocketEncoding::Json)]
    pub(crate) encoding: SocketEncoding,
    /// Number of channels; subscribers are distributed evenly
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) channels: Option<u32>,
    /// Messages per second over all channels; `max` publishes as fast as messages are delivered
    #[arg(long)]
    pub(crate) rate: Option<Rate>,
    /// With `--rate max`: messages in flight
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) window: u64,
    /// How long to publish
    #[arg(long, value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Size of each message in bytes
    #[arg(long)]
    pub(crate) size: Option<usize>,
    /// Where to publish: `http` (the API of the target) or a Redis URL
    #[arg(long, default_value = "http", env = "LOADTEST_PUBLISH", hide_env_values = true)]
    pub(crate) publish: PublishTarget,
    /// API key of the target
    #[arg(long, env = "EARSHOT_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Prefix of channel names: PREFIX-0, PREFIX-1, …
    #[arg(long, default_value = "load")]
    pub(crate) channel_prefix: String,
    /// Path to subscribe at, instead of the default of the target; {channel} is replaced by the channel name
    #[arg(long, value_name = "PATH")]
    pub(crate) subscribe_path: Option<String>,
    /// Path to publish at over HTTP, instead of the default of the target
    #[arg(long, value_name = "PATH")]
    pub(crate) publish_path: Option<String>,
    /// Text frame that each WebSocket sends first; {channel} is replaced by the channel name; repeatable
    #[arg(long, value_name = "TEXT")]
    pub(crate) hello: Vec<String>,
    /// Process to measure, by id or by name (all processes of that name); repeatable
    #[arg(long, value_name = "PID|NAME")]
    pub(crate) process: Vec<ProcessName>,
    /// Subscriber threads [default: number of cores available to this process]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Connections opened concurrently
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connect_concurrency: Option<u32>,
    /// How long to wait for late messages after deliveries have stopped
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub(crate) settle: Duration,
    /// How to show progress
    #[arg(long, value_enum, default_value_t = ProgressMode::Bar)]
    pub(crate) progress: ProgressMode,
    /// Write the result as JSON; `-` writes it to standard output instead of the table
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the result as an HTML page with charts
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// Defaults of a scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub(crate) subscribers: u32,
    /// 0: one channel per subscriber.
    pub(crate) channels: u32,
    pub(crate) rate: f64,
    pub(crate) duration: Duration,
    pub(crate) size: usize,
    pub(crate) connect_concurrency: usize,
}

impl Default for Defaults {
    fn default() -> Self {
        let duration = Duration::from_secs(10);
        Self {
            subscribers: 1000,
            channels: 1,
            rate: 20.0,
            duration,
            size: 128,
            connect_concurrency: CONNECT_CONCURRENCY,
        }
    }
}

impl Options {
    /// Applies the defaults and checks the result.
    pub(crate) fn resolve(&self, scenario: &'static str, defaults: &Defaults) -> Result<RunConfig, RunError> {
        let subscribers = self.subscribers.unwrap_or(defaults.subscribers);
        let channels = self.channels.unwrap_or(defaults.channels);
        let paths = Paths {
            subscribe: self.subscribe_path.clone(),
            publish: self.publish_path.clone(),
            hello: self.hello.clone(),
        };
        let config = RunConfig {
            scenario,
            target: BenchTarget::new(self.target, self.url.clone(), paths),
            subscribers,
            transport: self.transport.unwrap_or_else(|| default_transport(self.target)),
            encoding: self.encoding,
            channels: if channels == 0 { subscribers } else { channels },
            rate: self.rate.unwrap_or(Rate::PerSecond(defaults.rate)),
            window: self.window,
            burst: 1,
            duration: self.duration.unwrap_or(defaults.duration),
            size: self.size.unwrap_or(defaults.size),
            publish: self.publish.clone(),
            api_key: self.api_key.clone(),
            channel_prefix: self.channel_prefix.clone(),
            processes: self.process.clone(),
            threads: self.threads.map_or_else(cores, usize::from),
            connect_concurrency: self
                .connect_concurrency
                .map_or(defaults.connect_concurrency, |count| count as usize),
            settle: self.settle,
            progress: self.progress,
            activity: None,
            scenario_settings: BTreeMap::new(),
        };
        config.check()?;
        Ok(config)
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn default_transport(kind: TargetKind) -> Transports {
    match kind.serves() {
        (true, true) => Transports::Both,
        (true, false) => Transports::Sse,
        (false, _) => Transports::Ws,
    }
}

/// Parses `10s`, `500ms`, `2m` or `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a number and a unit, such as 500ms, 10s, 2m or 1h".to_owned()),
    };
    let seconds = number.parse::<f64>().map_err(|error| error.to_string())? * scale;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Parses a share: `0.1` or `10%`.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    match number.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&(number * scale)) => Ok(number * scale),
        _ => Err("expected a share between 0 and 1, such as 0.1 or 10%".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_config::is_selected;
    use crate::subscriber_plan::Transport;
    use clap::Parser;

    #[test]
    fn durations_and_shares_are_parsed() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for wrong in ["10", "s", "-1s", "10 s", "1d", "1.2.3s", ""] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!((share("0.25"), share("10%")), (Ok(0.25), Ok(0.1)));
        assert!(share("11").is_err() && share("101%").is_err() && share("x").is_err());
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn config(line: &str) -> Result<RunConfig, String> {
        let words = std::iter::once("fanout").chain(line.split_ascii_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.options.resolve("fanout", &Defaults::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn each_channel_has_both_transports() {
        for channels in 1..5 {
            let config = config(&format!("--subscribers 20 --channels {channels}")).unwrap();
            for channel in 0..channels {
                let of_channel = (0..20).filter(|subscriber| subscriber % channels == channel);
                let (sse, websocket): (Vec<_>, Vec<_>) =
                    of_channel.partition(|subscriber| config.transport_of(*subscriber) == Transport::Sse);
                assert!(sse.len().abs_diff(websocket.len()) <= 1, "{channels} channels");
            }
        }
    }

    #[test]
    fn share_covers_both_transports_evenly() {
        let config = config("--subscribers 100").unwrap();
        for (share, count) in [(0.0, 0), (0.1, 10), (0.5, 50), (1.0, 100)] {
            let chosen: Vec<u32> = (0..100).filter(|index| is_selected(*index, share)).collect();
            let sse = chosen.iter().filter(|index| config.transport_of(**index) == Transport::Sse).count();
            assert_eq!((chosen.len(), sse), (count, count / 2), "{share}");
        }
        assert_eq!((0..10).filter(|index| is_selected(*index, 0.1)).count(), 2);
    }

    #[test]
    fn invalid_options_are_rejected() {
        let refusal = |line: &str| config(line).map(|_| ());
        assert_eq!(refusal("--subscribers 10"), Ok(()));
        assert_eq!(
            refusal("--size 50"),
            Err("--size: a message needs at least 121 bytes for its stamp".to_owned())
        );
        assert!(refusal("--rate 0").is_err_and(|text| text.contains("greater than 0, or `max`")));
        assert!(refusal("--rate 1 --duration 100ms").is_err());
        assert!(
            refusal("--target centrifugo --transport sse").is_err_and(|text| text.contains("centrifugo"))
        );
        assert!(refusal("--subscribers 4000000000").is_err_and(|text| text.contains("ulimit -n 4000000064")));
        assert!(config("--target nchan --transport ws").unwrap().check_can_resume().is_err());
        assert!(config("--target nchan --transport sse").unwrap().check_can_resume().is_ok());
    }

    #[test]
    fn secrets_are_not_in_title_or_settings() {
        let config = config("--publish redis://:secret@127.0.0.1:6379 --api-key hidden").unwrap();
        let shown = format!("{} {:?}", config.title(), config.settings());
        assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
    }
}

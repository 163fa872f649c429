//! Configuration of a run: options that are checked, with defaults applied. Reads only what it needs to know the limits
//! of this machine.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use earshot_protocol::Encoding;

use crate::error::RunError;
use crate::progress::ProgressMode;
use crate::publisher::{PublishRate, PublishTarget, Schedule};
use crate::resources::open_file_limit;
use crate::resources::process::ProcessName;
use crate::stamp::Stamp;
use crate::subscriber_plan::Transport;
use crate::target::BenchTarget;

/// Open files of this process in addition to one per subscriber.
const EXTRA_OPEN_FILES: u64 = 64;

/// Transport of the subscribers.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transports {
    /// Server-Sent Events only
    Sse,
    /// WebSocket only
    Ws,
    /// Half of the subscribers over each
    Both,
}

/// Encoding of WebSockets.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketEncoding {
    /// JSON
    Json,
    /// Protobuf
    Protobuf,
}

/// Publish rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    /// A fixed number of messages per second.
    PerSecond(f64),
    /// As fast as messages are delivered.
    Max,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse::<f64>()) {
            ("max", _) => Ok(Self::Max),
            (_, Ok(rate)) if rate.is_finite() && rate > 0.0 => Ok(Self::PerSecond(rate)),
            _ => Err("expected a number greater than 0, or `max`".to_owned()),
        }
    }
}

/// Checked options with defaults applied.
#[derive(Clone, Debug)]
pub(crate) struct RunConfig {
    pub(crate) scenario: &'static str,
    pub(crate) target: BenchTarget,
    pub(crate) subscribers: u32,
    pub(crate) transport: Transports,
    pub(crate) encoding: SocketEncoding,
    pub(crate) channels: u32,
    pub(crate) rate: Rate,
    pub(crate) window: u64,
    pub(crate) burst: u64,
    pub(crate) duration: Duration,
    pub(crate) size: usize,
    pub(crate) publish: PublishTarget,
    pub(crate) api_key: Option<String>,
    pub(crate) channel_prefix: String,
    pub(crate) processes: Vec<ProcessName>,
    pub(crate) threads: usize,
    pub(crate) connect_concurrency: usize,
    pub(crate) settle: Duration,
    pub(crate) progress: ProgressMode,
    /// Description of what the subscribers do, for scenarios in which publishing is not the subject.
    pub(crate) activity: Option<String>,
    /// Settings specific to the scenario, for the record.
    pub(crate) scenario_settings: BTreeMap<String, String>,
}

impl RunConfig {
    /// Checks that the target supports the options and that this machine can run them.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        let usage = |text: String| Err(RunError::InvalidOptions(text));
        if self.size < Stamp::MIN_BYTES {
            return usage(format!(
                "--size: a message needs at least {} bytes for its stamp",
                Stamp::MIN_BYTES
            ));
        }
        if self.schedule(Vec::new()).total == 0 {
            return usage(
                "--rate and --duration: no message would be published; increase one of them".to_owned(),
            );
        }
        let (sse, sockets) = self.target.kind().serves();
        if (self.transport != Transports::Ws && !sse) || (self.transport != Transports::Sse && !sockets) {
            return usage(format!("--transport: not supported for target {}", self.target.kind().name()));
        }
        let needed = u64::from(self.subscribers) + EXTRA_OPEN_FILES;
        match open_file_limit() {
            Some(limit) if limit < needed => usage(format!(
                "{} subscribers need {needed} open files, but the limit is {limit}: run `ulimit -n {needed}`",
                self.subscribers
            )),
            _ => Ok(()),
        }
    }

    /// Checks that subscribers of every selected transport can resume from their last position.
    pub(crate) fn check_can_resume(&self) -> Result<(), RunError> {
        let (sse, sockets) = self.target.kind().resumes();
        if (self.transport != Transports::Ws && !sse) || (self.transport != Transports::Sse && !sockets) {
            return Err(RunError::InvalidOptions(format!(
                "--transport: subscribers of {} cannot resume over every selected transport",
                self.target.kind().name()
            )));
        }
        Ok(())
    }

    /// Names of the channels.
    pub(crate) fn channel_names(&self) -> Vec<String> {
        (0..self.channels).map(|index| format!("{}-{index}", self.channel_prefix)).collect()
    }

    /// Publish schedule, given the number of messages that each channel has received already.
    pub(crate) fn schedule(&self, before: Vec<u64>) -> Schedule {
        let (rate, total) = match self.rate {
            Rate::PerSecond(per_second) => {
                // A cast from float to integer saturates.
                let total = (per_second * self.duration.as_secs_f64()).round() as u64;
                (PublishRate::Rate { per_second, burst: self.burst }, total)
            }
            Rate::Max => {
                let deliveries = f64::from(self.subscribers) / f64::from(self.channels);
                (PublishRate::Window { messages: self.window, deliveries }, u64::MAX)
            }
        };
        // A rate-based schedule ends with its last message, not at a point in time.
        let duration = if self.rate == Rate::Max { self.duration } else { Duration::MAX };
        Schedule { before, rate, total, duration }
    }

    /// Transports alternate within each channel, for any number of channels.
    pub(crate) fn transport_of(&self, subscriber: u32) -> Transport {
        let websocket = Transport::WebSocket(match self.encoding {
            SocketEncoding::Json => Encoding::Json,
            SocketEncoding::Protobuf => Encoding::Protobuf,
        });
        let (round, channel) = (subscriber / self.channels, subscriber % self.channels);
        match self.transport {
            Transports::Sse => Transport::Sse,
            Transports::Ws => websocket,
            Transports::Both if (round + channel).is_multiple_of(2) => Transport::Sse,
            Transports::Both => websocket,
        }
    }

    /// One-line description of the run.
    pub(crate) fn title(&self) -> String {
        let (scenario, target, subscribers, transport_description) =
            (self.scenario, &self.target, self.subscribers, self.transport_description());
        let what = self.activity.clone().unwrap_or_else(|| self.load_description());
        format!("{scenario}: {target}, {subscribers} subscribers {transport_description}, {what}")
    }

    fn load_description(&self) -> String {
        let rate = match self.rate {
            Rate::PerSecond(rate) => format!("{rate} messages/s of {} bytes", self.size),
            Rate::Max => format!("messages of {} bytes as fast as delivered", self.size),
        };
        let burst = if self.burst > 1 { format!(" in bursts of {}", self.burst) } else { String::new() };
        let (channels, duration, publish) = (self.channels, self.duration, &self.publish);
        let channels = if channels == 1 { "1 channel".to_owned() } else { format!("{channels} channels") };
        format!("{channels}, {rate}{burst} for {duration:?} through {publish}")
    }

    fn transport_description(&self) -> String {
        let encoding = match self.encoding {
            _ if !self.target.kind().speaks_centrifuge() => "",
            SocketEncoding::Json => " (JSON)",
            SocketEncoding::Protobuf => " (Protobuf)",
        };
        match self.transport {
            Transports::Sse => "over SSE".to_owned(),
            Transports::Ws => format!("over WebSocket{encoding}"),
            Transports::Both => format!("half SSE, half WebSocket{encoding}"),
        }
    }

    /// Settings for the record. Contains no secrets.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        let rate = match self.rate {
            Rate::PerSecond(rate) => rate.to_string(),
            Rate::Max => format!("max, window {}", self.window),
        };
        let scenario_settings =
            self.scenario_settings.iter().map(|(name, value)| (name.clone(), value.clone()));
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        [
            ("subscribers", self.subscribers.to_string()),
            ("transport", name(self.transport.to_possible_value())),
            ("encoding", name(self.encoding.to_possible_value())),
            ("channels", self.channels.to_string()),
            ("rate", rate),
            ("burst", self.burst.to_string()),
            ("duration", format!("{:?}", self.duration)),
            ("size", self.size.to_string()),
            ("publish", self.publish.to_string()),
            ("threads", self.threads.to_string()),
            ("connect_concurrency", self.connect_concurrency.to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .chain(scenario_settings)
        .collect()
    }
}

/// Whether a subscriber belongs to a share of all subscribers that is distributed over channels and transports. Selects
/// in pairs, since transports alternate.
pub(crate) fn is_selected(index: u32, share: f64) -> bool {
    let pair = f64::from(index / 2);
    (pair * share).round() < ((pair + 1.0) * share).round()
}

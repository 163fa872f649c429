//! What the options of `fanout` ask for: who subscribes to what and how, and what is published when. Pure: it opens
//! nothing and measures nothing.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use earshot_protocol::Encoding;

use super::super::{RunError, duration};
use crate::client::{ClientPlan, Transport};
use crate::publisher::{LinkSettings, Schedule};
use crate::resources::open_file_limit;
use crate::stamp::Stamp;
use crate::target::Target;

/// Files that this process needs beside one per subscriber.
const OTHER_FILES: u64 = 32;
/// Connections from one local address; the ports of Linux suffice for about 28,000.
const PER_SOURCE: usize = 20_000;

/// N subscribers, R messages a second: what arrives, how often, how late.
#[derive(Args, Clone, Debug)]
pub(crate) struct FanoutArgs {
    /// The gateway
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    pub(super) target: Target,
    /// How many subscribers
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) subscribers: u32,
    /// How they are connected
    #[arg(long, value_enum, default_value_t = Transports::Both)]
    transport: Transports,
    /// What WebSockets speak
    #[arg(long, value_enum, default_value_t = WebSocketEncoding::Json)]
    encoding: WebSocketEncoding,
    /// How many channels the subscribers are spread over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    channels: u32,
    /// Messages a second, over all channels
    #[arg(long, default_value_t = 20.0)]
    pub(super) rate: f64,
    /// How long to publish
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Bytes of each message
    #[arg(long, default_value_t = 128)]
    pub(super) size: usize,
    /// Where to publish: `http` (the target's API) or a Redis URL
    #[arg(long, default_value = "http")]
    pub(super) publish: LinkSettings,
    /// The key of the target's API
    #[arg(long, env = "EARSHOT_API_KEY", hide_env_values = true)]
    pub(super) api_key: Option<String>,
    /// Channels are called PREFIX-0, PREFIX-1, …
    #[arg(long, default_value = "load")]
    channel_prefix: String,
    /// Threads that carry subscribers; as many as there are cores unless given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// How long to wait for stragglers once deliveries have ceased
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub(super) settle: Duration,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Transports {
    Sse,
    Ws,
    Both,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum WebSocketEncoding {
    Json,
    Protobuf,
}

impl FanoutArgs {
    /// Whether that can be done at all, and here.
    pub(super) fn check(&self) -> Result<(), RunError> {
        let usage = |text: String| Err(RunError::Usage(text));
        if self.size < Stamp::MIN_BYTES {
            return usage(format!("--size: a message needs {} bytes for its stamp", Stamp::MIN_BYTES));
        }
        if !self.rate.is_finite() || self.rate <= 0.0 {
            return usage("--rate: wants a number above 0".to_owned());
        }
        if self.schedule().total == 0 {
            return usage("--rate and --duration: not one message would be published".to_owned());
        }
        let needed = u64::from(self.subscribers) + OTHER_FILES;
        match open_file_limit() {
            Some(limit) if limit < needed => usage(format!(
                "{} subscribers need {needed} open files, and this process may have {limit}: run `ulimit -n {needed}` first",
                self.subscribers
            )),
            _ => Ok(()),
        }
    }

    fn channel(&self, index: u32) -> String {
        format!("{}-{index}", self.channel_prefix)
    }

    pub(super) fn schedule(&self) -> Schedule {
        Schedule {
            channels: (0..self.channels).map(|index| self.channel(index)).collect(),
            rate: self.rate,
            // A float to an integer saturates.
            total: (self.rate * self.duration.as_secs_f64()).round() as u64,
        }
    }

    /// Transports alternate within each channel, whatever the number of channels is.
    fn transport_of(&self, subscriber: u32) -> Transport {
        let websocket = Transport::WebSocket(match self.encoding {
            WebSocketEncoding::Json => Encoding::Json,
            WebSocketEncoding::Protobuf => Encoding::Protobuf,
        });
        let (round, channel) = (subscriber / self.channels, subscriber % self.channels);
        match self.transport {
            Transports::Sse => Transport::Sse,
            Transports::Ws => websocket,
            Transports::Both if (round + channel).is_multiple_of(2) => Transport::Sse,
            Transports::Both => websocket,
        }
    }

    pub(super) fn plans(&self) -> Vec<(u32, ClientPlan)> {
        (0..self.subscribers)
            .map(|subscriber| {
                let channel = subscriber % self.channels;
                let plan = ClientPlan {
                    target: self.target.clone(),
                    transport: self.transport_of(subscriber),
                    channel: self.channel(channel),
                    source: self.source(subscriber),
                };
                (channel, plan)
            })
            .collect()
    }

    /// On loopback every address of 127/8 is ours, so that many connections need not share one's ports.
    fn source(&self, subscriber: u32) -> Option<Ipv4Addr> {
        let loopback = self.target.address().ip().is_loopback() && self.target.address().is_ipv4();
        if !loopback || self.subscribers as usize <= PER_SOURCE {
            return None;
        }
        let block = u8::try_from(subscriber as usize / PER_SOURCE).unwrap_or(u8::MAX - 1);
        Some(Ipv4Addr::new(127, 0, 1, block + 1))
    }

    /// Deliveries that are due, given how many messages each channel got.
    pub(super) fn expected(&self, per_channel: &[u64]) -> u64 {
        let (all, channels) = (u64::from(self.subscribers), u64::from(self.channels));
        let subscribers = |channel: u64| all / channels + u64::from(channel < all % channels);
        (0..).zip(per_channel).map(|(channel, messages)| messages * subscribers(channel)).sum()
    }

    pub(super) fn threads(&self) -> usize {
        self.threads.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from)
    }

    pub(super) fn title(&self) -> String {
        let how = match (self.transport, self.encoding) {
            (Transports::Sse, _) => "over SSE".to_owned(),
            (Transports::Ws, encoding) => format!("over WebSocket ({})", encoding.name()),
            (Transports::Both, encoding) => format!("half SSE, half WebSocket ({})", encoding.name()),
        };
        format!(
            "fanout {}: {} subscribers {how}, channels: {}, {}/s of {} bytes for {:?} through {}",
            self.target, self.subscribers, self.channels, self.rate, self.size, self.duration, self.publish
        )
    }
}

impl WebSocketEncoding {
    fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Protobuf => "Protobuf",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: FanoutArgs,
    }

    fn args(line: &str) -> FanoutArgs {
        let words = std::iter::once("fanout").chain(line.split_ascii_whitespace());
        Line::try_parse_from(words).map(|line| line.args).unwrap()
    }

    #[test]
    fn each_channel_has_both_transports() {
        for channels in 1..5 {
            let plans = args(&format!("--subscribers 20 --channels {channels}")).plans();
            for channel in 0..channels {
                let of_channel = plans.iter().filter(|(index, _)| *index == channel);
                let (sse, websocket): (Vec<_>, Vec<_>) =
                    of_channel.partition(|(_, plan)| plan.transport == Transport::Sse);
                assert!(sse.len().abs_diff(websocket.len()) <= 1, "{channels} channels");
            }
        }
    }

    #[test]
    fn what_is_expected_is_the_sum_over_the_plans() {
        let args = args("--subscribers 7 --channels 3 --rate 5 --duration 1s");
        let per_channel = args.schedule().per_channel(5);
        let plans: u64 = args.plans().iter().map(|(channel, _)| per_channel[*channel as usize]).sum();
        assert_eq!((per_channel.as_slice(), args.expected(&per_channel)), (&[2, 2, 1][..], plans));
    }

    #[test]
    fn many_connections_on_loopback_are_spread_over_its_addresses() {
        let sources = |line: &str| {
            let mut sources: Vec<_> = args(line).plans().into_iter().map(|(_, plan)| plan.source).collect();
            sources.dedup();
            sources
        };
        let address = |last| Some(Ipv4Addr::new(127, 0, 1, last));
        assert_eq!(sources("--subscribers 20000"), [None]);
        assert_eq!(sources("--subscribers 45000"), [address(1), address(2), address(3)]);
        assert_eq!(sources("--subscribers 45000 --target http://[::1]:8000"), [None]);
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        let refusal = |line: &str| args(line).check().map_err(|error| error.to_string());
        assert_eq!(refusal("--subscribers 10"), Ok(()));
        assert_eq!(refusal("--size 50"), Err("--size: a message needs 104 bytes for its stamp".to_owned()));
        assert_eq!(refusal("--rate 0"), Err("--rate: wants a number above 0".to_owned()));
        assert!(refusal("--rate 1 --duration 100ms").is_err());
        assert!(refusal("--subscribers 4000000000").is_err_and(|text| text.contains("ulimit -n 4000000032")));
    }
}

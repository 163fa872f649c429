//! Plan of the benchmark: cases, their subjects, and the arguments of each run.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::Subject::{Centrifugo, Earshot, KernelBaseline, Nchan};
use super::{BenchRun, Subject, row};

/// Size of the benchmark. The default takes about a quarter of an hour.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Size {
    /// Rounds of each case; results are medians over the rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Seconds that each run publishes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,
    /// Subscribers of one channel
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) subscribers: u32,
    /// Messages per second on that channel
    #[arg(long, default_value_t = 15.0)]
    pub(crate) rate: f64,
    /// Channels with one subscriber each
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) channels: u32,
    /// Number of idle connections, and the largest number of subscribers
    #[arg(long, default_value_t = 18_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) idle: u32,
    /// Duration of the idle case in seconds; use multiples of the 25 s between pings to count all of them
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) idle_seconds: u32,
}

impl Size {
    /// Open files that a server needs.
    pub(crate) fn files(&self) -> u32 {
        self.subscribers.max(self.channels).max(self.idle) + 200
    }

    /// Numbers of subscribers for the growth cases.
    pub(crate) fn steps(&self) -> Vec<u32> {
        let steps = [50, 500, 1000, 5000, 50_000].into_iter().filter(|step| *step < self.idle);
        steps.chain([self.idle]).collect()
    }
}

/// A case: one measurement of several subjects.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) rounds: u32,
    /// Arguments of the load test, by subject.
    pub(crate) lines: Vec<(Subject, String)>,
}

fn case(name: &str, rounds: u32, lines: &[(Subject, String)]) -> Case {
    Case { name: name.to_owned(), rounds, lines: lines.to_vec() }
}

/// Messages in flight when publishing as fast as possible.
const WINDOW: u32 = 8;
/// Messages in flight with one channel per subscriber: enough for batches, without filling socket buffers.
const MANY_CHANNELS_WINDOW: u32 = 2000;
/// Factor of the message rate with bursts of ten: a message then costs about a fifth.
const BURST_RATE: f64 = 4.0;
/// Rounds of cases that take long or have many steps.
pub(crate) const LONG_CASE_ROUNDS_MAX: u32 = 3;

/// Cases whose rounds are interleaved because they are compared with each other.
pub(crate) type Group = Vec<Case>;

/// Groups that do not depend on earlier results.
pub(crate) fn initial_groups(size: &Size) -> Vec<Group> {
    let mut groups: Vec<Group> = single_cases(size).into_iter().map(|case| vec![case]).collect();
    groups.push(growth(size));
    let Size { rounds, idle, idle_seconds, .. } = *size;
    let line = format!("idle --transport ws --subscribers {idle} --duration {idle_seconds}s");
    groups.push(vec![case("idle", rounds.min(LONG_CASE_ROUNDS_MAX), &all_servers("ws", &line))]);
    groups
}

/// The same number of deliveries per second for increasing numbers of subscribers.
fn growth(size: &Size) -> Group {
    let step = |step: u32| {
        let rate = f64::from(size.subscribers) * size.rate / f64::from(step);
        let load =
            format!("--transport ws --subscribers {step} --rate {rate:.3} --duration {}s", size.seconds);
        let lines =
            [(KernelBaseline, format!("kernel-baseline {load}")), (Earshot, format!("fanout {load}"))];
        case(&format!("growth {step}"), size.rounds.min(LONG_CASE_ROUNDS_MAX), &lines)
    };
    size.steps().into_iter().map(step).collect()
}

fn single_cases(size: &Size) -> Vec<Case> {
    let Size { rounds, seconds, subscribers, rate, channels, .. } = *size;
    let mut cases = Vec::new();
    for (transport, name) in [("ws", "WebSocket"), ("sse", "SSE")] {
        let common = format!("--transport {transport} --subscribers {subscribers}");
        let load = format!("{common} --rate {rate} --duration {seconds}s");
        let three = |scenario: &str, load: &str, limit: &str, more: &str| {
            let line = format!("{scenario} {load} {more}");
            [vec![(KernelBaseline, format!("kernel-baseline {load} {limit}"))], all_servers(transport, &line)]
                .concat()
        };
        cases.push(case(&format!("fanout {name}"), rounds, &three("fanout", &load, "", "")));
        // At the normal rate a run would contain only a few bursts.
        let load = format!("{common} --rate {} --duration {seconds}s", rate * BURST_RATE);
        let burst = three("burst", &load, "--burst 10", "--burst 10 --cooldown 2s");
        cases.push(case(&format!("burst {name}"), rounds, &burst));
        let idle = format!("idle {common} --duration 1s");
        cases.push(case(&format!("memory {name}"), rounds, &all_servers(transport, &idle)));
    }
    let most = format!(
        "--transport ws --subscribers {subscribers} --rate max --window {WINDOW} --duration {seconds}s"
    );
    let lines = [
        vec![(KernelBaseline, format!("kernel-baseline {most}"))],
        all_servers("ws", &format!("fanout {most}")),
    ]
    .concat();
    cases.push(case("highest", rounds, &lines));
    let many = format!(
        "--transport ws --subscribers {channels} --channels {channels} --rate max --window {MANY_CHANNELS_WINDOW} --duration {seconds}s"
    );
    let lines =
        [(KernelBaseline, format!("kernel-baseline {many}")), (Earshot, format!("many-channels {many}"))];
    cases.push(case("many channels", rounds, &lines));
    for (transport, name) in [("ws", "WebSocket"), ("sse", "SSE")] {
        let connect = format!("connect --transport {transport} --subscribers {channels}");
        cases.push(case(&format!("connect {name}"), rounds, &all_servers(transport, &connect)));
    }
    cases
}

/// Cases that depend on the highest rates. Earshot batches writes under load and the kernel baseline does not, so half
/// of the lower of the two rates is a valid load for both.
pub(crate) fn half_load_cases(size: &Size, runs: &[BenchRun]) -> Vec<Case> {
    let highest =
        |subject| row::median(runs, "highest", subject, |metrics| Some(metrics.deliveries_per_second));
    let (Some(earshot), Some(kernel_baseline)) = (highest(Earshot), highest(KernelBaseline)) else {
        return Vec::new();
    };
    let highest = earshot.min(kernel_baseline);
    let (subscribers, seconds) = (size.subscribers, size.seconds);
    let rate = (highest / 2.0 / f64::from(subscribers)).max(1.0);
    let load = format!("--transport ws --subscribers {subscribers} --rate {rate:.2} --duration {seconds}s");
    let lines = [
        vec![(KernelBaseline, format!("kernel-baseline {load}"))],
        all_servers("ws", &format!("fanout {load}")),
    ]
    .concat();
    vec![case("half load", size.rounds, &lines)]
}

/// The same arguments for all servers. The load test supports Centrifugo over WebSocket only.
fn all_servers(transport: &str, line: &str) -> Vec<(Subject, String)> {
    let all = [Nchan, Centrifugo, Earshot].into_iter();
    let those = all.filter(|subject| transport == "ws" || *subject != Centrifugo);
    those.map(|subject| (subject, line.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        size: Size,
    }

    /// Invalid arguments would otherwise be detected in the middle of the benchmark.
    #[test]
    fn every_planned_command_line_parses() {
        let size = Line::parse_from(["bench"]).size;
        assert_eq!(size.steps(), [50, 500, 1000, 5000, 18_000]);
        assert_eq!(size.idle_seconds % 25, 0, "each connection is pinged as often as time goes by");
        let groups = initial_groups(&size);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [[1; 10].as_slice(), &[5, 1]].concat());
        let redis = "loadtest redis --duration 1s --server-core=0 --redis=redis-server";
        assert!(crate::LoadtestCli::try_parse_from(redis.split(' ')).is_ok());
        for line in groups.iter().flatten().flat_map(|case| &case.lines) {
            let words = std::iter::once("loadtest").chain(line.1.split_ascii_whitespace());
            crate::LoadtestCli::try_parse_from(words).unwrap_or_else(|error| panic!("{}: {error}", line.1));
        }
    }
}

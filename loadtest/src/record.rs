//! The result of a run as it is kept: the shape of the JSON, from which the table, the page and the comparison are
//! made. A result that was written years ago must still be read: fields are added, never renamed. Never measures.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::resources::machine::Machine;
use crate::resources::thread::CpuShare;

/// The format that is written. Readers take every one up to it.
pub(crate) const FORMAT: u32 = 2;

/// The result of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// See [`FORMAT`].
    pub(crate) format: u32,
    /// Which scenario.
    pub(crate) scenario: String,
    /// One line: what was done.
    pub(crate) title: String,
    /// When it began, in UTC.
    pub(crate) date: String,
    /// The commit of the working directory.
    pub(crate) commit: Option<String>,
    /// Where.
    pub(crate) machine: Machine,
    /// What kind of server was under test.
    pub(crate) target: String,
    /// What was asked for, as the options have it.
    pub(crate) settings: BTreeMap<String, String>,
    /// Everything arrived, once, in order, where it belongs, as it was published.
    pub(crate) clean: bool,
    /// What ended the run early.
    pub(crate) failure: Option<String>,
    /// The operator ended the run early.
    pub(crate) interrupted: bool,
    /// How connecting went.
    pub(crate) connect: Connect,
    /// How publishing went.
    pub(crate) published: Published,
    /// What arrived.
    pub(crate) deliveries: Deliveries,
    /// The same by cohort.
    pub(crate) cohorts: Vec<Cohort>,
    /// How long it took to be subscribed again, from when that was due.
    #[serde(alias = "returning")]
    pub(crate) reconnecting: Option<Latency>,
    /// What the named processes used.
    pub(crate) processes: Vec<ProcessUsage>,
    /// What this scenario is about, beyond all that.
    pub(crate) measures: Vec<Measure>,
    /// What the load test itself used.
    #[serde(alias = "meter")]
    pub(crate) generator: Generator,
    /// Why the numbers may not be those of the server.
    #[serde(alias = "doubts")]
    pub(crate) warnings: Vec<String>,
    /// How it went over time.
    pub(crate) series: Vec<Sample>,
}

/// How connecting went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Connect {
    /// Subscribers.
    pub(crate) subscribers: u64,
    /// From the first to the last.
    pub(crate) seconds: f64,
    /// Subscribers a second.
    pub(crate) per_second: f64,
    /// From due to subscribed.
    pub(crate) latency: Latency,
}

/// How publishing went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Published {
    /// Messages.
    pub(crate) count: u64,
    /// From the first to the last.
    pub(crate) seconds: f64,
    /// Messages a second.
    pub(crate) per_second: f64,
    /// What was asked for; `None`: as many as are delivered.
    pub(crate) asked_per_second: Option<f64>,
    /// How late messages were sent.
    pub(crate) lag: Latency,
}

/// What arrived at those who are judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Deliveries {
    /// What should have been.
    pub(crate) expected: u64,
    /// What was, each counted once.
    pub(crate) delivered: u64,
    /// The same a second, while messages were published.
    pub(crate) per_second: f64,
    /// Messages that a subscriber never got.
    pub(crate) lost: u64,
    /// Messages that a subscriber got once more.
    pub(crate) duplicates: u64,
    /// Messages that a subscriber got after later ones.
    pub(crate) out_of_order: u64,
    /// Messages that a subscriber got of a foreign channel.
    pub(crate) misrouted: u64,
    /// Payloads that were not as published.
    pub(crate) altered: u64,
    /// Offsets that did not follow on the one before, without a notice.
    pub(crate) skipped: u64,
    /// Messages of another run.
    #[serde(alias = "foreign")]
    pub(crate) from_other_runs: u64,
    /// Notices of a gap.
    pub(crate) gaps: u64,
    /// Subscriptions that went on where they stood.
    pub(crate) recovered: u64,
    /// Subscriptions that were to and could not.
    pub(crate) unrecovered: u64,
    /// Attempts to come back that failed and were made again.
    pub(crate) retries: u64,
}

impl Deliveries {
    /// Whether everything arrived, once, in order, where it belongs, as it was published.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.duplicates + self.out_of_order + self.misrouted + self.altered + self.skipped == 0
    }
}

/// Subscribers that are judged together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Cohort {
    /// What they have in common.
    pub(crate) name: String,
    /// How many they are.
    pub(crate) subscribers: u64,
    /// Whether what they missed counts as lost.
    #[serde(alias = "judged")]
    pub(crate) verified: bool,
    /// What they got.
    pub(crate) delivered: u64,
    /// What they never got.
    pub(crate) lost: u64,
    /// From due to heard.
    pub(crate) latency: Latency,
    /// From sent to heard: without what a publisher that was held up would hide.
    pub(crate) uncorrected: Latency,
    /// Connections that ended early, by the reason.
    pub(crate) closed: BTreeMap<String, u64>,
}

/// What one or more processes used while the load was on, and held before and after.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ProcessUsage {
    /// As it was named.
    pub(crate) name: String,
    /// How many they are.
    pub(crate) count: usize,
    /// Seconds on a core in user space.
    pub(crate) user_seconds: f64,
    /// Seconds on a core in the kernel.
    pub(crate) system_seconds: f64,
    /// Cores in use, on the average.
    pub(crate) cores: f64,
    /// How full the cores were on which they may run, whoever filled them: interrupts are charged to no process.
    #[serde(alias = "cores_full")]
    pub(crate) core_utilization: Option<f64>,
    /// The same in their fullest second.
    #[serde(alias = "cores_full_worst")]
    pub(crate) core_utilization_max: Option<f64>,
    /// User time for each delivery, in microseconds.
    pub(crate) user_micros_per_delivery: Option<f64>,
    /// System time for each delivery, in microseconds.
    pub(crate) system_micros_per_delivery: Option<f64>,
    /// Resident bytes before the first connection.
    pub(crate) resident_before: u64,
    /// The same with everybody connected, before the load.
    pub(crate) resident_connected: u64,
    /// The same at its highest.
    pub(crate) resident_peak: u64,
    /// The same at the end, with everybody connected.
    pub(crate) resident_after: u64,
    /// What each connection added, in bytes. Shared memory is divided among those who share it, where the kernel
    /// tells.
    pub(crate) bytes_per_connection: Option<f64>,
}

impl ProcessUsage {
    /// The share of user space in its processor time.
    pub(crate) fn user_share(&self) -> Option<f64> {
        let all = self.user_seconds + self.system_seconds;
        (all > 0.0).then(|| self.user_seconds / all)
    }

    /// Processor time for each delivery, in microseconds.
    pub(crate) fn micros_per_delivery(&self) -> Option<f64> {
        Some(self.user_micros_per_delivery? + self.system_micros_per_delivery?)
    }
}

/// A number that only some scenarios have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measure {
    /// For programs.
    pub(crate) name: String,
    /// For people.
    pub(crate) label: String,
    /// What it came to.
    pub(crate) value: f64,
    /// Of what.
    pub(crate) unit: String,
}

/// What the load test itself used, so that a result can be told from one that shows the load test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Generator {
    /// The busiest thread of subscribers, over the whole time.
    pub(crate) subscribers: Option<CpuShare>,
    /// The busiest thread of subscribers in its busiest second.
    pub(crate) busiest_second: Option<CpuShare>,
    /// The thread that published.
    pub(crate) publisher: Option<CpuShare>,
    /// The cores on which it may run, as the kernel lists them.
    pub(crate) cores: Option<String>,
    /// The share of the time in which they did anything, interrupts and other programs included.
    #[serde(alias = "cores_full")]
    pub(crate) core_utilization: Option<f64>,
    /// The same in their fullest second, of a time shorter than two seconds in the fullest third.
    #[serde(alias = "cores_full_worst")]
    pub(crate) core_utilization_max: Option<f64>,
    /// The whole process: seconds in user space.
    pub(crate) user_seconds: f64,
    /// The whole process: seconds in the kernel.
    pub(crate) system_seconds: f64,
    /// How late its timers ran.
    #[serde(alias = "timers")]
    pub(crate) timer_delay: Latency,
    /// How long the last of those who were ready together waited to be read.
    #[serde(alias = "turns")]
    pub(crate) read_delay: Latency,
    /// It was at its own limit: rates and latencies are not those of the server.
    pub(crate) bottleneck: bool,
    /// It read so late that latencies are not those of the server.
    pub(crate) late: bool,
}

/// How it went in one span of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Sample {
    /// The end of the span, in seconds from the beginning.
    pub(crate) at: f64,
    /// Its length in seconds.
    pub(crate) span: f64,
    /// Messages a second.
    pub(crate) published: f64,
    /// Deliveries a second.
    pub(crate) delivered: f64,
    /// Messages that were overtaken and have not come, up to here.
    pub(crate) missing: i64,
    /// Subscribers that are subscribed.
    pub(crate) subscribed: u64,
    /// Median latency, in milliseconds; nothing where nothing was delivered.
    pub(crate) p50: Option<f64>,
    /// The 99th percentile.
    pub(crate) p99: Option<f64>,
    /// The slowest.
    pub(crate) max: Option<f64>,
    /// Cores that each named process used in user space.
    pub(crate) user: Vec<f64>,
    /// Cores that each named process used in the kernel.
    pub(crate) system: Vec<f64>,
    /// Resident bytes of each named process.
    pub(crate) resident: Vec<u64>,
}

/// A distribution of milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Latency {
    /// How many values.
    pub(crate) count: u64,
    /// Their mean.
    pub(crate) mean: f64,
    /// Percentiles.
    pub(crate) p50: f64,
    /// See there.
    pub(crate) p90: f64,
    /// See there.
    pub(crate) p99: f64,
    /// See there.
    pub(crate) p99_9: f64,
    /// The largest.
    pub(crate) max: f64,
    /// Pairs of percentile and milliseconds, closer together towards 100.
    pub(crate) distribution: Vec<(f64, f64)>,
}

impl Latency {
    /// From microseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |percentile| millis(histogram.value_at_percentile(percentile));
        // Five steps for each halving of what remains.
        let points = histogram
            .iter_quantiles(5)
            .map(|step| (step.quantile_iterated_to() * 100.0, millis(step.value_iterated_to())));
        Self {
            count: histogram.len(),
            mean: histogram.mean() / 1000.0,
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p99_9: at(99.9),
            max: millis(histogram.max()),
            distribution: points.collect(),
        }
    }
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// So many in a span of so many seconds, each second.
pub(crate) fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_format_1_is_still_read() {
        let old = r#"{"format":1,"doubts":["d"],"returning":{"count":1},"cohorts":[{"judged":true}],
            "deliveries":{"foreign":2},"machine":{"cores_of_the_load_test":"1"},
            "processes":[{"cores_full":0.5,"cores_full_worst":0.6}],
            "meter":{"cores_full":0.7,"cores_full_worst":0.8,"timers":{"p99":1.0},"turns":{"p99":2.0}}}"#;
        let record: Record = serde_json::from_str(old).unwrap();
        assert_eq!((record.warnings.len(), record.cohorts[0].verified), (1, true));
        assert_eq!(record.reconnecting.map(|latency| latency.count), Some(1));
        assert_eq!(record.deliveries.from_other_runs, 2);
        assert_eq!(record.machine.generator_cores.as_deref(), Some("1"));
        let process = &record.processes[0];
        assert_eq!((process.core_utilization, process.core_utilization_max), (Some(0.5), Some(0.6)));
        let generator = record.generator;
        assert_eq!((generator.core_utilization, generator.core_utilization_max), (Some(0.7), Some(0.8)));
        assert_eq!((generator.timer_delay.p99, generator.read_delay.p99), (1.0, 2.0));
    }
}

//! The result of a run: the JSON format from which the table, the HTML page and the comparison are made. Results of
//! every earlier format must remain readable: a renamed field keeps its old name as an alias.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::resources::machine::MachineInfo;
use crate::resources::thread::CpuShare;

/// Format that is written. Readers accept all formats up to this one.
pub(crate) const FORMAT: u32 = 2;

/// Result of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// See [`FORMAT`].
    pub(crate) format: u32,
    /// Name of the scenario.
    pub(crate) scenario: String,
    /// One-line description.
    pub(crate) title: String,
    /// When the run started, in UTC.
    pub(crate) date: String,
    /// Commit of the working directory.
    pub(crate) commit: Option<String>,
    /// Machine of the load test.
    pub(crate) machine: MachineInfo,
    /// Kind of server under test.
    pub(crate) target: String,
    /// Options of the run.
    pub(crate) settings: BTreeMap<String, String>,
    /// Whether every message arrived once, in order, on its channel and unaltered.
    pub(crate) clean: bool,
    /// Error that ended publishing early.
    pub(crate) failure: Option<String>,
    /// Whether the operator interrupted the run.
    pub(crate) interrupted: bool,
    /// Connecting.
    pub(crate) connect: Connect,
    /// Publishing.
    pub(crate) published: PublishedRecord,
    /// Deliveries.
    pub(crate) deliveries: Deliveries,
    /// Results by cohort.
    pub(crate) cohorts: Vec<Cohort>,
    /// Time to be subscribed again, from when the reconnect was due.
    #[serde(alias = "returning")]
    pub(crate) reconnecting: Option<Latency>,
    /// Usage of the named processes.
    pub(crate) processes: Vec<ProcessUsage>,
    /// Measures specific to the scenario.
    pub(crate) measures: Vec<Measure>,
    /// Usage of the load generator itself.
    #[serde(alias = "meter")]
    pub(crate) generator: Generator,
    /// Reasons why the figures may not describe the server alone.
    #[serde(alias = "doubts")]
    pub(crate) warnings: Vec<String>,
    /// Samples over time.
    pub(crate) series: Vec<SampleRecord>,
}

/// Results of connecting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Connect {
    /// Number of subscribers.
    pub(crate) subscribers: u64,
    /// From the first to the last, in seconds.
    pub(crate) seconds: f64,
    /// Subscribers per second.
    pub(crate) per_second: f64,
    /// From due to subscribed.
    pub(crate) latency: Latency,
}

/// Results of publishing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PublishedRecord {
    /// Messages.
    pub(crate) count: u64,
    /// From the first to the last, in seconds.
    pub(crate) seconds: f64,
    /// Messages per second.
    pub(crate) per_second: f64,
    /// Requested rate; `None` for as fast as messages are delivered.
    pub(crate) asked_per_second: Option<f64>,
    /// Delay from due to sent.
    pub(crate) lag: Latency,
}

/// Deliveries to subscribers whose losses count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Deliveries {
    /// Expected deliveries.
    pub(crate) expected: u64,
    /// Distinct messages delivered.
    pub(crate) delivered: u64,
    /// Deliveries per second while messages were published.
    pub(crate) per_second: f64,
    /// Messages that never arrived.
    pub(crate) lost: u64,
    /// Messages that arrived again.
    pub(crate) duplicates: u64,
    /// Messages that arrived after later ones.
    pub(crate) out_of_order: u64,
    /// Messages of a channel that was not subscribed to.
    pub(crate) misrouted: u64,
    /// Payloads that differ from what was published.
    pub(crate) altered: u64,
    /// Offsets that do not follow the previous one, without a gap notice.
    pub(crate) skipped: u64,
    /// Messages of another run.
    #[serde(alias = "foreign")]
    pub(crate) from_other_runs: u64,
    /// Gap notices.
    pub(crate) gaps: u64,
    /// Subscriptions that resumed without loss.
    pub(crate) recovered: u64,
    /// Subscriptions that could not be recovered.
    pub(crate) unrecovered: u64,
    /// Reconnect attempts that failed and were repeated.
    pub(crate) retries: u64,
}

impl Deliveries {
    /// Whether every message arrived once, in order, on its channel and unaltered.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.duplicates + self.out_of_order + self.misrouted + self.altered + self.skipped == 0
    }
}

/// Results of subscribers that are evaluated together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Cohort {
    /// Name.
    pub(crate) name: String,
    /// Number of subscribers.
    pub(crate) subscribers: u64,
    /// Whether missing messages count as lost.
    #[serde(alias = "judged")]
    pub(crate) verified: bool,
    /// Messages received.
    pub(crate) delivered: u64,
    /// Messages that never arrived.
    pub(crate) lost: u64,
    /// From due to received.
    pub(crate) latency: Latency,
    /// From sent to received: excludes the delay of a blocked publisher.
    pub(crate) uncorrected: Latency,
    /// Connections that ended early, by reason.
    pub(crate) closed: BTreeMap<String, u64>,
}

/// Usage of one or more processes during the measured periods, and their memory before and after.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ProcessUsage {
    /// Name or id as given.
    pub(crate) name: String,
    /// Number of processes.
    pub(crate) count: usize,
    /// CPU seconds in user space.
    pub(crate) user_seconds: f64,
    /// CPU seconds in the kernel.
    pub(crate) system_seconds: f64,
    /// Average number of cores in use.
    pub(crate) cores: f64,
    /// Utilization of the cores that the processes may run on, by any process: interrupts are not attributed to one.
    #[serde(alias = "cores_full")]
    pub(crate) core_utilization: Option<f64>,
    /// Utilization in the busiest second.
    #[serde(alias = "cores_full_worst")]
    pub(crate) core_utilization_max: Option<f64>,
    /// User time per delivery, in microseconds.
    pub(crate) user_micros_per_delivery: Option<f64>,
    /// System time per delivery, in microseconds.
    pub(crate) system_micros_per_delivery: Option<f64>,
    /// Resident bytes before the first connection.
    pub(crate) resident_before: u64,
    /// Resident bytes with all subscribers connected, before the load.
    pub(crate) resident_connected: u64,
    /// Highest resident bytes.
    pub(crate) resident_peak: u64,
    /// Resident bytes at the end, with all subscribers connected.
    pub(crate) resident_after: u64,
    /// Memory added per connection, in bytes. Shared pages are divided among the processes that share them, if the
    /// kernel reports that.
    pub(crate) bytes_per_connection: Option<f64>,
}

impl ProcessUsage {
    /// Share of user space in the CPU time.
    pub(crate) fn user_share(&self) -> Option<f64> {
        let all = self.user_seconds + self.system_seconds;
        (all > 0.0).then(|| self.user_seconds / all)
    }

    /// CPU time per delivery, in microseconds.
    pub(crate) fn micros_per_delivery(&self) -> Option<f64> {
        Some(self.user_micros_per_delivery? + self.system_micros_per_delivery?)
    }
}

/// A measure specific to a scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measure {
    /// Machine-readable name.
    pub(crate) name: String,
    /// Human-readable label.
    pub(crate) label: String,
    /// Value.
    pub(crate) value: f64,
    /// Unit of the value.
    pub(crate) unit: String,
}

/// Usage of the load generator itself. Shows whether a result is limited by the load test instead of the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Generator {
    /// Busiest subscriber thread, over the whole measured period.
    pub(crate) subscribers: Option<CpuShare>,
    /// Busiest subscriber thread in its busiest second.
    pub(crate) busiest_second: Option<CpuShare>,
    /// Publisher thread.
    pub(crate) publisher: Option<CpuShare>,
    /// Cores that the load test may run on, as the kernel lists them.
    pub(crate) cores: Option<String>,
    /// Utilization of these cores, including interrupts and other processes.
    #[serde(alias = "cores_full")]
    pub(crate) core_utilization: Option<f64>,
    /// Utilization in the busiest second; in periods shorter than two seconds, in the busiest third.
    #[serde(alias = "cores_full_worst")]
    pub(crate) core_utilization_max: Option<f64>,
    /// CPU seconds of the process in user space.
    pub(crate) user_seconds: f64,
    /// CPU seconds of the process in the kernel.
    pub(crate) system_seconds: f64,
    /// Delay of timers.
    #[serde(alias = "timers")]
    pub(crate) timer_delay: Latency,
    /// Time from wake-up until the last ready socket was read.
    #[serde(alias = "turns")]
    pub(crate) read_delay: Latency,
    /// The load test was at its own limit: rates and latencies do not describe the server alone.
    pub(crate) bottleneck: bool,
    /// The load test read so late that latencies do not describe the server alone.
    pub(crate) late: bool,
}

/// One sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SampleRecord {
    /// End of the interval, in seconds since the start.
    pub(crate) at: f64,
    /// Length of the interval in seconds.
    pub(crate) span: f64,
    /// Messages per second.
    pub(crate) published: f64,
    /// Deliveries per second.
    pub(crate) delivered: f64,
    /// Messages missing so far although a later one has arrived.
    pub(crate) missing: i64,
    /// Subscribers that are subscribed.
    pub(crate) subscribed: u64,
    /// Median latency in milliseconds; `None` without deliveries.
    pub(crate) p50: Option<f64>,
    /// 99th percentile.
    pub(crate) p99: Option<f64>,
    /// Maximum.
    pub(crate) max: Option<f64>,
    /// Cores in use in user space, by process.
    pub(crate) user: Vec<f64>,
    /// Cores in use in the kernel, by process.
    pub(crate) system: Vec<f64>,
    /// Resident bytes, by process.
    pub(crate) resident: Vec<u64>,
}

/// Distribution in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Latency {
    /// Number of values.
    pub(crate) count: u64,
    /// Mean.
    pub(crate) mean: f64,
    /// 50th percentile.
    pub(crate) p50: f64,
    /// 90th percentile.
    pub(crate) p90: f64,
    /// 99th percentile.
    pub(crate) p99: f64,
    /// 99.9th percentile.
    pub(crate) p99_9: f64,
    /// Maximum.
    pub(crate) max: f64,
    /// Pairs of percentile and milliseconds, denser towards 100.
    pub(crate) distribution: Vec<(f64, f64)>,
}

impl Latency {
    /// Converts a histogram of microseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |percentile| millis(histogram.value_at_percentile(percentile));
        // Five points for each halving of the remaining share.
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

/// Rate per second; 0 for an empty time span.
pub(crate) fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_format_1_are_read() {
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

//! Builds the record of a run from its counters: sums, ratios and validity checks.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use earshot_client::ledger::Ledger;
use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::options::Options;
use crate::publisher::PublishTotals;
use crate::record::{
    Cohort, Connect, Deliveries, FORMAT, Generator, Latency, ProcessUsage, PublishedRecord, Record,
    per_second,
};
use crate::resources::cores::CoreUtilization;
use crate::resources::machine::{MachineInfo, commit, now};
use crate::resources::process::{ProcessName, ResourceUsage};
use crate::resources::{process, thread::CpuShare};
use crate::run_config::{Rate, RunConfig};
use crate::sampler::Sampler;
use crate::swarm::GeneratorCost;
use crate::tally::Tally;

mod chart;
mod compare;
mod escape;
mod page;
mod table;
pub(crate) mod validity;

use compare::RunComparison;
use table::Table;

/// Usage of the measured processes at points of the run.
#[derive(Debug, Default)]
pub(crate) struct UsageSnapshots {
    /// Before the first connection.
    pub(crate) before: Vec<ResourceUsage>,
    /// With all subscribers connected.
    pub(crate) connected: Vec<ResourceUsage>,
    /// At the end, with all subscribers connected.
    pub(crate) after: Vec<ResourceUsage>,
    start: Option<ReportSnapshot>,
    /// Measured periods.
    spans: Vec<(ReportSnapshot, ReportSnapshot)>,
}

#[derive(Debug)]
struct ReportSnapshot {
    at: Instant,
    usage: Vec<ResourceUsage>,
    own: ResourceUsage,
    delivered: u64,
}

impl ReportSnapshot {
    fn now(usage: Vec<ResourceUsage>, delivered: u64) -> Self {
        let own = process::ProcessGroup::find(&ProcessName::Number(std::process::id()));
        let own = own.map(|own| own.usage()).unwrap_or_default();
        Self { at: Instant::now(), usage, own, delivered }
    }
}

impl UsageSnapshots {
    /// Starts a measured period.
    pub(crate) fn begin(&mut self, usage: Vec<ResourceUsage>, delivered: u64) {
        self.start = Some(ReportSnapshot::now(usage, delivered));
    }

    /// Ends the measured period.
    pub(crate) fn end(&mut self, usage: Vec<ResourceUsage>, delivered: u64) {
        if let Some(start) = self.start.take() {
            self.spans.push((start, ReportSnapshot::now(usage, delivered)));
        }
    }

    /// Whether a measured period is open.
    pub(crate) fn is_measuring(&self) -> bool {
        self.start.is_some()
    }

    /// Sum of the increases over all measured periods.
    fn sum(&self, of: impl Fn(&ReportSnapshot) -> f64) -> f64 {
        self.spans.iter().map(|(start, end)| of(end) - of(start)).sum()
    }

    fn seconds(&self) -> f64 {
        self.spans.iter().map(|(start, end)| (end.at - start.at).as_secs_f64()).sum()
    }
}

/// Inputs of a record.
#[derive(Debug)]
pub(crate) struct RecordInputs<'a> {
    /// Options of the run.
    pub(crate) config: &'a RunConfig,
    /// Results of the subscribers.
    pub(crate) tally: &'a Tally,
    /// Cost of the load generator.
    pub(crate) cost: &'a GeneratorCost,
    /// Messages published, by channel.
    pub(crate) channels: &'a [u64],
    /// Results of publishing.
    pub(crate) totals: &'a PublishTotals,
    /// Usage of the measured processes.
    pub(crate) snapshots: &'a UsageSnapshots,
    /// Utilization of the cores of the load test.
    pub(crate) generator_cores: Option<&'a CoreUtilization>,
    /// Utilization of the cores of each process.
    pub(crate) cores: &'a [Option<CoreUtilization>],
    /// Time spent connecting.
    pub(crate) connecting: Duration,
    /// Whether the operator interrupted the run.
    pub(crate) interrupted: bool,
}

/// Builds the record of a run.
pub(crate) fn record(inputs: &RecordInputs<'_>, sampler: Sampler) -> Record {
    let names: Vec<(String, usize)> =
        sampler.processes.iter().map(|process| (process.name.clone(), process.numbers.len())).collect();
    let (series, peaks) = sampler.finish();
    let deliveries = deliveries(inputs);
    let latest = Latency::of(&inputs.tally.reconnect_latency);
    let mut record = Record {
        format: FORMAT,
        scenario: inputs.config.scenario.to_owned(),
        title: inputs.config.title(),
        date: now(),
        commit: commit(),
        machine: MachineInfo::here(),
        target: inputs.config.target.kind().name().to_owned(),
        settings: inputs.config.settings(),
        clean: deliveries.is_clean(),
        failure: inputs.totals.error.as_ref().map(ToString::to_string),
        interrupted: inputs.interrupted,
        connect: connect(inputs),
        published: published(inputs),
        cohorts: cohorts(inputs),
        reconnecting: (latest.count > 0).then_some(latest),
        processes: processes(inputs, &names, &peaks),
        measures: Vec::new(),
        generator: generator(inputs),
        warnings: Vec::new(),
        deliveries,
        series,
    };
    record.warnings = validity::warnings(&record);
    record.generator.bottleneck = validity::is_bottleneck(&record);
    record.generator.late = validity::is_late(&record);
    record
}

fn connect(inputs: &RecordInputs<'_>) -> Connect {
    let subscribers = u64::from(inputs.config.subscribers);
    let seconds = inputs.connecting.as_secs_f64();
    let latency = Latency::of(&inputs.tally.connect_latency);
    Connect { subscribers, seconds, per_second: per_second(subscribers, seconds), latency }
}

fn published(inputs: &RecordInputs<'_>) -> PublishedRecord {
    let PublishTotals { count, scheduled, elapsed, lag, .. } = inputs.totals;
    let seconds = elapsed.as_secs_f64();
    // The first message is due immediately, so n messages span n - 1 intervals.
    let (asked, intervals) = match inputs.config.rate {
        Rate::PerSecond(rate) => {
            ((*scheduled > 0).then_some(rate), scheduled.saturating_sub(inputs.config.burst))
        }
        Rate::Max => (None, *scheduled),
    };
    PublishedRecord {
        count: *count,
        seconds,
        per_second: per_second(intervals, seconds),
        asked_per_second: asked,
        lag: Latency::of(lag),
    }
}

fn deliveries(inputs: &RecordInputs<'_>) -> Deliveries {
    let sum =
        |count: fn(&Ledger) -> u64| verified_entries(inputs).map(|entry| count(&entry.ledger)).sum::<u64>();
    let lost = verified_entries(inputs)
        .map(|entry| entry.ledger.lost(inputs.channels[entry.channel as usize]))
        .sum();
    let (delivered, counts) = (sum(Ledger::delivered), inputs.tally.counts);
    Deliveries {
        expected: delivered + lost,
        delivered,
        per_second: per_second(delivered, inputs.totals.elapsed.as_secs_f64()),
        lost,
        duplicates: sum(Ledger::duplicates),
        out_of_order: sum(Ledger::late),
        misrouted: counts.misrouted,
        altered: counts.altered,
        skipped: counts.skipped,
        from_other_runs: counts.from_other_runs,
        gaps: counts.gaps,
        recovered: counts.recovered,
        unrecovered: counts.unrecovered,
        retries: counts.retries,
    }
}

fn verified_entries<'a>(inputs: &'a RecordInputs<'_>) -> impl Iterator<Item = &'a crate::tally::TallyEntry> {
    let cohorts = &inputs.tally.cohorts;
    inputs.tally.entries.iter().filter(|entry| cohorts[usize::from(entry.cohort)].verified)
}

fn cohorts(inputs: &RecordInputs<'_>) -> Vec<Cohort> {
    let cohort = |(index, cohort): (usize, &crate::tally::CohortTally)| {
        let of_it = || inputs.tally.entries.iter().filter(move |entry| usize::from(entry.cohort) == index);
        let lost =
            |entry: &crate::tally::TallyEntry| entry.ledger.lost(inputs.channels[entry.channel as usize]);
        Cohort {
            name: cohort.name.to_owned(),
            subscribers: of_it().count() as u64,
            verified: cohort.verified,
            delivered: of_it().map(|entry| entry.ledger.delivered()).sum(),
            lost: of_it().map(lost).sum(),
            latency: Latency::of(&cohort.latency),
            uncorrected: Latency::of(&cohort.uncorrected),
            closed: cohort.closed.clone(),
        }
    };
    let cohorts = inputs.tally.cohorts.iter().enumerate().map(cohort);
    cohorts.filter(|cohort| cohort.subscribers > 0).collect()
}

fn processes(inputs: &RecordInputs<'_>, names: &[(String, usize)], peaks: &[u64]) -> Vec<ProcessUsage> {
    let snapshots = inputs.snapshots;
    let process = |(index, (name, count)): (usize, &(String, usize))| {
        let at = |usage: &[ResourceUsage]| usage.get(index).copied().unwrap_or_default();
        let (before, connected, after) =
            (at(&snapshots.before), at(&snapshots.connected), at(&snapshots.after));
        let mut process = ProcessUsage {
            name: name.clone(),
            count: *count,
            resident_before: before.resident,
            resident_connected: connected.resident,
            resident_peak: peaks.get(index).copied().unwrap_or_default().max(connected.resident),
            resident_after: after.resident,
            bytes_per_connection: per_connection(&before, &connected, inputs.config.subscribers),
            ..ProcessUsage::default()
        };
        if !snapshots.spans.is_empty() {
            process.user_seconds = snapshots.sum(|mark| at(&mark.usage).user).max(0.0);
            process.system_seconds = snapshots.sum(|mark| at(&mark.usage).system).max(0.0);
            process.cores =
                (process.user_seconds + process.system_seconds) / snapshots.seconds().max(f64::EPSILON);
            let cores = inputs.cores.get(index).and_then(Option::as_ref);
            process.core_utilization = cores.and_then(CoreUtilization::mean);
            process.core_utilization_max = cores.and_then(CoreUtilization::max);
            let delivered = snapshots.sum(|mark| mark.delivered as f64);
            let each = |seconds: f64| (delivered > 0.0).then(|| seconds * 1e6 / delivered);
            process.user_micros_per_delivery = each(process.user_seconds);
            process.system_micros_per_delivery = each(process.system_seconds);
        }
        process
    };
    names.iter().enumerate().map(process).collect()
}

fn per_connection(before: &ResourceUsage, connected: &ResourceUsage, subscribers: u32) -> Option<f64> {
    let (from, to) = match (before.proportional, connected.proportional) {
        (Some(from), Some(to)) => (from, to),
        _ => (before.resident, connected.resident),
    };
    (to > 0).then(|| (to as f64 - from as f64) / f64::from(subscribers))
}

fn generator(inputs: &RecordInputs<'_>) -> Generator {
    let GeneratorCost { share, worst_second, timer_delay, read_delay } = inputs.cost;
    let busiest: Option<CpuShare> = CpuShare::worst_of(*worst_second, *share);
    Generator {
        subscribers: *share,
        busiest_second: busiest,
        publisher: inputs.totals.cpu,
        cores: inputs.generator_cores.map(|cores| cores.list().to_owned()),
        core_utilization: inputs.generator_cores.and_then(CoreUtilization::mean),
        core_utilization_max: inputs.generator_cores.and_then(CoreUtilization::max),
        user_seconds: inputs.snapshots.sum(|mark| mark.own.user),
        system_seconds: inputs.snapshots.sum(|mark| mark.own.system),
        timer_delay: Latency::of(timer_delay),
        read_delay: Latency::of(read_delay),
        ..Generator::default()
    }
}

/// Writes a record in every requested format. The error names the file that could not be written.
pub(crate) fn publish(record: &Record, options: &Options) -> Result<(), String> {
    let to_stdout = options.json.as_deref().is_some_and(|path| path == Path::new("-"));
    let json = serde_json::to_string_pretty(record).map_err(|error| error.to_string())? + "\n";
    if let Some(path) = options.json.as_deref().filter(|_| !to_stdout) {
        write(path, &json)?;
    }
    if let Some(path) = &options.html {
        write(path, &page::page(std::slice::from_ref(record)))?;
    }
    let text = if to_stdout { json } else { Table(record).to_string() };
    // A closed standard output does not change the exit code.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Compares saved results. The error names the file that could not be read.
pub(crate) fn compare(files: &[PathBuf], html: Option<&Path>) -> Result<(), String> {
    let records = files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    if let Some(path) = html {
        write(path, &page::page(&records))?;
    }
    // A closed standard output does not matter.
    let _ = write!(std::io::stdout(), "{}", RunComparison(&records));
    Ok(())
}

/// Reads a saved result.
fn read(path: &Path) -> Result<Record, String> {
    let cannot = |what: &dyn std::fmt::Display| format!("cannot read {}: {what}", path.display());
    let text = fs::read_to_string(path).map_err(|error| cannot(&error))?;
    let record: Record = serde_json::from_str(&text).map_err(|error| cannot(&error))?;
    match record.format {
        1..=FORMAT => Ok(record),
        other => Err(cannot(&format!("format {other} is not supported (supported: 1 to {FORMAT})"))),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// 99th percentile in milliseconds; 0 for an empty histogram.
pub(crate) fn p99(histogram: &Histogram<u64>) -> f64 {
    if histogram.is_empty() { 0.0 } else { histogram.value_at_percentile(99.0) as f64 / 1000.0 }
}

//! From what was counted to the record of a run: sums, ratios, and whether the numbers can be believed. Never measures.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::ledger::Ledger;
use crate::options::{Options, Rate, Setup};
use crate::record::{
    Cohort, Connect, Deliveries, FORMAT, Latency, Meter, Process, Published, Record, per_second,
};
use crate::resources::cores::Fullness;
use crate::resources::machine::{Machine, commit, now};
use crate::resources::process::{ProcessName, Usage};
use crate::resources::{process, thread::CpuShare};
use crate::sampler::Sampler;
use crate::scenario::PublishTotals;
use crate::swarm::GeneratorCost;
use crate::tally::Tally;

mod chart;
mod compare;
pub(crate) mod doubts;
mod escape;
mod page;
mod table;

use compare::Comparison;
use table::Table;

/// What processes had used at the turns of a run.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Before the first connection.
    pub(crate) before: Vec<Usage>,
    /// With everybody connected.
    pub(crate) connected: Vec<Usage>,
    /// At the end, with everybody connected.
    pub(crate) after: Vec<Usage>,
    start: Option<Mark>,
    /// The times in which processor time is counted.
    spans: Vec<(Mark, Mark)>,
}

#[derive(Debug)]
struct Mark {
    at: Instant,
    usage: Vec<Usage>,
    own: Usage,
    delivered: u64,
}

impl Mark {
    fn now(usage: Vec<Usage>, delivered: u64) -> Self {
        let own = process::Process::find(&ProcessName::Number(std::process::id()));
        let own = own.map(|own| own.usage()).unwrap_or_default();
        Self { at: Instant::now(), usage, own, delivered }
    }
}

impl Marks {
    /// Processor time is counted from here on.
    pub(crate) fn begin(&mut self, usage: Vec<Usage>, delivered: u64) {
        self.start = Some(Mark::now(usage, delivered));
    }

    /// Processor time is counted up to here.
    pub(crate) fn end(&mut self, usage: Vec<Usage>, delivered: u64) {
        if let Some(start) = self.start.take() {
            self.spans.push((start, Mark::now(usage, delivered)));
        }
    }

    /// Whether it is being counted.
    pub(crate) fn is_open(&self) -> bool {
        self.start.is_some()
    }

    /// What was added, over all times in which it was counted.
    fn sum(&self, of: impl Fn(&Mark) -> f64) -> f64 {
        self.spans.iter().map(|(start, end)| of(end) - of(start)).sum()
    }

    fn seconds(&self) -> f64 {
        self.spans.iter().map(|(start, end)| (end.at - start.at).as_secs_f64()).sum()
    }
}

/// What a record is made of.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    /// What was asked for.
    pub(crate) setup: &'a Setup,
    /// What was heard.
    pub(crate) tally: &'a Tally,
    /// What it cost to hear it.
    pub(crate) cost: &'a GeneratorCost,
    /// How many messages each channel got.
    pub(crate) channels: &'a [u64],
    /// What was published.
    pub(crate) totals: &'a PublishTotals,
    /// What processes used.
    pub(crate) marks: &'a Marks,
    /// How full the cores of the load test were.
    pub(crate) own_cores: Option<&'a Fullness>,
    /// The same of each process.
    pub(crate) cores: &'a [Option<Fullness>],
    /// How long connecting took.
    pub(crate) connecting: Duration,
    /// The operator ended it early.
    pub(crate) interrupted: bool,
}

/// The record of a run.
pub(crate) fn record(parts: &Parts<'_>, sampler: Sampler) -> Record {
    let names: Vec<(String, usize)> =
        sampler.processes.iter().map(|process| (process.name.clone(), process.numbers.len())).collect();
    let (series, peaks) = sampler.finish();
    let deliveries = deliveries(parts);
    let latest = Latency::of(&parts.tally.reconnect_latency);
    let mut record = Record {
        format: FORMAT,
        scenario: parts.setup.scenario.to_owned(),
        title: parts.setup.title(),
        date: now(),
        commit: commit(),
        machine: Machine::here(),
        target: parts.setup.target.kind().name().to_owned(),
        settings: parts.setup.settings(),
        clean: deliveries.is_clean(),
        failure: parts.totals.error.as_ref().map(ToString::to_string),
        interrupted: parts.interrupted,
        connect: connect(parts),
        published: published(parts),
        cohorts: cohorts(parts),
        returning: (latest.count > 0).then_some(latest),
        processes: processes(parts, &names, &peaks),
        measures: Vec::new(),
        meter: meter(parts),
        doubts: Vec::new(),
        deliveries,
        series,
    };
    record.doubts = doubts::doubts(&record);
    record.meter.bottleneck = doubts::is_bottleneck(&record);
    record.meter.late = doubts::is_late(&record);
    record
}

fn connect(parts: &Parts<'_>) -> Connect {
    let subscribers = u64::from(parts.setup.subscribers);
    let seconds = parts.connecting.as_secs_f64();
    let latency = Latency::of(&parts.tally.connect_latency);
    Connect { subscribers, seconds, per_second: per_second(subscribers, seconds), latency }
}

fn published(parts: &Parts<'_>) -> Published {
    let PublishTotals { count, scheduled, elapsed, lag, .. } = parts.totals;
    let seconds = elapsed.as_secs_f64();
    // By the clock the first message is due at once, so n messages span n - 1 intervals.
    let (asked, intervals) = match parts.setup.rate {
        Rate::PerSecond(rate) => {
            ((*scheduled > 0).then_some(rate), scheduled.saturating_sub(parts.setup.burst))
        }
        Rate::Max => (None, *scheduled),
    };
    Published {
        count: *count,
        seconds,
        per_second: per_second(intervals, seconds),
        asked_per_second: asked,
        lag: Latency::of(lag),
    }
}

fn deliveries(parts: &Parts<'_>) -> Deliveries {
    let sum = |count: fn(&Ledger) -> u64| judged(parts).map(|entry| count(&entry.ledger)).sum::<u64>();
    let lost = judged(parts).map(|entry| entry.ledger.lost(parts.channels[entry.channel as usize])).sum();
    let (delivered, counts) = (sum(Ledger::delivered), parts.tally.counts);
    Deliveries {
        expected: delivered + lost,
        delivered,
        per_second: per_second(delivered, parts.totals.elapsed.as_secs_f64()),
        lost,
        duplicates: sum(Ledger::duplicates),
        out_of_order: sum(Ledger::late),
        misrouted: counts.misrouted,
        altered: counts.altered,
        skipped: counts.skipped,
        foreign: counts.foreign,
        gaps: counts.gaps,
        recovered: counts.recovered,
        unrecovered: counts.unrecovered,
        retries: counts.retries,
    }
}

fn judged<'a>(parts: &'a Parts<'_>) -> impl Iterator<Item = &'a crate::tally::TallyEntry> {
    let cohorts = &parts.tally.cohorts;
    parts.tally.entries.iter().filter(|entry| cohorts[usize::from(entry.cohort)].judged)
}

fn cohorts(parts: &Parts<'_>) -> Vec<Cohort> {
    let cohort = |(index, cohort): (usize, &crate::tally::CohortTally)| {
        let of_it = || parts.tally.entries.iter().filter(move |entry| usize::from(entry.cohort) == index);
        let lost =
            |entry: &crate::tally::TallyEntry| entry.ledger.lost(parts.channels[entry.channel as usize]);
        Cohort {
            name: cohort.name.to_owned(),
            subscribers: of_it().count() as u64,
            judged: cohort.judged,
            delivered: of_it().map(|entry| entry.ledger.delivered()).sum(),
            lost: of_it().map(lost).sum(),
            latency: Latency::of(&cohort.latency),
            uncorrected: Latency::of(&cohort.uncorrected),
            closed: cohort.closed.clone(),
        }
    };
    let cohorts = parts.tally.cohorts.iter().enumerate().map(cohort);
    cohorts.filter(|cohort| cohort.subscribers > 0).collect()
}

fn processes(parts: &Parts<'_>, names: &[(String, usize)], peaks: &[u64]) -> Vec<Process> {
    let marks = parts.marks;
    let process = |(index, (name, count)): (usize, &(String, usize))| {
        let at = |usage: &[Usage]| usage.get(index).copied().unwrap_or_default();
        let (before, connected, after) = (at(&marks.before), at(&marks.connected), at(&marks.after));
        let mut process = Process {
            name: name.clone(),
            count: *count,
            resident_before: before.resident,
            resident_connected: connected.resident,
            resident_peak: peaks.get(index).copied().unwrap_or_default().max(connected.resident),
            resident_after: after.resident,
            bytes_per_connection: per_connection(&before, &connected, parts.setup.subscribers),
            ..Process::default()
        };
        if !marks.spans.is_empty() {
            process.user_seconds = marks.sum(|mark| at(&mark.usage).user).max(0.0);
            process.system_seconds = marks.sum(|mark| at(&mark.usage).system).max(0.0);
            process.cores =
                (process.user_seconds + process.system_seconds) / marks.seconds().max(f64::EPSILON);
            let cores = parts.cores.get(index).and_then(Option::as_ref);
            process.cores_full = cores.and_then(Fullness::whole);
            process.cores_full_worst = cores.and_then(Fullness::worst);
            let delivered = marks.sum(|mark| mark.delivered as f64);
            let each = |seconds: f64| (delivered > 0.0).then(|| seconds * 1e6 / delivered);
            process.user_micros_per_delivery = each(process.user_seconds);
            process.system_micros_per_delivery = each(process.system_seconds);
        }
        process
    };
    names.iter().enumerate().map(process).collect()
}

fn per_connection(before: &Usage, connected: &Usage, subscribers: u32) -> Option<f64> {
    let (from, to) = match (before.proportional, connected.proportional) {
        (Some(from), Some(to)) => (from, to),
        _ => (before.resident, connected.resident),
    };
    (to > 0).then(|| (to as f64 - from as f64) / f64::from(subscribers))
}

fn meter(parts: &Parts<'_>) -> Meter {
    let GeneratorCost { share, worst_second, timer_delay, read_delay } = parts.cost;
    let busiest: Option<CpuShare> = CpuShare::worst_of(*worst_second, *share);
    Meter {
        subscribers: *share,
        busiest_second: busiest,
        publisher: parts.totals.cpu,
        cores: parts.own_cores.map(|cores| cores.list().to_owned()),
        cores_full: parts.own_cores.and_then(Fullness::whole),
        cores_full_worst: parts.own_cores.and_then(Fullness::worst),
        user_seconds: parts.marks.sum(|mark| mark.own.user),
        system_seconds: parts.marks.sum(|mark| mark.own.system),
        timers: Latency::of(timer_delay),
        turns: Latency::of(read_delay),
        ..Meter::default()
    }
}

/// Tells a record in every way that was asked for. The error says which file could not be written.
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
    // A reader that went away does not change the verdict.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Puts results that were kept beside each other. The error says which file is none.
pub(crate) fn compare(files: &[PathBuf], html: Option<&Path>) -> Result<(), String> {
    let records = files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    if let Some(path) = html {
        write(path, &page::page(&records))?;
    }
    // A reader that went away changes nothing.
    let _ = write!(std::io::stdout(), "{}", Comparison(&records));
    Ok(())
}

/// Reads a result that was kept.
fn read(path: &Path) -> Result<Record, String> {
    let cannot = |what: &dyn std::fmt::Display| format!("cannot read {}: {what}", path.display());
    let text = fs::read_to_string(path).map_err(|error| cannot(&error))?;
    let record: Record = serde_json::from_str(&text).map_err(|error| cannot(&error))?;
    match record.format {
        1..=FORMAT => Ok(record),
        other => Err(cannot(&format!("its format is {other}, and this reads 1 to {FORMAT}"))),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// The 99th percentile in milliseconds; 0 where there is nothing.
pub(crate) fn p99(histogram: &Histogram<u64>) -> f64 {
    if histogram.is_empty() { 0.0 } else { histogram.value_at_percentile(99.0) as f64 / 1000.0 }
}

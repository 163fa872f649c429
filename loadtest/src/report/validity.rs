//! Checks whether the figures of a run describe the server: the load test was at its own limit, the machine was fully
//! used, or the schedule was not kept.

use crate::record::Record;

/// Share of a core above which a thread of the load test is its own bottleneck.
const THREAD_BUSY_MAX: f64 = 0.9;
/// Utilization above which the cores of the load test have no capacity left. Includes interrupts, which no thread's
/// clock shows.
const CORE_UTILIZATION_MAX: f64 = 0.95;
/// Share of the time that a thread may wait for a core. Above it, the figures describe the machine.
const STARVED_MAX: f64 = 0.2;
/// Share of the requested rate that must be published.
const RATE_KEPT_MIN: f64 = 0.95;
/// Publish delay at p99 above which the publisher has fallen behind, in milliseconds.
const PUBLISH_LAG_MAX_MILLIS: f64 = 20.0;
/// Read delay above which it affects latencies, in milliseconds …
const READ_DELAY_MAX_MILLIS: f64 = 5.0;
/// … if it also exceeds this share of the latency.
const READ_DELAY_SHARE_MAX: f64 = 0.25;
/// Number of deliveries below which p99.9 is unreliable.
const TAIL_DELIVERIES_MIN: u64 = 1000;

/// Returns a sentence for each problem found.
pub(super) fn warnings(record: &Record) -> Vec<String> {
    let mut warnings = Vec::new();
    check_threads(record, &mut warnings);
    generator_cores(record, &mut warnings);
    check_delays(record, &mut warnings);
    check_schedule(record, &mut warnings);
    check_idle_servers(record, &mut warnings);
    for cohort in &record.cohorts {
        if (1..TAIL_DELIVERIES_MIN).contains(&cohort.latency.count) && record.published.seconds > 0.0 {
            let (name, count) = (&cohort.name, cohort.latency.count);
            warnings.push(format!("{name}: {count} deliveries are too few for p99.9"));
        }
    }
    warnings
}

/// Whether the load test was at its own limit.
pub(super) fn is_bottleneck(record: &Record) -> bool {
    let generator = &record.generator;
    let busy = [generator.subscribers, generator.busiest_second, generator.publisher];
    let full = [generator.core_utilization, generator.core_utilization_max];
    busy.into_iter().flatten().any(|share| share.busy > THREAD_BUSY_MAX)
        || full.into_iter().flatten().any(|full| full > CORE_UTILIZATION_MAX)
}

/// Whether the server had capacity left, so that its rate is not its limit.
pub(crate) fn has_spare_capacity(cores: f64, core_utilization_max: Option<f64>) -> bool {
    cores < THREAD_BUSY_MAX && core_utilization_max.is_none_or(|full| full <= CORE_UTILIZATION_MAX)
}

/// Whether the load test read so late that latencies do not describe the server.
pub(super) fn is_late(record: &Record) -> bool {
    let latencies = record.cohorts.iter().map(|cohort| cohort.latency.p99);
    let shortest = latencies.filter(|p99| *p99 > 0.0).fold(f64::INFINITY, f64::min);
    let late = read_delay(record);
    late > READ_DELAY_MAX_MILLIS && late > shortest * READ_DELAY_SHARE_MAX
}

/// Read delay at p99 in milliseconds. A thread whose timers are late also reads late.
fn read_delay(record: &Record) -> f64 {
    record.generator.read_delay.p99.max(record.generator.timer_delay.p99)
}

fn check_threads(record: &Record, warnings: &mut Vec<String>) {
    let generator = &record.generator;
    let over_all = generator.subscribers.is_some_and(|share| share.busy > THREAD_BUSY_MAX);
    let shares = [
        ("a subscriber thread was", generator.subscribers, ""),
        ("a subscriber thread was", generator.busiest_second.filter(|_| !over_all), " in its busiest second"),
        ("the publisher was", generator.publisher, ""),
    ];
    for (who, share, when) in shares {
        let Some(share) = share else { continue };
        if share.busy > THREAD_BUSY_MAX {
            let percent = share.busy * 100.0;
            warnings.push(format!(
                "{who} busy {percent:.0} % of the time{when}: the load test is the bottleneck"
            ));
        }
        if share.starved > STARVED_MAX && when.is_empty() {
            let percent = share.starved * 100.0;
            warnings.push(format!(
                "{who} runnable without a core {percent:.0} % of the time: the machine is overloaded"
            ));
        }
    }
}

fn generator_cores(record: &Record, warnings: &mut Vec<String>) {
    let generator = &record.generator;
    let full = |share: Option<f64>| share.filter(|share| *share > CORE_UTILIZATION_MAX);
    let (share, when) = match (full(generator.core_utilization), full(generator.core_utilization_max)) {
        (Some(share), _) => (share, ""),
        (None, Some(share)) => (share, " in their busiest second"),
        (None, None) => return,
    };
    let (percent, cores) = (share * 100.0, generator.cores.as_deref().unwrap_or_default());
    warnings.push(format!(
        "the cores of the load test ({cores}) were {percent:.0} % busy{when}, including interrupts and other \
         processes: the load test is the bottleneck"
    ));
}

/// For runs that publish or connect as fast as possible: warns if a server had capacity left.
fn check_idle_servers(record: &Record, warnings: &mut Vec<String>) {
    let published = record.published.seconds > 0.0 && record.published.asked_per_second.is_none();
    let connected = record.settings.get("connect_rate").is_some_and(|rate| rate == "max");
    if !(published || connected) {
        return;
    }
    for process in &record.processes {
        if has_spare_capacity(process.cores, process.core_utilization_max) {
            let (name, cores) = (&process.name, process.cores);
            warnings.push(format!("{name} used {cores:.2} of a core: the rate is not its limit"));
        }
    }
}

fn check_delays(record: &Record, warnings: &mut Vec<String>) {
    if is_late(record) {
        let late = read_delay(record);
        warnings
            .push(format!("the load test read up to {late:.1} ms late (p99): latencies include this delay"));
    }
    let lag = record.published.lag.p99;
    if lag > PUBLISH_LAG_MAX_MILLIS {
        warnings
            .push(format!("the publisher fell behind by {lag:.1} ms at p99: latencies include this delay"));
    }
}

fn check_schedule(record: &Record, warnings: &mut Vec<String>) {
    let published = &record.published;
    let Some(asked) = published.asked_per_second else { return };
    if published.count > 1 && published.seconds > 0.0 && published.per_second < asked * RATE_KEPT_MIN {
        let kept = published.per_second;
        warnings.push(format!("the publisher sent {kept:.0} of {asked:.0} requested messages per second"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Cohort, Generator, Latency, ProcessUsage, PublishedRecord};
    use crate::resources::thread::CpuShare;

    fn record() -> Record {
        let latency = Latency { count: 5000, p99: 10.0, ..Latency::default() };
        let published = PublishedRecord {
            count: 21,
            seconds: 1.0,
            per_second: 20.0,
            asked_per_second: Some(20.0),
            ..PublishedRecord::default()
        };
        Record { cohorts: vec![Cohort { latency, ..Cohort::default() }], published, ..Record::default() }
    }

    #[test]
    fn generator_bottleneck_is_reported() {
        let share = |busy, starved| Some(CpuShare { busy, starved });
        let with = |generator: Generator| {
            let record = Record { generator, ..record() };
            (warnings(&record).len(), is_bottleneck(&record) || is_late(&record))
        };
        assert_eq!(with(Generator::default()), (0, false));
        assert_eq!(with(Generator { subscribers: share(0.95, 0.3), ..Generator::default() }), (2, true));
        assert_eq!(with(Generator { busiest_second: share(0.95, 0.3), ..Generator::default() }), (1, true));
        assert_eq!(with(Generator { publisher: share(0.95, 0.0), ..Generator::default() }), (1, true));
        assert_eq!(with(Generator { publisher: share(0.1, 0.3), ..Generator::default() }), (1, false));
        let turns =
            |p99| Generator { read_delay: Latency { p99, ..Latency::default() }, ..Generator::default() };
        assert_eq!(with(turns(6.0)), (1, true));
        assert_eq!(with(turns(4.0)), (0, false));
        let timers =
            |p99| Generator { timer_delay: Latency { p99, ..Latency::default() }, ..Generator::default() };
        assert_eq!((with(timers(6.0)), with(timers(4.0))), ((1, true), (0, false)));
        let slow = Latency { count: 5000, p99: 100.0, ..Latency::default() };
        let cohorts = vec![Cohort { latency: slow, ..Cohort::default() }];
        let record = Record { generator: timers(6.0), cohorts, ..record() };
        assert!(!is_late(&record), "6 ms are little among 100");
    }

    #[test]
    fn full_cores_are_reported() {
        let with = |whole, worst| {
            let cores = Some("1".to_owned());
            let generator = Generator {
                cores,
                core_utilization: Some(whole),
                core_utilization_max: Some(worst),
                ..Generator::default()
            };
            let record = Record { generator, ..record() };
            (warnings(&record), is_bottleneck(&record))
        };
        assert_eq!(with(0.9, 0.95), (Vec::new(), false));
        let (notes, bottleneck) = with(0.99, 1.0);
        assert!(bottleneck && notes.len() == 1, "{notes:?}");
        assert!(notes[0].starts_with("the cores of the load test (1) were 99 % busy, "), "{notes:?}");
        let (notes, bottleneck) = with(0.5, 1.0);
        assert!(bottleneck && notes[0].contains("100 % busy in their busiest second"), "{notes:?}");
    }

    #[test]
    fn spare_capacity_of_the_server_is_reported() {
        let notes = |cores, core_utilization_max, published: PublishedRecord, rate: Option<&str>| {
            let process =
                ProcessUsage { name: "x".to_owned(), cores, core_utilization_max, ..ProcessUsage::default() };
            let rate = rate.map(|rate| ("connect_rate".to_owned(), rate.to_owned()));
            let settings = rate.into_iter().collect();
            warnings(&Record { processes: vec![process], published, settings, ..record() })
        };
        let fast = || PublishedRecord { asked_per_second: None, ..record().published };
        assert_eq!(
            notes(0.62, Some(0.7), fast(), None),
            ["x used 0.62 of a core: the rate is not its limit"]
        );
        assert_eq!(notes(0.62, None, fast(), None).len(), 1);
        assert_eq!(notes(0.95, Some(0.7), fast(), None), Vec::<String>::new());
        // Interrupts used the rest of the core.
        assert_eq!(notes(0.62, Some(0.99), fast(), None), Vec::<String>::new());
        assert_eq!(notes(0.62, Some(0.7), record().published, None), Vec::<String>::new());
        let none = PublishedRecord::default;
        assert_eq!(notes(0.62, Some(0.7), none(), Some("max")).len(), 1);
        assert_eq!(notes(0.62, Some(0.7), none(), Some("500")), Vec::<String>::new());
    }

    #[test]
    fn missed_schedule_is_reported() {
        let with = |published: PublishedRecord| warnings(&Record { published, ..record() }).len();
        assert_eq!(with(PublishedRecord { per_second: 18.0, ..record().published }), 1);
        assert_eq!(
            with(PublishedRecord { asked_per_second: None, per_second: 18.0, ..record().published }),
            0
        );
        let lag = Latency { p99: 30.0, ..Latency::default() };
        assert_eq!(with(PublishedRecord { lag, ..record().published }), 1);
    }
}

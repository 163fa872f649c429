//! Why the numbers of a run may not be those of the server: the load test was at its own limit, the machine was full,
//! or the check_schedule was not kept. Reads a record, decides nothing else.

use crate::record::Record;

/// Above this share of a core, a thread of the load test measures itself.
const THREAD_BUSY_MAX: f64 = 0.9;
/// Above this share of the time, the cores on which it may run have nothing left for it. Interrupts are in it, which the
/// clock of no thread shows.
const CORE_UTILIZATION_MAX: f64 = 0.95;
/// A thread that waited for a core longer than this measures the machine.
const STARVED_MAX: f64 = 0.2;
/// Less than this of the rate that was asked for is another test.
const RATE_KEPT_MIN: f64 = 0.95;
/// A publisher that is later than this for one message in a hundred has fallen behind, in milliseconds.
const PUBLISH_LAG_MAX_MILLIS: f64 = 20.0;
/// A load test that reads later than this adds to latencies, in milliseconds …
const READ_DELAY_MAX_MILLIS: f64 = 5.0;
/// … when that is more than this share of them.
const READ_DELAY_SHARE_MAX: f64 = 0.25;
/// A cohort of fewer deliveries says little about its tail.
const TAIL_DELIVERIES_MIN: u64 = 1000;

/// In words; nothing where there is nothing to doubt.
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

/// Whether a server had something left: the rate is then not its limit, but that of whoever asked.
pub(crate) fn has_spare_capacity(cores: f64, core_utilization_max: Option<f64>) -> bool {
    cores < THREAD_BUSY_MAX && core_utilization_max.is_none_or(|full| full <= CORE_UTILIZATION_MAX)
}

/// Whether it read so late that latencies are not those of the server.
pub(super) fn is_late(record: &Record) -> bool {
    let latencies = record.cohorts.iter().map(|cohort| cohort.latency.p99);
    let shortest = latencies.filter(|p99| *p99 > 0.0).fold(f64::INFINITY, f64::min);
    let late = read_delay(record);
    late > READ_DELAY_MAX_MILLIS && late > shortest * READ_DELAY_SHARE_MAX
}

/// At p99, in milliseconds: a thread whose timers run late reads late as well.
fn read_delay(record: &Record) -> f64 {
    record.generator.read_delay.p99.max(record.generator.timer_delay.p99)
}

fn check_threads(record: &Record, warnings: &mut Vec<String>) {
    let generator = &record.generator;
    let over_all = generator.subscribers.is_some_and(|share| share.busy > THREAD_BUSY_MAX);
    let shares = [
        ("a thread of subscribers was", generator.subscribers, ""),
        (
            "a thread of subscribers was",
            generator.busiest_second.filter(|_| !over_all),
            " in its busiest second",
        ),
        ("the publisher was", generator.publisher, ""),
    ];
    for (who, share, when) in shares {
        let Some(share) = share else { continue };
        if share.busy > THREAD_BUSY_MAX {
            let percent = share.busy * 100.0;
            warnings
                .push(format!("{who} busy {percent:.0} % of a core{when}: the load test is the bottleneck"));
        }
        if share.starved > STARVED_MAX && when.is_empty() {
            let percent = share.starved * 100.0;
            warnings
                .push(format!("{who} {percent:.0} % of the time ready without a core: the machine is full"));
        }
    }
}

fn generator_cores(record: &Record, warnings: &mut Vec<String>) {
    let generator = &record.generator;
    let full = |share: Option<f64>| share.filter(|share| *share > CORE_UTILIZATION_MAX);
    let (share, when) = match (full(generator.core_utilization), full(generator.core_utilization_max)) {
        (Some(share), _) => (share, ""),
        (None, Some(share)) => (share, " in their fullest second"),
        (None, None) => return,
    };
    let (percent, cores) = (share * 100.0, generator.cores.as_deref().unwrap_or_default());
    warnings.push(format!(
        "the cores on which the load test may run ({cores}) were {percent:.0} % full{when}, interrupts and other programs \
         included: the load test is the bottleneck"
    ));
}

/// Where the rate was whatever could be reached, and a server could have done more.
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
            .push(format!("the load test itself ran up to {late:.1} ms late (p99): latencies include that"));
    }
    let lag = record.published.lag.p99;
    if lag > PUBLISH_LAG_MAX_MILLIS {
        warnings.push(format!("the publisher fell behind by {lag:.1} ms at p99: latencies include that"));
    }
}

fn check_schedule(record: &Record, warnings: &mut Vec<String>) {
    let published = &record.published;
    let Some(asked) = published.asked_per_second else { return };
    if published.count > 1 && published.seconds > 0.0 && published.per_second < asked * RATE_KEPT_MIN {
        let kept = published.per_second;
        warnings.push(format!("the publisher kept {kept:.0} of {asked:.0} messages a second"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Cohort, Generator, Latency, ProcessUsage, Published};
    use crate::resources::thread::CpuShare;

    fn record() -> Record {
        let latency = Latency { count: 5000, p99: 10.0, ..Latency::default() };
        let published = Published {
            count: 21,
            seconds: 1.0,
            per_second: 20.0,
            asked_per_second: Some(20.0),
            ..Published::default()
        };
        Record { cohorts: vec![Cohort { latency, ..Cohort::default() }], published, ..Record::default() }
    }

    #[test]
    fn a_load_test_that_measured_itself_says_so() {
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
    fn cores_that_are_full_are_told_whoever_filled_them() {
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
        assert!(
            notes[0].starts_with("the cores on which the load test may run (1) were 99 % full, "),
            "{notes:?}"
        );
        let (notes, bottleneck) = with(0.5, 1.0);
        assert!(bottleneck && notes[0].contains("100 % full in their fullest second"), "{notes:?}");
    }

    #[test]
    fn a_rate_that_is_not_the_servers_limit_is_told() {
        let notes = |cores, core_utilization_max, published: Published, rate: Option<&str>| {
            let process =
                ProcessUsage { name: "x".to_owned(), cores, core_utilization_max, ..ProcessUsage::default() };
            let rate = rate.map(|rate| ("connect_rate".to_owned(), rate.to_owned()));
            let settings = rate.into_iter().collect();
            warnings(&Record { processes: vec![process], published, settings, ..record() })
        };
        let fast = || Published { asked_per_second: None, ..record().published };
        assert_eq!(
            notes(0.62, Some(0.7), fast(), None),
            ["x used 0.62 of a core: the rate is not its limit"]
        );
        assert_eq!(notes(0.62, None, fast(), None).len(), 1);
        assert_eq!(notes(0.95, Some(0.7), fast(), None), Vec::<String>::new());
        // The kernel's interrupts had the rest.
        assert_eq!(notes(0.62, Some(0.99), fast(), None), Vec::<String>::new());
        assert_eq!(notes(0.62, Some(0.7), record().published, None), Vec::<String>::new());
        let none = Published::default;
        assert_eq!(notes(0.62, Some(0.7), none(), Some("max")).len(), 1);
        assert_eq!(notes(0.62, Some(0.7), none(), Some("500")), Vec::<String>::new());
    }

    #[test]
    fn a_schedule_that_was_not_kept_is_told() {
        let with = |published: Published| warnings(&Record { published, ..record() }).len();
        assert_eq!(with(Published { per_second: 18.0, ..record().published }), 1);
        assert_eq!(with(Published { asked_per_second: None, per_second: 18.0, ..record().published }), 0);
        let lag = Latency { p99: 30.0, ..Latency::default() };
        assert_eq!(with(Published { lag, ..record().published }), 1);
    }
}

//! Why the numbers of a run may not be those of the server: the load test was at its own limit, the machine was full,
//! or the schedule was not kept. Reads a record, decides nothing else.

use crate::record::Record;

/// Above this share of a core, a thread of the load test measures itself.
const BUSY: f64 = 0.9;
/// Above this share of the time, the cores on which it may run have nothing left for it. Interrupts are in it, which the
/// clock of no thread shows.
const FULL: f64 = 0.95;
/// A thread that waited for a core longer than this measures the machine.
const STARVED: f64 = 0.2;
/// Less than this of the rate that was asked for is another test.
const KEPT_RATE: f64 = 0.95;
/// A publisher that is later than this for one message in a hundred has fallen behind, in milliseconds.
const LAG_MILLIS: f64 = 20.0;
/// A load test that reads later than this adds to latencies, in milliseconds …
const LATE_MILLIS: f64 = 5.0;
/// … when that is more than this share of them.
const LATE_SHARE: f64 = 0.25;
/// A cohort of fewer deliveries says little about its tail.
const TAIL: u64 = 1000;

/// In words; nothing where there is nothing to doubt.
pub(super) fn doubts(record: &Record) -> Vec<String> {
    let mut doubts = Vec::new();
    own_threads(record, &mut doubts);
    own_cores(record, &mut doubts);
    own_lag(record, &mut doubts);
    schedule(record, &mut doubts);
    idle_servers(record, &mut doubts);
    for cohort in &record.cohorts {
        if (1..TAIL).contains(&cohort.latency.count) && record.published.seconds > 0.0 {
            let (name, count) = (&cohort.name, cohort.latency.count);
            doubts.push(format!("{name}: {count} deliveries are too few for p99.9"));
        }
    }
    doubts
}

/// Whether the load test was at its own limit.
pub(super) fn is_bottleneck(record: &Record) -> bool {
    let meter = &record.meter;
    let busy = [meter.subscribers, meter.busiest_second, meter.publisher];
    let full = [meter.cores_full, meter.cores_full_worst];
    busy.into_iter().flatten().any(|share| share.busy > BUSY)
        || full.into_iter().flatten().any(|full| full > FULL)
}

/// Whether a server had something left: the rate is then not its limit, but that of whoever asked.
pub(crate) fn had_something_left(cores: f64, cores_full_worst: Option<f64>) -> bool {
    cores < BUSY && cores_full_worst.is_none_or(|full| full <= FULL)
}

/// Whether it read so late that latencies are not those of the server.
pub(super) fn is_late(record: &Record) -> bool {
    let latencies = record.cohorts.iter().map(|cohort| cohort.latency.p99);
    let shortest = latencies.filter(|p99| *p99 > 0.0).fold(f64::INFINITY, f64::min);
    let late = lateness(record);
    late > LATE_MILLIS && late > shortest * LATE_SHARE
}

/// At p99, in milliseconds: a thread whose timers run late reads late as well.
fn lateness(record: &Record) -> f64 {
    record.meter.turns.p99.max(record.meter.timers.p99)
}

fn own_threads(record: &Record, doubts: &mut Vec<String>) {
    let meter = &record.meter;
    let over_all = meter.subscribers.is_some_and(|share| share.busy > BUSY);
    let shares = [
        ("a thread of subscribers was", meter.subscribers, ""),
        ("a thread of subscribers was", meter.busiest_second.filter(|_| !over_all), " in its busiest second"),
        ("the publisher was", meter.publisher, ""),
    ];
    for (who, share, when) in shares {
        let Some(share) = share else { continue };
        if share.busy > BUSY {
            let percent = share.busy * 100.0;
            doubts
                .push(format!("{who} busy {percent:.0} % of a core{when}: the load test is the bottleneck"));
        }
        if share.starved > STARVED && when.is_empty() {
            let percent = share.starved * 100.0;
            doubts
                .push(format!("{who} {percent:.0} % of the time ready without a core: the machine is full"));
        }
    }
}

fn own_cores(record: &Record, doubts: &mut Vec<String>) {
    let meter = &record.meter;
    let full = |share: Option<f64>| share.filter(|share| *share > FULL);
    let (share, when) = match (full(meter.cores_full), full(meter.cores_full_worst)) {
        (Some(share), _) => (share, ""),
        (None, Some(share)) => (share, " in their fullest second"),
        (None, None) => return,
    };
    let (percent, cores) = (share * 100.0, meter.cores.as_deref().unwrap_or_default());
    doubts.push(format!(
        "the cores on which the load test may run ({cores}) were {percent:.0} % full{when}, interrupts and other programs \
         included: the load test is the bottleneck"
    ));
}

/// Where the rate was whatever could be reached, and a server could have done more.
fn idle_servers(record: &Record, doubts: &mut Vec<String>) {
    let published = record.published.seconds > 0.0 && record.published.asked_per_second.is_none();
    let connected = record.settings.get("connect_rate").is_some_and(|rate| rate == "max");
    if !(published || connected) {
        return;
    }
    for process in &record.processes {
        if had_something_left(process.cores, process.cores_full_worst) {
            let (name, cores) = (&process.name, process.cores);
            doubts.push(format!("{name} used {cores:.2} of a core: the rate is not its limit"));
        }
    }
}

fn own_lag(record: &Record, doubts: &mut Vec<String>) {
    if is_late(record) {
        let late = lateness(record);
        doubts
            .push(format!("the load test itself ran up to {late:.1} ms late (p99): latencies include that"));
    }
    let lag = record.published.lag.p99;
    if lag > LAG_MILLIS {
        doubts.push(format!("the publisher fell behind by {lag:.1} ms at p99: latencies include that"));
    }
}

fn schedule(record: &Record, doubts: &mut Vec<String>) {
    let published = &record.published;
    let Some(asked) = published.asked_per_second else { return };
    if published.count > 1 && published.seconds > 0.0 && published.per_second < asked * KEPT_RATE {
        let kept = published.per_second;
        doubts.push(format!("the publisher kept {kept:.0} of {asked:.0} messages a second"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Cohort, Latency, Meter, Process, Published};
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
        let with = |meter: Meter| {
            let record = Record { meter, ..record() };
            (doubts(&record).len(), is_bottleneck(&record) || is_late(&record))
        };
        assert_eq!(with(Meter::default()), (0, false));
        assert_eq!(with(Meter { subscribers: share(0.95, 0.3), ..Meter::default() }), (2, true));
        assert_eq!(with(Meter { busiest_second: share(0.95, 0.3), ..Meter::default() }), (1, true));
        assert_eq!(with(Meter { publisher: share(0.95, 0.0), ..Meter::default() }), (1, true));
        assert_eq!(with(Meter { publisher: share(0.1, 0.3), ..Meter::default() }), (1, false));
        let turns = |p99| Meter { turns: Latency { p99, ..Latency::default() }, ..Meter::default() };
        assert_eq!(with(turns(6.0)), (1, true));
        assert_eq!(with(turns(4.0)), (0, false));
        let timers = |p99| Meter { timers: Latency { p99, ..Latency::default() }, ..Meter::default() };
        assert_eq!((with(timers(6.0)), with(timers(4.0))), ((1, true), (0, false)));
        let slow = Latency { count: 5000, p99: 100.0, ..Latency::default() };
        let cohorts = vec![Cohort { latency: slow, ..Cohort::default() }];
        let record = Record { meter: timers(6.0), cohorts, ..record() };
        assert!(!is_late(&record), "6 ms are little among 100");
    }

    #[test]
    fn cores_that_are_full_are_told_whoever_filled_them() {
        let with = |whole, worst| {
            let cores = Some("1".to_owned());
            let meter =
                Meter { cores, cores_full: Some(whole), cores_full_worst: Some(worst), ..Meter::default() };
            let record = Record { meter, ..record() };
            (doubts(&record), is_bottleneck(&record))
        };
        assert_eq!(with(0.9, 0.95), (Vec::new(), false));
        let (told, bottleneck) = with(0.99, 1.0);
        assert!(bottleneck && told.len() == 1, "{told:?}");
        assert!(
            told[0].starts_with("the cores on which the load test may run (1) were 99 % full, "),
            "{told:?}"
        );
        let (told, bottleneck) = with(0.5, 1.0);
        assert!(bottleneck && told[0].contains("100 % full in their fullest second"), "{told:?}");
    }

    #[test]
    fn a_rate_that_is_not_the_servers_limit_is_told() {
        let told = |cores, cores_full_worst, published: Published, rate: Option<&str>| {
            let process = Process { name: "x".to_owned(), cores, cores_full_worst, ..Process::default() };
            let rate = rate.map(|rate| ("connect_rate".to_owned(), rate.to_owned()));
            let settings = rate.into_iter().collect();
            doubts(&Record { processes: vec![process], published, settings, ..record() })
        };
        let fast = || Published { asked_per_second: None, ..record().published };
        assert_eq!(told(0.62, Some(0.7), fast(), None), ["x used 0.62 of a core: the rate is not its limit"]);
        assert_eq!(told(0.62, None, fast(), None).len(), 1);
        assert_eq!(told(0.95, Some(0.7), fast(), None), Vec::<String>::new());
        // The kernel's interrupts had the rest.
        assert_eq!(told(0.62, Some(0.99), fast(), None), Vec::<String>::new());
        assert_eq!(told(0.62, Some(0.7), record().published, None), Vec::<String>::new());
        let none = Published::default;
        assert_eq!(told(0.62, Some(0.7), none(), Some("max")).len(), 1);
        assert_eq!(told(0.62, Some(0.7), none(), Some("500")), Vec::<String>::new());
    }

    #[test]
    fn a_schedule_that_was_not_kept_is_told() {
        let with = |published: Published| doubts(&Record { published, ..record() }).len();
        assert_eq!(with(Published { per_second: 18.0, ..record().published }), 1);
        assert_eq!(with(Published { asked_per_second: None, per_second: 18.0, ..record().published }), 0);
        let lag = Latency { p99: 30.0, ..Latency::default() };
        assert_eq!(with(Published { lag, ..record().published }), 1);
    }
}

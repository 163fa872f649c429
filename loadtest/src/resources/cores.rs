//! Utilization of cores by any activity. Interrupts are attributed to no process, or to the one they interrupt, so the
//! CPU time of a process does not show that its core is full.

use std::collections::VecDeque;
use std::fs;
use std::time::Duration;

use tokio::time::Instant;

use super::TICKS_PER_SECOND;

const SECOND: Duration = Duration::from_secs(1);
/// Minimum time between readings.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A set of cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// As the kernel lists them, such as `0-1,4`.
    pub(crate) list: String,
    numbers: Vec<u16>,
}

impl Cores {
    /// Cores that a process may run on; `self` is this process.
    pub(crate) fn of_process(process: &str) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim();
        let numbers = parse_list(list)?;
        Some(Self { list: list.to_owned(), numbers })
    }

    fn read_idle(&self) -> Option<IdleReading> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        Some(IdleReading { at: Instant::now(), idle: idle(&stat, &self.numbers)? })
    }

    /// Share of the time between two readings that was not idle.
    fn utilization(&self, from: IdleReading, to: IdleReading) -> f64 {
        let all = (to.at - from.at).as_secs_f64() * self.numbers.len() as f64;
        (1.0 - (to.idle - from.idle) / all.max(f64::EPSILON)).clamp(0.0, 1.0)
    }
}

#[derive(Clone, Copy, Debug)]
struct IdleReading {
    at: Instant,
    /// Idle seconds, summed over the cores.
    idle: f64,
}

/// Parses `0-1,4` into 0, 1 and 4.
fn parse_list(list: &str) -> Option<Vec<u16>> {
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<u16>().ok()?..=last.parse().ok()?);
    }
    (!numbers.is_empty()).then_some(numbers)
}

/// Fields according to proc_stat(5): the fourth is idle, the fifth is iowait. All other time is work of processes, of
/// the kernel, of interrupts, or stolen by the hypervisor. A core that is not listed is offline.
fn idle(stat: &str, numbers: &[u16]) -> Option<f64> {
    let lines = stat.lines().filter_map(|line| {
        let (core, times) = line.strip_prefix("cpu")?.split_once(' ')?;
        numbers.contains(&core.parse().ok()?).then_some(times)
    });
    let ticks = lines.map(|times| {
        let mut fields = times.split_ascii_whitespace().skip(3).map(str::parse::<f64>);
        Some(fields.next()?.ok()? + fields.next()?.ok()?)
    });
    let ticks: Vec<f64> = ticks.collect::<Option<_>>()?;
    (ticks.len() == numbers.len()).then(|| ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

/// Utilization of a set of cores over the measured periods: on average and in the busiest second. For periods shorter
/// than two seconds, the busiest third counts instead, because their start and end may use the cores less.
#[derive(Clone, Debug)]
pub(crate) struct CoreUtilization {
    cores: Cores,
    start: Option<IdleReading>,
    /// Readings of at least the last two seconds.
    recent: VecDeque<IdleReading>,
    busy: f64,
    span: f64,
    max: f64,
}

impl CoreUtilization {
    /// For the cores that a process may run on. `None` if the kernel does not report them.
    pub(crate) fn of_process(process: &str) -> Option<Self> {
        Some(Self::of(Cores::of_process(process)?))
    }

    fn of(cores: Cores) -> Self {
        Self { cores, start: None, recent: VecDeque::new(), busy: 0.0, span: 0.0, max: 0.0 }
    }

    /// Starts a measured period.
    pub(crate) fn begin(&mut self) {
        self.start = self.cores.read_idle();
        self.recent = self.start.into_iter().collect();
    }

    /// Takes a reading if one is due. Call at least ten times per second during a measured period.
    pub(crate) fn poll(&mut self) {
        if self.recent.back().is_some_and(|last| last.at.elapsed() >= POLL_INTERVAL)
            && let Some(now) = self.cores.read_idle()
        {
            self.add(now);
        }
    }

    fn add(&mut self, now: IdleReading) {
        self.recent.push_back(now);
        while self.recent.get(1).is_some_and(|next| now.at - next.at >= 2 * SECOND) {
            self.recent.pop_front();
        }
        self.compare(now, SECOND);
    }

    /// Updates the maximum with the latest reading that is at least `window` old.
    fn compare(&mut self, now: IdleReading, window: Duration) {
        if let Some(then) = self.recent.iter().rev().find(|then| now.at - then.at >= window) {
            self.max = self.max.max(self.cores.utilization(*then, now));
        }
    }

    /// Ends the measured period.
    pub(crate) fn end(&mut self) {
        if let Some(now) = self.cores.read_idle() {
            self.end_at(now);
        }
    }

    fn end_at(&mut self, now: IdleReading) {
        let Some(start) = self.start.take() else { return };
        self.add(now);
        let span = now.at - start.at;
        if span < 2 * SECOND {
            for read_idle in self.recent.clone() {
                self.compare(read_idle, (span / 3).max(POLL_INTERVAL));
            }
        }
        let mean = self.cores.utilization(start, now);
        self.busy += mean * span.as_secs_f64();
        self.span += span.as_secs_f64();
        self.max = self.max.max(mean);
    }

    /// List of the cores.
    pub(crate) fn list(&self) -> &str {
        &self.cores.list
    }

    /// Average utilization; `None` if nothing was measured.
    pub(crate) fn mean(&self) -> Option<f64> {
        (self.span > 0.0).then(|| self.busy / self.span)
    }

    /// Utilization in the busiest second.
    pub(crate) fn max(&self) -> Option<f64> {
        (self.span > 0.0).then_some(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  9 9 9 1500 500 9 9 9 0 0\ncpu0 1 1 1 1000 50 7 7 7 0 0\n\
                        cpu1 1 1 1 400 50 7 7 7 0 0\ncpu10 1 1 1 100 400 7 7 7 0 0\nintr 1\n";

    #[test]
    fn core_lists_are_parsed() {
        assert_eq!(parse_list("0-1,4"), Some(vec![0, 1, 4]));
        assert_eq!(parse_list("7"), Some(vec![7]));
        assert_eq!((parse_list(""), parse_list("x")), (None, None));
        assert!(Cores::of_process("self").is_some_and(|cores| !cores.numbers.is_empty()));
    }

    #[test]
    fn idle_time_covers_the_selected_cores() {
        assert_eq!(idle(STAT, &[0]), Some(10.5));
        assert_eq!(idle(STAT, &[1]), Some(4.5));
        assert_eq!(idle(STAT, &[0, 10]), Some(15.5));
        assert_eq!((idle(STAT, &[2]), idle("", &[0])), (None, None));
    }

    /// Takes readings of two cores every 100 ms with the given idle seconds.
    fn readings(idle: &[f64]) -> CoreUtilization {
        let start = Instant::now();
        let mut utilization = CoreUtilization::of(Cores { list: "0-1".to_owned(), numbers: vec![0, 1] });
        let mut now = IdleReading { at: start, idle: 5.0 };
        utilization.start = Some(now);
        utilization.recent.push_back(now);
        for idle in idle {
            now = IdleReading { at: now.at + POLL_INTERVAL, idle: now.idle + idle };
            utilization.add(now);
        }
        utilization.end_at(now);
        utilization
    }

    fn near(one: Option<f64>, other: f64) -> bool {
        one.is_some_and(|one| (one - other).abs() < 1e-6)
    }

    #[test]
    fn maximum_is_the_busiest_second() {
        // Idle, then busy for one second across a second boundary, then half idle.
        let idle = [[0.2; 15].as_slice(), &[0.0; 10], &[0.1; 25]].concat();
        let utilization = readings(&idle);
        assert!(
            near(utilization.mean(), 1.0 - 5.5 / 10.0) && near(utilization.max(), 1.0),
            "{utilization:?}"
        );
        assert!(utilization.recent.len() <= 22, "{utilization:?}");
        // Half a second is shorter than the window.
        let utilization = readings(&[[0.2; 15].as_slice(), &[0.0; 5], &[0.2; 15]].concat());
        assert!(near(utilization.max(), 0.5), "{utilization:?}");
        // Ticks are coarse: utilization is never negative.
        assert!(near(readings(&[0.22; 30]).max(), 0.0));
    }

    #[test]
    fn maximum_of_a_short_period_is_the_busiest_third() {
        let utilization = readings(&[0.1, 0.1, 0.0, 0.0, 0.1, 0.2]);
        assert!(near(utilization.max(), 1.0) && near(utilization.mean(), 1.0 - 0.5 / 1.2), "{utilization:?}");
        let utilization = readings(&[0.1, 0.1, 0.0, 0.1, 0.0, 0.2]);
        assert!(near(utilization.max(), 0.75), "{utilization:?}");
    }

    #[test]
    fn busy_core_is_measured() {
        let mut utilization = CoreUtilization::of_process("self").unwrap();
        assert_eq!((utilization.mean(), utilization.max()), (None, None));
        utilization.begin();
        let end = Instant::now() + Duration::from_millis(100);
        while Instant::now() < end {
            utilization.poll();
        }
        utilization.end();
        // One thread keeps at least one core busy.
        let least = 0.5 / utilization.cores.numbers.len() as f64;
        assert!(utilization.mean().is_some_and(|share| share > least), "{utilization:?}");
        assert!(utilization.max() >= utilization.mean(), "{utilization:?}");
    }
}

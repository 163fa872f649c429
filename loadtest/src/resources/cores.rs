//! How full cores are, whoever fills them. The kernel's own work in interrupts is charged to nobody, or to whoever was
//! on the core, so the clock of a process cannot tell that there is nothing left of its core. Never asks who it was.

use std::collections::VecDeque;
use std::fs;
use std::time::Duration;

use tokio::time::Instant;

use super::TICKS_PER_SECOND;

const SECOND: Duration = Duration::from_secs(1);
/// How often they are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Some of the machine's cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// As the kernel lists them, such as `0-1,4`.
    pub(crate) list: String,
    numbers: Vec<u16>,
}

impl Cores {
    /// Those that a process may run on; `self` is this one.
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

    /// The share of the time between two glances in which they did anything.
    fn utilization(&self, from: IdleReading, to: IdleReading) -> f64 {
        let all = (to.at - from.at).as_secs_f64() * self.numbers.len() as f64;
        (1.0 - (to.idle - from.idle) / all.max(f64::EPSILON)).clamp(0.0, 1.0)
    }
}

#[derive(Clone, Copy, Debug)]
struct IdleReading {
    at: Instant,
    /// Seconds that all of them together had nothing to do.
    idle: f64,
}

/// `0-1,4` is 0, 1 and 4.
fn parse_list(list: &str) -> Option<Vec<u16>> {
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<u16>().ok()?..=last.parse().ok()?);
    }
    (!numbers.is_empty()).then_some(numbers)
}

/// Fields by proc_stat(5): the fourth is idle, the fifth waits for a disk. All else is work: of programs, of the kernel,
/// of interrupts, or of the host's other guests. A core that is not listed is offline.
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

/// How full some cores are while something is measured, over all such times and in the fullest second of them. Of a time
/// that is shorter than two seconds it is the fullest third, since its beginning and its end may fill them less.
#[derive(Clone, Debug)]
pub(crate) struct CoreUtilization {
    cores: Cores,
    start: Option<IdleReading>,
    /// The last two seconds of the present time, at the least.
    recent: VecDeque<IdleReading>,
    busy: f64,
    span: f64,
    max: f64,
}

impl CoreUtilization {
    /// Of those that a process may run on. `None` where the kernel does not tell.
    pub(crate) fn of_process(process: &str) -> Option<Self> {
        Some(Self::of(Cores::of_process(process)?))
    }

    fn of(cores: Cores) -> Self {
        Self { cores, start: None, recent: VecDeque::new(), busy: 0.0, span: 0.0, max: 0.0 }
    }

    /// Begins a time that counts.
    pub(crate) fn begin(&mut self) {
        self.start = self.cores.read_idle();
        self.recent = self.start.into_iter().collect();
    }

    /// To be called again and again while it counts, at least ten times a second.
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

    /// With the latest read_idle that is so long ago.
    fn compare(&mut self, now: IdleReading, window: Duration) {
        if let Some(then) = self.recent.iter().rev().find(|then| now.at - then.at >= window) {
            self.max = self.max.max(self.cores.utilization(*then, now));
        }
    }

    /// Ends the time that counts.
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

    /// Which cores they are.
    pub(crate) fn list(&self) -> &str {
        &self.cores.list
    }

    /// Over the mean time; `None` where nothing was measured.
    pub(crate) fn mean(&self) -> Option<f64> {
        (self.span > 0.0).then(|| self.busy / self.span)
    }

    /// In the fullest second.
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
    fn cores_are_listed_as_the_kernel_does() {
        assert_eq!(parse_list("0-1,4"), Some(vec![0, 1, 4]));
        assert_eq!(parse_list("7"), Some(vec![7]));
        assert_eq!((parse_list(""), parse_list("x")), (None, None));
        assert!(Cores::of_process("self").is_some_and(|cores| !cores.numbers.is_empty()));
    }

    #[test]
    fn only_the_idle_time_of_the_right_cores_is_not_work() {
        assert_eq!(idle(STAT, &[0]), Some(10.5));
        assert_eq!(idle(STAT, &[1]), Some(4.5));
        assert_eq!(idle(STAT, &[0, 10]), Some(15.5));
        assert_eq!((idle(STAT, &[2]), idle("", &[0])), (None, None));
    }

    /// Glances every 100 ms at two cores, whose idle seconds in each are as given.
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
    fn what_is_not_idle_is_full_and_the_fullest_second_counts() {
        // Two idle seconds, a full one that begins between two mean ones, two half idle ones.
        let idle = [[0.2; 15].as_slice(), &[0.0; 10], &[0.1; 25]].concat();
        let utilization = readings(&idle);
        assert!(
            near(utilization.mean(), 1.0 - 5.5 / 10.0) && near(utilization.max(), 1.0),
            "{utilization:?}"
        );
        assert!(utilization.recent.len() <= 22, "{utilization:?}");
        // Half a second is none.
        let utilization = readings(&[[0.2; 15].as_slice(), &[0.0; 5], &[0.2; 15]].concat());
        assert!(near(utilization.max(), 0.5), "{utilization:?}");
        // Ticks are coarse: never more idle than there was time.
        assert!(near(readings(&[0.22; 30]).max(), 0.0));
    }

    #[test]
    fn of_a_short_time_the_fullest_third_counts() {
        let utilization = readings(&[0.1, 0.1, 0.0, 0.0, 0.1, 0.2]);
        assert!(near(utilization.max(), 1.0) && near(utilization.mean(), 1.0 - 0.5 / 1.2), "{utilization:?}");
        let utilization = readings(&[0.1, 0.1, 0.0, 0.1, 0.0, 0.2]);
        assert!(near(utilization.max(), 0.75), "{utilization:?}");
    }

    #[test]
    fn a_core_that_is_kept_busy_is_seen_to_be_in_the_whole_and_in_a_second_of_it() {
        let mut utilization = CoreUtilization::of_process("self").unwrap();
        assert_eq!((utilization.mean(), utilization.max()), (None, None));
        utilization.begin();
        let end = Instant::now() + Duration::from_millis(100);
        while Instant::now() < end {
            utilization.poll();
        }
        utilization.end();
        // One thread keeps one of them busy at the least.
        let least = 0.5 / utilization.cores.numbers.len() as f64;
        assert!(utilization.mean().is_some_and(|share| share > least), "{utilization:?}");
        assert!(utilization.max() >= utilization.mean(), "{utilization:?}");
    }
}

//! How full cores are, whoever fills them. The kernel's own work in interrupts is charged to nobody, or to whoever was
//! on the core, so the clock of a process cannot tell that there is nothing left of its core. Never asks who it was.

use std::fs;

use tokio::time::Instant;

/// A tick of `/proc/stat`: `USER_HZ` is 100 on every architecture that matters.
const TICKS_PER_SECOND: f64 = 100.0;
/// Of the second that is under way when the time ends, this much must have passed for it to count: a tick is 10 ms.
const ENOUGH: f64 = 0.5;

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

    fn glance(&self) -> Option<Glance> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        Some(Glance { at: Instant::now(), idle: idle(&stat, &self.numbers)? })
    }

    /// The share of the time between two glances in which they did anything.
    fn fullness(&self, from: Glance, to: Glance) -> f64 {
        let all = (to.at - from.at).as_secs_f64() * self.numbers.len() as f64;
        (1.0 - (to.idle - from.idle) / all.max(f64::EPSILON)).clamp(0.0, 1.0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Glance {
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

/// How full some cores are while something is measured, over all such times and in the fullest second of them.
#[derive(Clone, Debug)]
pub(crate) struct Fullness {
    cores: Cores,
    /// The beginnings of the present time, and of its present second.
    present: Option<(Glance, Glance)>,
    busy: f64,
    span: f64,
    worst: f64,
}

impl Fullness {
    /// Of those that a process may run on. `None` where the kernel does not tell.
    pub(crate) fn of_process(process: &str) -> Option<Self> {
        Some(Self { cores: Cores::of_process(process)?, present: None, busy: 0.0, span: 0.0, worst: 0.0 })
    }

    /// Begins a time that counts.
    pub(crate) fn begin(&mut self) {
        self.present = self.cores.glance().map(|now| (now, now));
    }

    /// To be called more than once a second while it counts.
    pub(crate) fn look(&mut self) {
        let Some((start, second)) = self.present else { return };
        if second.at.elapsed().as_secs_f64() < 1.0 {
            return;
        }
        if let Some(now) = self.cores.glance() {
            self.worst = self.worst.max(self.cores.fullness(second, now));
            self.present = Some((start, now));
        }
    }

    /// Ends the time that counts.
    pub(crate) fn end(&mut self) {
        let (Some((start, second)), Some(now)) = (self.present.take(), self.cores.glance()) else { return };
        let span = (now.at - start.at).as_secs_f64();
        let whole = self.cores.fullness(start, now);
        self.busy += whole * span;
        self.span += span;
        self.worst = self.worst.max(whole);
        if (now.at - second.at).as_secs_f64() >= ENOUGH {
            self.worst = self.worst.max(self.cores.fullness(second, now));
        }
    }

    /// Which cores they are.
    pub(crate) fn list(&self) -> &str {
        &self.cores.list
    }

    /// Over the whole time; `None` where nothing was measured.
    pub(crate) fn whole(&self) -> Option<f64> {
        (self.span > 0.0).then(|| self.busy / self.span)
    }

    /// In the fullest second, or in the whole of a shorter time.
    pub(crate) fn worst(&self) -> Option<f64> {
        self.whole().map(|whole| self.worst.max(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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

    #[test]
    fn what_is_not_idle_is_full_and_the_rest_between_two_times_does_not_count() {
        let cores = Cores { list: "0-1".to_owned(), numbers: vec![0, 1] };
        let start = Instant::now();
        let at = |millis: u64, idle: f64| Glance { at: start + Duration::from_millis(millis), idle };
        assert!((cores.fullness(at(0, 5.0), at(1000, 5.5)) - 0.75).abs() < 1e-9);
        assert_eq!(cores.fullness(at(0, 5.0), at(1000, 5.0)), 1.0);
        // Ticks are coarse: never more idle than there was time.
        assert_eq!(cores.fullness(at(0, 5.0), at(1000, 7.02)), 0.0);
    }

    #[test]
    fn a_core_that_is_kept_busy_is_seen_to_be_in_the_whole_and_in_a_second_of_it() {
        let mut fullness = Fullness::of_process("self").unwrap();
        assert_eq!((fullness.whole(), fullness.worst()), (None, None));
        fullness.begin();
        let end = Instant::now() + Duration::from_millis(100);
        while Instant::now() < end {
            fullness.look();
        }
        fullness.end();
        // One thread keeps one of them busy at the least.
        let least = 0.5 / fullness.cores.numbers.len() as f64;
        assert!(fullness.whole().is_some_and(|share| share > least), "{fullness:?}");
        assert!(fullness.worst() >= fullness.whole(), "{fullness:?}");
    }
}

//! What this process itself uses and may use: processor time of a thread, open files. Reads `/proc`; where there is
//! none, it knows nothing and says so with `None`. Never changes a limit.

use std::fs;
use std::time::Duration;

use tokio::time::Instant;

/// Processor time of the thread that takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock {
    taken: Instant,
    schedule: Option<Schedule>,
}

/// How a thread spent a span of time, as shares of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CpuShare {
    /// On a core.
    pub(crate) busy: f64,
    /// Ready, with no core to run on.
    pub(crate) starved: f64,
}

impl CpuShare {
    /// The worse of two threads, each way.
    pub(crate) fn worst(self, other: Self) -> Self {
        Self { busy: self.busy.max(other.busy), starved: self.starved.max(other.starved) }
    }
}

impl CpuClock {
    /// Begins a span on the present thread.
    pub(crate) fn start() -> Self {
        Self { taken: Instant::now(), schedule: Schedule::of_this_thread() }
    }

    /// Ends the span; to be called on the thread that began it.
    pub(crate) fn share(&self) -> Option<CpuShare> {
        let (before, after) = (self.schedule?, Schedule::of_this_thread()?);
        let span = self.taken.elapsed().as_secs_f64().max(f64::EPSILON);
        let part = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() / span;
        Some(CpuShare {
            busy: part(before.running, after.running),
            starved: part(before.waiting, after.waiting),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schedule {
    running: Duration,
    waiting: Duration,
}

impl Schedule {
    fn of_this_thread() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut nanoseconds = text.split_ascii_whitespace().map(|field| field.parse().ok());
        let mut next = || nanoseconds.next().flatten().map(Duration::from_nanos);
        Some(Self { running: next()?, waiting: next()? })
    }
}

/// How many files this process may have open at once.
pub(crate) fn open_file_limit() -> Option<u64> {
    parse_open_file_limit(&fs::read_to_string("/proc/self/limits").ok()?)
}

fn parse_open_file_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_soft_one() {
        let limits = "Limit          Soft Limit  Hard Limit  Units\n\
                      Max processes  10          20          processes\n\
                      Max open files 1024        524288      files\n";
        assert_eq!(parse_open_file_limit(limits), Some(1024));
        assert_eq!(parse_open_file_limit("Max open files unlimited unlimited files"), None);
    }

    #[test]
    fn a_schedule_is_running_and_waiting_time() {
        let schedule = Schedule { running: Duration::from_nanos(1500), waiting: Duration::from_nanos(20) };
        assert_eq!(Schedule::parse("1500 20 7\n"), Some(schedule));
        assert_eq!(Schedule::parse("none"), None);
    }

    #[test]
    fn a_thread_that_works_is_busy() {
        let clock = CpuClock::start();
        let end = Instant::now() + Duration::from_millis(50);
        while Instant::now() < end {}
        let Some(share) = clock.share() else { return };
        assert!(share.busy + share.starved > 0.5, "{share:?}");
    }
}

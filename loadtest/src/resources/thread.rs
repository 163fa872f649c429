//! CPU time of threads of the load test, and the time that they wait for a core.

use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// CPU clock of the thread that creates it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock {
    taken: Instant,
    stat: Option<SchedStat>,
}

/// Shares of a time span that a thread spent running or waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CpuShare {
    /// Running on a core.
    pub(crate) busy: f64,
    /// Runnable without a core.
    pub(crate) starved: f64,
}

impl CpuShare {
    /// Maximum of both fields.
    pub(crate) fn worst(self, other: Self) -> Self {
        Self { busy: self.busy.max(other.busy), starved: self.starved.max(other.starved) }
    }

    /// Maximum of two measurements, either of which may be absent.
    pub(crate) fn worst_of(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(one.worst(other)),
            (one, other) => one.or(other),
        }
    }
}

impl CpuClock {
    /// Starts a time span on the current thread.
    pub(crate) fn start() -> Self {
        Self { taken: Instant::now(), stat: SchedStat::of_this_thread() }
    }

    /// Time since the start.
    pub(crate) fn age(&self) -> Duration {
        self.taken.elapsed()
    }

    /// Ends the time span. Call on the thread that started it.
    pub(crate) fn share(&self) -> Option<CpuShare> {
        let (before, after) = (self.stat?, SchedStat::of_this_thread()?);
        let span = self.taken.elapsed().as_secs_f64().max(f64::EPSILON);
        let part = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() / span;
        Some(CpuShare {
            busy: part(before.running, after.running),
            starved: part(before.waiting, after.waiting),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SchedStat {
    running: Duration,
    waiting: Duration,
}

impl SchedStat {
    fn of_this_thread() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut nanoseconds = text.split_ascii_whitespace().map(|field| field.parse().ok());
        let mut next = || nanoseconds.next().flatten().map(Duration::from_nanos);
        Some(Self { running: next()?, waiting: next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_is_parsed() {
        let stat = SchedStat { running: Duration::from_nanos(1500), waiting: Duration::from_nanos(20) };
        assert_eq!(SchedStat::parse("1500 20 7\n"), Some(stat));
        assert_eq!(SchedStat::parse("none"), None);
    }

    #[test]
    fn busy_thread_is_measured() {
        let clock = CpuClock::start();
        let end = Instant::now() + Duration::from_millis(50);
        while Instant::now() < end {}
        let Some(share) = clock.share() else { return };
        assert!(share.busy + share.starved > 0.5, "{share:?}");
    }
}

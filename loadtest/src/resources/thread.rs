//! Processor time of a thread of the load test itself, and how long it waited for a core.

use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Processor time of the thread that takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock {
    taken: Instant,
    stat: Option<SchedStat>,
}

/// How a thread spent a span of time, as shares of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CpuShare {
    /// On a core.
    pub(crate) busy: f64,
    /// Ready, with no core to run on.
    pub(crate) starved: f64,
}

impl CpuShare {
    /// The worse of two, each way.
    pub(crate) fn worst(self, other: Self) -> Self {
        Self { busy: self.busy.max(other.busy), starved: self.starved.max(other.starved) }
    }

    /// The worse of two measurements, where there are any.
    pub(crate) fn worst_of(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(one.worst(other)),
            (one, other) => one.or(other),
        }
    }
}

impl CpuClock {
    /// Begins a span on the present thread.
    pub(crate) fn start() -> Self {
        Self { taken: Instant::now(), stat: SchedStat::of_this_thread() }
    }

    /// How long ago the span began.
    pub(crate) fn age(&self) -> Duration {
        self.taken.elapsed()
    }

    /// Ends the span; to be called on the thread that began it.
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
    fn a_schedule_is_running_and_waiting_time() {
        let stat = SchedStat { running: Duration::from_nanos(1500), waiting: Duration::from_nanos(20) };
        assert_eq!(SchedStat::parse("1500 20 7\n"), Some(stat));
        assert_eq!(SchedStat::parse("none"), None);
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

//! The publishing side: a schedule, and a thread that keeps to it. Each message carries the moment it was *due*, so a
//! publisher that falls behind makes latencies longer instead of hiding them. Never listens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::resources::{CpuClock, CpuShare};
use crate::stamp::Stamp;
use crate::tally::{Run, latencies};

mod http;
mod link;
mod redis;

pub(crate) use link::{Link, LinkSettings, PublishError};

/// Messages that are sent in one go when several are due.
const MAX_BATCH: usize = 256;

/// What is to be published, and when.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// The channels, by index; messages go round them.
    pub(crate) channels: Vec<String>,
    /// Messages a second over all channels.
    pub(crate) rate: f64,
    /// How many in all.
    pub(crate) total: u64,
}

impl Schedule {
    /// When the n-th message is due, counted from the first.
    fn due(&self, index: u64) -> Duration {
        // Exact up to 2^53 messages.
        Duration::from_secs_f64(index as f64 / self.rate)
    }

    /// How many messages a channel gets of the first `count`.
    pub(crate) fn per_channel(&self, count: u64) -> Vec<u64> {
        let channels = self.channels.len() as u64;
        (0..channels).map(|channel| count / channels + u64::from(channel < count % channels)).collect()
    }
}

/// One message on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    /// Where to.
    pub(crate) channel: &'a str,
    /// What.
    pub(crate) payload: Vec<u8>,
}

/// How the publishing went.
#[derive(Debug)]
pub(crate) struct Published {
    /// How many messages the gateway or Redis accepted.
    pub(crate) count: u64,
    /// From the first to the last.
    pub(crate) elapsed: Duration,
    /// How late messages were sent, in microseconds.
    pub(crate) lag: Histogram<u64>,
    /// What the publisher's thread used.
    pub(crate) cpu: Option<CpuShare>,
    /// What ended it early.
    pub(crate) error: Option<PublishError>,
}

/// A publisher at work on its own thread.
#[derive(Debug)]
pub(crate) struct Publisher {
    thread: thread::JoinHandle<Published>,
    count: Arc<AtomicU64>,
}

impl Publisher {
    /// Begins to publish.
    pub(crate) fn start(link: Link, schedule: Schedule, run: Arc<Run>) -> std::io::Result<Self> {
        let count = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&count);
        let thread = thread::Builder::new()
            .name("publisher".to_owned())
            .spawn(move || publish_all(link, &schedule, &run, &counter))?;
        Ok(Self { thread, count })
    }

    /// Messages accepted so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether nothing more will be published.
    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end.
    pub(crate) fn join(self) -> std::io::Result<Published> {
        self.thread.join().map_err(|_| std::io::Error::other("the publisher has panicked"))
    }
}

fn publish_all(mut link: Link, schedule: &Schedule, run: &Run, counter: &AtomicU64) -> Published {
    let clock = CpuClock::start();
    let start = Instant::now();
    let mut lag = latencies();
    let mut count = 0;
    let mut error = None;
    while count < schedule.total && error.is_none() {
        wait_until(start + schedule.due(count));
        let batch = due_now(schedule, run, start, count, &mut lag);
        match link.publish(&batch) {
            Ok(()) => count += batch.len() as u64,
            Err(cause) => error = Some(cause),
        }
        counter.store(count, Ordering::Relaxed);
    }
    Published { count, elapsed: start.elapsed(), lag, cpu: clock.share(), error }
}

/// Everything that is due, from message `first` on.
fn due_now<'a>(
    schedule: &'a Schedule,
    run: &Run,
    start: Instant,
    first: u64,
    lag: &mut Histogram<u64>,
) -> Vec<Outgoing<'a>> {
    let channels = schedule.channels.len() as u64;
    let now = Instant::now();
    let upcoming = first..schedule.total.min(first + MAX_BATCH as u64);
    let due = upcoming.map(|index| (index, start + schedule.due(index)));
    due.take_while(|(_, due)| *due <= now)
        .map(|(index, due)| {
            lag.saturating_record(u64::try_from((now - due).as_micros()).unwrap_or(u64::MAX));
            let channel = index % channels;
            let stamp = Stamp {
                run: run.id,
                channel: u32::try_from(channel).unwrap_or(u32::MAX),
                sequence: index / channels + 1,
                due_micros: run.micros(due),
            };
            let mut payload = Vec::with_capacity(run.size);
            stamp.write(run.size, &mut payload);
            Outgoing { channel: &schedule.channels[usize::try_from(channel).unwrap_or_default()], payload }
        })
        .collect()
}

/// Blocks this thread: the timers of an async runtime have a grain of a millisecond, which would show in every latency.
fn wait_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(channels: usize, rate: f64, total: u64) -> Schedule {
        Schedule { channels: (0..channels).map(|index| format!("c{index}")).collect(), rate, total }
    }

    #[test]
    fn messages_go_round_the_channels() {
        assert_eq!(schedule(3, 1.0, 8).per_channel(8), [3, 3, 2]);
        assert_eq!(schedule(3, 1.0, 8).per_channel(0), [0, 0, 0]);
    }

    #[test]
    fn what_is_late_carries_the_moment_it_was_due() {
        let (schedule, run) = (schedule(2, 1000.0, 20), Run::new(128));
        let start = run.epoch;
        wait_until(start + Duration::from_millis(9));
        let mut lag = latencies();
        let batch = due_now(&schedule, &run, start, 4, &mut lag);
        assert!(batch.len() >= 6, "{}", batch.len());
        let stamps: Vec<_> = batch.iter().filter_map(|message| Stamp::parse(&message.payload)).collect();
        assert_eq!((stamps[0].channel, stamps[0].sequence, stamps[0].due_micros), (0, 3, 4000));
        assert_eq!((stamps[1].channel, stamps[1].sequence, stamps[1].due_micros), (1, 3, 5000));
        assert_eq!(batch[1].channel, "c1");
        assert!(lag.max() >= 4900, "{}", lag.max());
    }
}

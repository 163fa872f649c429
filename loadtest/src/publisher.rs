//! Publishing: a schedule, and a thread that follows it. Each message carries the time it was *due*, so a publisher
//! that falls behind increases the measured latency instead of hiding it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::resources::thread::{CpuClock, CpuShare};
use crate::run::{Run, latencies};
use crate::stamp::Stamp;

pub(crate) mod baseline;
mod connection;
mod error;
mod http;
mod redis;
mod schedule;
mod totals;

pub(crate) use connection::{PublishTarget, PublisherConnection};
pub(crate) use error::PublisherError;
pub(crate) use schedule::{PublishRate, Schedule};
pub(crate) use totals::PublishTotals;

/// Largest number of messages sent in one batch when several are due.
const BATCH_MAX: u64 = 256;

/// How often a publisher that waits for deliveries checks the window.
const WINDOW_POLL_INTERVAL: Duration = Duration::from_micros(100);

/// A message to publish.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    /// Channel.
    pub(crate) channel: &'a str,
    /// Payload.
    pub(crate) payload: Vec<u8>,
}

/// Result of a publisher.
#[derive(Debug)]
pub(crate) struct PublisherResult {
    /// Messages that the gateway or Redis accepted.
    pub(crate) count: u64,
    /// From the first message to the last.
    pub(crate) elapsed: Duration,
    /// Delay from due to sent, in microseconds.
    pub(crate) lag: Histogram<u64>,
    /// CPU share of the publisher's thread.
    pub(crate) cpu: Option<CpuShare>,
    /// Error that ended publishing early.
    pub(crate) error: Option<PublisherError>,
}

/// A publisher thread.
#[derive(Debug)]
pub(crate) struct Publisher {
    thread: thread::JoinHandle<PublisherResult>,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Publisher {
    /// Starts publishing.
    pub(crate) fn start(
        connection: PublisherConnection,
        schedule: Schedule,
        run: Arc<Run>,
    ) -> std::io::Result<Self> {
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let shared = (Arc::clone(&count), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("publisher".to_owned())
            .spawn(move || publish_all(connection, &schedule, &run, &shared.0, &shared.1))?;
        Ok(Self { thread, count, stop })
    }

    /// Messages accepted so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether the publisher has finished.
    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops after the current batch.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until the publisher has finished.
    pub(crate) fn join(self) -> std::io::Result<PublisherResult> {
        self.thread.join().map_err(|_| std::io::Error::other("the publisher thread panicked"))
    }
}

fn publish_all(
    mut connection: PublisherConnection,
    schedule: &Schedule,
    run: &Run,
    counter: &AtomicU64,
    stop: &AtomicBool,
) -> PublisherResult {
    let clock = CpuClock::start();
    let start = Instant::now();
    let before = run.delivered();
    let mut lag = latencies();
    let (mut count, mut error) = (0, None);
    while error.is_none() && !stop.load(Ordering::Relaxed) && !schedule.is_finished_at(count, start.elapsed())
    {
        let batch = match schedule.rate {
            PublishRate::Rate { .. } => {
                wait_until(start + schedule.due(count), stop);
                due_now(schedule, run, start, count, &mut lag)
            }
            PublishRate::Window { .. } => {
                let room = schedule.room(count, run.delivered() - before);
                if room == 0 {
                    thread::park_timeout(WINDOW_POLL_INTERVAL);
                }
                window_batch(schedule, run, count, room)
            }
        };
        if batch.is_empty() {
            continue;
        }
        match connection.publish(&batch) {
            Ok(()) => count += batch.len() as u64,
            Err(cause) => error = Some(cause),
        }
        counter.store(count, Ordering::Relaxed);
    }
    PublisherResult { count, elapsed: start.elapsed(), lag, cpu: clock.share(), error }
}

/// Returns all messages that are due, from message `first` on.
fn due_now<'a>(
    schedule: &'a Schedule,
    run: &'a Run,
    start: Instant,
    first: u64,
    lag: &mut Histogram<u64>,
) -> Vec<Outgoing<'a>> {
    let now = Instant::now();
    let upcoming = first..schedule.total.min(first + BATCH_MAX);
    let due = upcoming.map(|index| (index, start + schedule.due(index)));
    due.take_while(|(_, due)| *due <= now)
        .map(|(index, due)| {
            lag.saturating_record(u64::try_from((now - due).as_micros()).unwrap_or(u64::MAX));
            message(schedule, run, index, due, now)
        })
        .collect()
}

/// Returns as many messages as the window has room for; each is due now.
fn window_batch<'a>(schedule: &'a Schedule, run: &'a Run, first: u64, room: u64) -> Vec<Outgoing<'a>> {
    let now = Instant::now();
    (first..first + room.min(BATCH_MAX)).map(|index| message(schedule, run, index, now, now)).collect()
}

fn message<'a>(schedule: &Schedule, run: &'a Run, index: u64, due: Instant, now: Instant) -> Outgoing<'a> {
    let (channel, sequence) = schedule.position(index);
    let due_micros = run.micros(due);
    let late_micros = u32::try_from(run.micros(now).saturating_sub(due_micros)).unwrap_or(u32::MAX);
    let stamp = Stamp { run: run.id, channel, sequence, due_micros, late_micros };
    let mut payload = Vec::with_capacity(run.size);
    stamp.write(run.size, &mut payload);
    Outgoing { channel: &run.channels[channel as usize], payload }
}

/// Blocks the thread: async timers have a resolution of one millisecond, which would show in every latency.
fn wait_until(due: Instant, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left.min(Duration::from_millis(100)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_messages_carry_due_time_and_delay() {
        let run = Run::new(128, vec!["c0".to_owned(), "c1".to_owned()]);
        let rate = PublishRate::Rate { per_second: 1000.0, burst: 1 };
        let schedule = Schedule { before: vec![0; 2], rate, total: 20, duration: Duration::MAX };
        let start = run.epoch;
        wait_until(start + Duration::from_millis(9), &AtomicBool::new(false));
        let mut lag = latencies();
        let batch = due_now(&schedule, &run, start, 4, &mut lag);
        assert!(batch.len() >= 6, "{}", batch.len());
        let stamps: Vec<_> = batch.iter().filter_map(|message| Stamp::parse(&message.payload)).collect();
        assert_eq!((stamps[0].channel, stamps[0].sequence, stamps[0].due_micros), (0, 3, 4000));
        assert_eq!((stamps[1].channel, stamps[1].sequence, stamps[1].due_micros), (1, 3, 5000));
        assert_eq!(batch[1].channel, "c1");
        assert!(lag.max() >= 4900, "{}", lag.max());
        assert!(stamps[0].late_micros >= 4900, "{}", stamps[0].late_micros);
    }
}

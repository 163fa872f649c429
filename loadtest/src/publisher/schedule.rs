//! Publish schedule. Pure: publishes nothing and reads no clock.

use std::time::Duration;

/// Pacing of messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum PublishRate {
    /// By the clock, regardless of deliveries: a rate over all channels, in bursts.
    Rate {
        /// Messages per second.
        per_second: f64,
        /// Messages that are due at the same time.
        burst: u64,
    },
    /// By deliveries: limits the messages that are not yet delivered to all subscribers.
    Window {
        /// Messages in flight.
        messages: u64,
        /// Average deliveries per message.
        deliveries: f64,
    },
}

/// Publish schedule.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// Messages that each channel has received before. Messages rotate over the channels; a burst stays on one.
    pub(crate) before: Vec<u64>,
    /// Pacing.
    pub(crate) rate: PublishRate,
    /// Maximum number of messages.
    pub(crate) total: u64,
    /// Maximum duration.
    pub(crate) duration: Duration,
}

impl Schedule {
    /// One message for each channel, immediately.
    pub(crate) fn one_per_channel(before: Vec<u64>) -> Self {
        let rate = PublishRate::Rate { per_second: 1e9, burst: 1 };
        Self { total: before.len() as u64, before, rate, duration: Duration::MAX }
    }

    fn channels(&self) -> u64 {
        self.before.len() as u64
    }

    /// Messages that are due at the same time.
    fn burst(&self) -> u64 {
        match self.rate {
            PublishRate::Rate { burst, .. } => burst.max(1),
            PublishRate::Window { .. } => 1,
        }
    }

    /// When the n-th message is due, relative to the first.
    pub(crate) fn due(&self, index: u64) -> Duration {
        match self.rate {
            // Exact up to 2^53 messages.
            PublishRate::Rate { per_second, .. } => {
                Duration::from_secs_f64((index - index % self.burst()) as f64 / per_second)
            }
            PublishRate::Window { .. } => Duration::ZERO,
        }
    }

    /// Whether the schedule is complete.
    pub(crate) fn is_finished_at(&self, count: u64, elapsed: Duration) -> bool {
        count >= self.total || elapsed >= self.duration
    }

    /// Number of messages that may be sent now.
    pub(crate) fn room(&self, count: u64, delivered: u64) -> u64 {
        let PublishRate::Window { messages, deliveries } = self.rate else { return 0 };
        let done = (delivered as f64 / deliveries.max(f64::MIN_POSITIVE)) as u64;
        let room = messages.saturating_sub(count.saturating_sub(done));
        room.min(self.total - count)
    }

    /// Channel of the n-th message, and its sequence number within the channel, from 1.
    pub(crate) fn position(&self, index: u64) -> (u32, u64) {
        let (burst, within) = (index / self.burst(), index % self.burst());
        let (round, channel) = (burst / self.channels(), burst % self.channels());
        let before = self.before[usize::try_from(channel).unwrap_or_default()];
        (u32::try_from(channel).unwrap_or(u32::MAX), before + round * self.burst() + within + 1)
    }

    /// Messages of each channel after the first `count` messages of this schedule, including earlier ones.
    pub(crate) fn per_channel(&self, count: u64) -> Vec<u64> {
        let burst = self.burst();
        let (bursts, rest) = (count / burst, count % burst);
        let (rounds, extra) = (bursts / self.channels(), bursts % self.channels());
        (0..)
            .zip(&self.before)
            .map(|(channel, before)| {
                let whole = (rounds + u64::from(channel < extra)) * burst;
                before + whole + if channel == extra { rest } else { 0 }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(channels: usize, per_second: f64, burst: u64) -> Schedule {
        let rate = PublishRate::Rate { per_second, burst };
        Schedule { before: vec![0; channels], rate, total: 100, duration: Duration::MAX }
    }

    #[test]
    fn messages_rotate_over_channels() {
        assert_eq!(schedule(3, 1.0, 1).per_channel(8), [3, 3, 2]);
        assert_eq!(schedule(3, 1.0, 1).per_channel(0), [0, 0, 0]);
        assert_eq!(schedule(2, 1.0, 10).per_channel(35), [20, 15]);
    }

    #[test]
    fn burst_is_due_at_one_time_on_one_channel() {
        let schedule = schedule(2, 100.0, 10);
        assert_eq!((schedule.due(9), schedule.due(10)), (Duration::ZERO, Duration::from_millis(100)));
        assert_eq!(
            (schedule.position(9), schedule.position(10), schedule.position(20)),
            ((0, 10), (1, 1), (0, 11))
        );
    }

    #[test]
    fn window_opens_with_deliveries() {
        let rate = PublishRate::Window { messages: 10, deliveries: 5.0 };
        let schedule = Schedule { before: vec![0], rate, total: 100, duration: Duration::from_secs(1) };
        assert_eq!((schedule.room(0, 0), schedule.room(10, 0)), (10, 0));
        assert_eq!((schedule.room(10, 4), schedule.room(10, 5), schedule.room(99, 495)), (0, 1, 1));
        assert!(
            schedule.is_finished_at(100, Duration::ZERO)
                && schedule.is_finished_at(3, Duration::from_secs(1))
        );
    }

    proptest! {
        #[test]
        fn channel_counts_match_positions(
            before in prop::collection::vec(0u64..5, 1..5), burst in 1u64..5, count in 0u64..60,
        ) {
            let schedule = Schedule { before: before.clone(), ..schedule(before.len(), 1.0, burst) };
            let mut counts = before;
            for index in 0..count {
                let (channel, sequence) = schedule.position(index);
                counts[channel as usize] += 1;
                prop_assert_eq!(sequence, counts[channel as usize]);
            }
            prop_assert_eq!(schedule.per_channel(count), counts);
        }
    }
}

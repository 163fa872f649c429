//! Clock offsets between servers, and conversion of expiry times.
//!
//! Owns the measurement of a server's clock offset. Must never use the clock of this machine as a server's clock.

use std::time::Duration;

/// Offset of a server's clock to a local monotonic clock. Only differences between two offsets are meaningful.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Server time in milliseconds at the zero point of the local clock.
    offset_ms: f64,
    /// Uncertainty of the offset in milliseconds, in both directions.
    uncertainty_ms: f64,
}

/// One TIME command: local times of request and reply, and the server's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockSample {
    pub(super) sent: Duration,
    pub(super) answered: Duration,
    /// Microseconds since 1970.
    pub(super) server: i64,
}

impl Clock {
    /// Uses the sample with the shortest round trip.
    pub(super) fn from_samples(samples: impl IntoIterator<Item = ClockSample>) -> Option<Self> {
        let fastest = samples.into_iter().min_by_key(|sample| sample.answered.saturating_sub(sample.sent))?;
        let half = fastest.answered.saturating_sub(fastest.sent).as_secs_f64() * 500.0;
        let middle = fastest.sent.as_secs_f64() * 1000.0 + half;
        // Microseconds since 1970 fit into the 53 bits of a double for the next two centuries.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        let server = fastest.server as f64 / 1000.0;
        Some(Self { offset_ms: server - middle, uncertainty_ms: half })
    }

    /// Offset of the other clock relative to this one in milliseconds. Zero if it is within the uncertainty, so that
    /// the expiry is copied exactly.
    pub(super) fn offset_to(self, other: Self) -> i64 {
        let offset_ms = other.offset_ms - self.offset_ms;
        if offset_ms.abs() <= self.uncertainty_ms + other.uncertainty_ms + 1.0 {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "rounded, and far below 2^63 milliseconds")]
        let whole = offset_ms.round() as i64;
        whole
    }
}

/// Expiry of a key according to its server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// The key does not exist.
    Gone,
    Never,
    /// Milliseconds since 1970.
    At(i64),
}

impl Expiry {
    /// Converts a reply to PEXPIRETIME.
    pub(super) fn read(answer: i64) -> Self {
        match answer {
            -2 => Self::Gone,
            -1 => Self::Never,
            at => Self::At(at),
        }
    }

    /// The same moment on a clock with this offset.
    pub(super) fn shifted(self, offset_ms: i64) -> Self {
        match self {
            Self::At(at) => Self::At(at.saturating_add(offset_ms)),
            other => other,
        }
    }

    /// Whether two times on the same clock are equal within a tolerance in milliseconds.
    pub(super) fn is_close_to(self, other: Self, tolerance: u64) -> bool {
        match (self, other) {
            (Self::At(one), Self::At(two)) => one.abs_diff(two) <= tolerance,
            (one, two) => one == two,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(ahead_ms: i64, round_trip_ms: u64) -> Clock {
        let sent = Duration::from_secs(7);
        let answered = sent + Duration::from_millis(round_trip_ms);
        let middle = i64::try_from((sent + (answered - sent) / 2).as_micros()).unwrap();
        Clock::from_samples([ClockSample { sent, answered, server: middle + ahead_ms * 1000 }]).unwrap()
    }

    #[test]
    fn offset_within_the_uncertainty_is_zero() {
        assert_eq!(clock(1_700_000_000_000, 4).offset_to(clock(1_700_000_000_004, 4)), 0);
        assert_eq!(clock(1_700_000_000_000, 0).offset_to(clock(1_700_000_000_001, 0)), 0);
    }

    #[test]
    fn offset_beyond_the_uncertainty_is_applied() {
        assert_eq!(clock(1_700_000_000_000, 4).offset_to(clock(1_700_000_005_000, 4)), 5000);
        assert_eq!(clock(1_700_000_005_000, 4).offset_to(clock(1_700_000_000_000, 4)), -5000);
        assert_eq!(Expiry::At(10_000).shifted(-5000), Expiry::At(5000));
        assert_eq!(Expiry::Never.shifted(5000), Expiry::Never);
    }

    #[test]
    fn shortest_round_trip_is_used() {
        let slow = ClockSample { sent: Duration::ZERO, answered: Duration::from_secs(1), server: 99_000_000 };
        let fast = ClockSample {
            sent: Duration::from_secs(2),
            answered: Duration::from_millis(2002),
            server: 12_001_000,
        };
        let clock = Clock::from_samples([slow, fast]).unwrap();
        assert!(
            (clock.offset_ms - 10_000.0).abs() < 0.001 && (clock.uncertainty_ms - 1.0).abs() < 0.001,
            "{clock:?}"
        );
    }

    #[test]
    fn expiry_times_are_compared_with_tolerance() {
        assert!(Expiry::At(1000).is_close_to(Expiry::At(1050), 50));
        assert!(!Expiry::At(1000).is_close_to(Expiry::At(1051), 50));
        assert!(!Expiry::Never.is_close_to(Expiry::At(0), 50));
        assert!(Expiry::Never.is_close_to(Expiry::Never, 0));
    }
}

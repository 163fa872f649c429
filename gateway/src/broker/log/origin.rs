//! When a log began, and the position of a channel that has no log yet.
//!
//! A subscriber of a channel without a log needs a position that any node accepts after the first publication,
//! although reading a log writes nothing. So the position names the time, by the server's clock, and the state of the
//! server at which there was no log: a *provisional* epoch. The log stores the time and the state of its first entry,
//! its [`LogOrigin`]. A provisional position belongs to the log when nothing can have been published and lost in
//! between. A restart, a promotion of a replica, and an eviction change the state; deleting the keys does not, and is
//! not detected. Pure. Must never accept a position where continuity is in doubt.

use earshot_protocol::Epoch;

/// Bits of the minutes in an epoch: more than a century.
const MINUTE_BITS: u32 = 26;
/// Bits of the digest of the server's state in an epoch.
const SERVER_BITS: u32 = 26;

/// The longest time, in minutes, between a provisional position and the first entry of its log. The position of an
/// expired log is kept for longer than that after its last entry, so a log that began and expired in between would
/// still be known.
const MINUTES_MAX: u32 = 24 * 60 - 2;

/// A moment on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOrigin {
    /// Minutes since 1970, by the server's clock.
    minute: u32,
    /// Part of the digest of the server's state, which changes when the server may have lost a log.
    server: u32,
}

impl LogOrigin {
    /// Parses the minute and the digest in the reply of a script; `None` when the digest is unknown.
    pub fn read(minute: &str, digest: &str) -> Option<Self> {
        let minute = minute.parse::<u32>().ok().filter(|minute| *minute < 1 << MINUTE_BITS)?;
        let server = u32::from_str_radix(digest.get(..8)?, 16).ok()? >> (u32::BITS - SERVER_BITS);
        Some(Self { minute, server })
    }

    /// The provisional epoch of a channel that had no log at this moment.
    pub fn epoch(self) -> Epoch {
        Epoch::provisional(u64::from(self.minute) << SERVER_BITS | u64::from(self.server))
    }

    /// The moment that a provisional epoch names.
    pub fn of_epoch(epoch: Epoch) -> Option<Self> {
        let bits = epoch.provisional_bits()?;
        let minute = u32::try_from(bits >> SERVER_BITS).ok()?;
        let server = u32::try_from(bits & ((1 << SERVER_BITS) - 1)).ok()?;
        Some(Self { minute, server })
    }

    /// Whether a log that began at this moment is the first one since `none_at`, when there was none.
    pub fn is_first_since(self, none_at: Self) -> bool {
        self.server == none_at.server
            && self.minute.checked_sub(none_at.minute).is_some_and(|minutes| minutes <= MINUTES_MAX)
    }

    /// Whether, without a log at both moments, there was none in between.
    pub fn is_same_absence(self, other: Self) -> bool {
        self.server == other.server && self.minute.abs_diff(other.minute) <= MINUTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef01234567";

    fn origin(minute: u32) -> LogOrigin {
        LogOrigin::read(&minute.to_string(), DIGEST).unwrap()
    }

    #[test]
    fn an_origin_round_trips_through_its_epoch() {
        for minute in [0, 1, 30_000_000, (1 << MINUTE_BITS) - 1] {
            let origin = origin(minute);
            assert!(origin.epoch().is_provisional() && origin.epoch().as_u64() < 1 << 53);
            assert_eq!(LogOrigin::of_epoch(origin.epoch()), Some(origin));
        }
        for epoch in [0, 1, (1 << 48) - 1, 1 << 51, 1 << 53, u64::MAX] {
            assert_eq!(LogOrigin::of_epoch(Epoch::from_u64(epoch)), None, "{epoch}");
        }
        for (minute, digest) in
            [("", DIGEST), ("x", DIGEST), ("99999999999", DIGEST), ("1", ""), ("1", "xyzxyzxyz")]
        {
            assert_eq!(LogOrigin::read(minute, digest), None, "{minute:?} {digest:?}");
        }
    }

    #[test]
    fn only_the_first_log_since_matches() {
        let log = origin(30_000_000);
        assert!(log.is_first_since(log) && log.is_first_since(origin(30_000_000 - MINUTES_MAX)));
        assert!(!log.is_first_since(origin(30_000_000 - MINUTES_MAX - 1)), "another may have expired");
        assert!(!log.is_first_since(origin(30_000_001)), "it was there before");
        let restarted = LogOrigin::read("30000000", "f123456789abcdef").unwrap();
        assert!(!log.is_first_since(restarted) && !log.is_same_absence(restarted));
        assert!(log.is_same_absence(origin(30_000_001)));
    }
}

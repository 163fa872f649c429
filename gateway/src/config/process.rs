//! `[gateway]` and `[drain]`: how the process runs and how it stops.
//!
//! Must never contain the settings of a single client.

use std::time::Duration;

use super::reader::Section;
use super::reader::setting::{ThreadsKind, settings};
use super::reader::units::format_duration;
use crate::node::shard_set::SHARDS_MAX;

settings! {
    /// How the process runs.
    pub struct GatewayConfig {
        /// Threads that own connections; 0: one per core.
        shards: usize as ThreadsKind = ThreadsKind::one_per_core(), in 1, SHARDS_MAX;
        /// How long a channel stays subscribed at the broker after its last subscriber has left.
        unsubscribe_delay: Duration as DurationKind = Duration::from_secs(30), in Duration::ZERO, Duration::from_secs(3600);
    }
}

impl GatewayConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self::read_settings(section, Self::default())
    }
}

settings! {
    /// How the process stops.
    pub struct DrainConfig {
        /// Maximum time from the first signal to the exit of the process.
        shutdown_timeout: Duration as DurationKind = Duration::from_secs(25), in Duration::from_millis(100), Duration::from_secs(3600);
        /// Period over which clients are disconnected, so that they do not all reconnect at once.
        disconnect_window: Duration as DurationKind = Duration::from_secs(5), in Duration::ZERO, Duration::from_secs(3600);
    }
}

impl DrainConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let mut times = Self::read_settings(section, Self::default());
        if times.disconnect_window >= times.shutdown_timeout {
            // A default is lowered; a conflict in the file is an error.
            if section.has("disconnect_window") {
                let timeout = format_duration(times.shutdown_timeout);
                let window = format_duration(times.disconnect_window);
                let what = format!("{window} is not shorter than `shutdown_timeout` ({timeout})");
                section.error(&section.location_of_key("disconnect_window"), what);
            }
            times.disconnect_window = times.shutdown_timeout / 2;
        }
        times
    }
}

//! `[gateway]` and `[drain]`: how the process runs and how it stops.
//!
//! Owns threads, lingering and grace. Must never hold what concerns a single client.

use std::time::Duration;

use super::document::Section;
use super::knob::{Threads, knobs};
use super::quantity::show_duration;

knobs! {
    /// How the process runs.
    pub struct GatewayConfig {
        /// Threads that own connections; 0 or absent: one for each core.
        shards: usize as Threads = Threads::one_per_core(), in 1, 128;
        /// How long a channel whose last subscriber left stays subscribed at the broker.
        unsubscribe_delay: Duration as Span = Duration::from_secs(30), in Duration::ZERO, Duration::from_secs(3600);
    }
}

impl GatewayConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self::read_knobs(section, Self::default())
    }
}

knobs! {
    /// How the process stops.
    pub struct DrainConfig {
        /// The whole time from the first signal to the end of the process.
        shutdown_timeout: Duration as Span = Duration::from_secs(25), in Duration::from_millis(100), Duration::from_secs(3600);
        /// The window over which clients are told to go, so that they do not all come back at once.
        disconnect_window: Duration as Span = Duration::from_secs(5), in Duration::ZERO, Duration::from_secs(3600);
    }
}

impl DrainConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let mut times = Self::read_knobs(section, Self::default());
        if times.disconnect_window >= times.shutdown_timeout {
            // A default gives way, a contradiction in the file does not.
            if section.has("disconnect_window") {
                let timeout = show_duration(times.shutdown_timeout);
                let window = show_duration(times.disconnect_window);
                let what = format!("{window} is not shorter than `shutdown_timeout` ({timeout})");
                section.refuse(&section.place_of_key("disconnect_window"), what);
            }
            times.disconnect_window = times.shutdown_timeout / 2;
        }
        times
    }
}

//! `[websocket]`, `[sse]` and `[http]`: intervals and timeouts of each transport.
//!
//! Must never contain a size: those are limits.

use std::time::Duration;

use super::reader::Section;
use super::reader::setting::settings;
use super::reader::units::format_duration;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

settings! {
    /// Intervals and timeouts of WebSocket connections.
    pub struct WebSocket {
        /// How often the gateway pings a client with the ping of the protocol.
        ping_interval: Duration as DurationKind = secs(25), in secs(1), secs(3600);
        /// Maximum time for a client to reply to a ping.
        pong_timeout: Duration as DurationKind = secs(8), in Duration::from_millis(500), secs(600);
        /// Maximum time from the handshake to the connect command.
        connect_timeout: Duration as DurationKind = secs(10), in Duration::from_millis(100), secs(300);
        /// Maximum time for a client to reply to a close.
        close_timeout: Duration as DurationKind = secs(5), in Duration::from_millis(100), secs(60);
    }
}

impl WebSocket {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let mut times = Self::read_settings(section, Self::default());
        if times.ping_interval.subsec_nanos() != 0 {
            let what = "the protocol announces it in whole seconds: use whole seconds";
            section.error(&section.location_of_key("ping_interval"), what);
        }
        if times.pong_timeout >= times.ping_interval {
            // A default is lowered; a conflict in the file is an error.
            if section.has("pong_timeout") {
                let (timeout, interval) =
                    (format_duration(times.pong_timeout), format_duration(times.ping_interval));
                let what = format!("{timeout} is not shorter than `ping_interval` ({interval})");
                section.error(&section.location_of_key("pong_timeout"), what);
            }
            times.pong_timeout = times.ping_interval / 2;
        }
        times
    }
}

settings! {
    /// Intervals of SSE streams.
    pub struct Sse {
        /// Maximum silence of a stream before a comment is sent; jittered.
        heartbeat: Duration as DurationKind = secs(15), in secs(1), secs(600);
        /// How long a client waits before it reconnects; each client gets a random time around this value.
        retry: Duration as DurationKind = secs(2), in Duration::from_millis(100), secs(300);
        /// Age at which a stream is ended, ± 20 %, so that its client reconnects; `None`: never.
        max_age: Option<Duration> as OptionalDurationKind = None, in secs(10), secs(86_400);
    }
}

impl Sse {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self::read_settings(section, Self::default())
    }
}

settings! {
    /// Timeouts of connections that carry requests, or streams over HTTP/2.
    pub struct Http {
        /// Maximum time without activity. A connection with an open event stream is not idle.
        idle_timeout: Duration as DurationKind = secs(75), in secs(1), secs(3600);
        /// How often an HTTP/2 client is pinged.
        ping_interval: Duration as DurationKind = secs(30), in secs(1), secs(3600);
        /// Maximum time to reply to that ping.
        ping_timeout: Duration as DurationKind = secs(20), in Duration::from_millis(500), secs(600);
        /// Concurrent streams on one HTTP/2 connection.
        max_concurrent_streams: usize as CountKind = 200, in 1, 65_536;
    }
}

impl Http {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self::read_settings(section, Self::default())
    }
}

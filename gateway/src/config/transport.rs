//! `[websocket]`, `[sse]` and `[http]`: the times that each transport keeps.
//!
//! Owns when a client is greeted, reminded and given up. Must never hold a size: those are limits.

use std::time::Duration;

use super::document::Section;
use super::knob::knobs;
use super::quantity::show_duration;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

knobs! {
    /// The times of WebSocket connections.
    pub struct WebSocket {
        /// How often the gateway pings a client, within the protocol; the client is told.
        ping_interval: Duration as Span = secs(25), in secs(1), secs(3600);
        /// How long a client may take to answer a ping.
        pong_timeout: Duration as Span = secs(8), in Duration::from_millis(500), secs(600);
        /// How long a client may take from the handshake to its connect command.
        connect_timeout: Duration as Span = secs(10), in Duration::from_millis(100), secs(300);
        /// How long a client may take to answer a close.
        close_timeout: Duration as Span = secs(5), in Duration::from_millis(100), secs(60);
    }
}

impl WebSocket {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let mut times = Self::read_knobs(section, Self::default());
        if times.ping_interval.subsec_nanos() != 0 {
            let what = "clients are told in whole seconds: write whole seconds";
            section.refuse(&section.place_of_key("ping_interval"), what);
        }
        if times.pong_timeout >= times.ping_interval {
            // A default gives way, a contradiction in the file does not.
            if section.has("pong_timeout") {
                let interval = show_duration(times.ping_interval);
                let what =
                    format!("a pong is due before the next ping: less than `ping_interval` ({interval})");
                section.refuse(&section.place_of_key("pong_timeout"), what);
            }
            times.pong_timeout = times.ping_interval / 2;
        }
        times
    }
}

knobs! {
    /// The times of SSE streams.
    pub struct Sse {
        /// How long a stream may be silent before a comment is sent; jittered.
        heartbeat: Duration as Span = secs(15), in secs(1), secs(600);
        /// How long a client waits before it comes back; each is told a random time around this one.
        retry: Duration as Span = secs(2), in Duration::from_millis(100), secs(300);
        /// The age at which a stream is ended, so that its client comes back elsewhere; give or take a fifth.
        max_age: Option<Duration> as OptionalSpan = None, in secs(10), secs(86_400);
    }
}

impl Sse {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self::read_knobs(section, Self::default())
    }
}

knobs! {
    /// The times of connections that carry requests, or streams over HTTP/2.
    pub struct Http {
        /// How long nothing may happen on one. A connection with an event stream is not idle.
        idle_timeout: Duration as Span = secs(75), in secs(1), secs(3600);
        /// How often an HTTP/2 client is pinged.
        ping_interval: Duration as Span = secs(30), in secs(1), secs(3600);
        /// How long it may take to answer a ping.
        ping_timeout: Duration as Span = secs(20), in Duration::from_millis(500), secs(600);
        /// Streams at a time on one HTTP/2 connection.
        max_concurrent_streams: usize as Count = 200, in 1, 65_536;
    }
}

impl Http {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self::read_knobs(section, Self::default())
    }
}

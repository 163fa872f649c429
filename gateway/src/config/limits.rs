//! `[limits]`: how much of everything.
//!
//! Owns the bounds that keep one client, one publisher or one flood from harming the others. Must never hold the times
//! of one transport, nor what a namespace may decide for itself.

use std::time::Duration;

use super::document::Section;
use super::knob::knobs;
use super::quantity::{GIB, KIB, MIB, TIB, show_size};

/// Publications of the largest size that the default of `client_queue_bytes` holds. With room for only one, a client that
/// reads well is closed as slow when two of them come within milliseconds.
const CLIENT_QUEUE_PUBLICATIONS: usize = 4;

knobs! {
    /// How much of everything. What is over a limit is refused; nobody who is there is evicted.
    pub struct Limits {
        /// The head of a request: request line and headers. A stream must find room in it for its cursor, twice.
        request_header_bytes: usize as Size = 24 * KIB, in KIB, MIB;
        /// How long a client may take over the head of its request.
        request_header_timeout: Duration as Span = Duration::from_secs(10), in Duration::from_millis(100), Duration::from_secs(300);
        /// Connections at a time; nothing (written 0): as many as the limit of open files allows.
        connections: Option<usize> as OptionalCount = None, in 1, 10_000_000;
        /// Connections beyond `connections` that are answered all the same: told that the gateway is full, or shown its
        /// state. A quarter of them is for `/health`, `/ready` and `/metrics` alone.
        reserved_connections: usize as Count = 128, in 8, 65_536;
        /// How long such a connection may take over its request, and then over the answer.
        reserved_timeout: Duration as Span = Duration::from_secs(5), in Duration::from_millis(100), Duration::from_secs(60);
        /// One message from a WebSocket client.
        message_bytes: usize as Size = 64 * KIB, in KIB, 64 * MIB;
        /// The payload of one publication, wherever it comes from. A larger one from Redis is a gap.
        publication_bytes: usize as Size = MIB, in KIB, 64 * MIB;
        /// The body of one request to the HTTP API.
        api_body_bytes: usize as Size = 2 * MIB, in KIB, 256 * MIB;
        /// The bodies of all requests to the HTTP API that are in progress.
        api_buffer_bytes: usize as Size = 64 * MIB, in MIB, 16 * GIB;
        /// What may wait for one client; one that falls further behind is slow.
        client_queue_bytes: usize as Size = CLIENT_QUEUE_PUBLICATIONS * MIB, in 4 * KIB, GIB;
        /// Commands of one WebSocket client that may wait; beyond it, nothing more is read from the client.
        pending_command_bytes: usize as Size = MIB, in KIB, 64 * MIB;
        /// How long a publication may wait for a slow client; nothing: for ever.
        client_queue_age: Option<Duration> as OptionalSpan = Some(Duration::from_secs(30)), in Duration::from_secs(1), Duration::from_secs(3600);
        /// Channels that one connection may be subscribed to.
        channels_per_connection: usize as Count = 128, in 1, 100_000;
        /// Channels that one node may know at a time, those that linger included.
        channels: usize as Count = 1_000_000, in 1, 100_000_000;
        /// Channels without a subscriber that one public address may leave behind.
        idle_channels_per_address: usize as Count = 10_000, in 128, 100_000_000;
        /// Commands in one WebSocket frame.
        commands_per_frame: usize as Count = 1024, in 1, 65_536;
        /// Requests of clients that wait for an answer from the control plane, for each shard.
        inflight_requests: usize as Count = 4096, in 16, 1_000_000;
        /// Batches of publications on the way to one shard; more is a gap.
        shard_queue_items: usize as Count = 4096, in 16, 1_000_000;
        /// Bytes of publications queued for one shard; more is a gap.
        shard_queue_bytes: usize as Size = 64 * MIB, in MIB, 4 * GIB;
        /// Bytes of publications received on one Redis link and queued for the node; more is a gap.
        redis_queue_bytes: usize as Size = 64 * MIB, in MIB, 4 * GIB;
        /// What one node keeps in its memory of the history of all channels together.
        history_bytes: usize as Size = 256 * MIB, in MIB, TIB;
        /// Publications in one recovery; a client that missed more is told of a gap.
        recovery_publications: usize as Count = 300, in 1, 10_000;
    }
}

impl Limits {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let mut limits = Self::read_knobs(section, Self::default());
        // A default gives way, a contradiction in the file does not.
        let make_room = |key, room: &mut usize, default_min, min, what| {
            if !section.has(key) {
                *room = (*room).max(default_min);
            } else if *room < min {
                let (room_size, min_size) = (show_size(*room), show_size(min));
                let what = format!("{room_size} holds no {what} ({min_size}): raise this or lower that");
                section.refuse(&section.place_of_key(key), what);
                *room = min;
            }
        };
        let publication = limits.publication_bytes;
        for (key, room, default_min) in [
            ("client_queue_bytes", &mut limits.client_queue_bytes, CLIENT_QUEUE_PUBLICATIONS * publication),
            ("shard_queue_bytes", &mut limits.shard_queue_bytes, publication),
            ("redis_queue_bytes", &mut limits.redis_queue_bytes, publication),
            ("api_body_bytes", &mut limits.api_body_bytes, publication),
        ] {
            make_room(key, room, default_min, publication, "publication of `publication_bytes`");
        }
        let body = limits.api_body_bytes;
        make_room("api_buffer_bytes", &mut limits.api_buffer_bytes, body, body, "body of `api_body_bytes`");
        limits
    }
}

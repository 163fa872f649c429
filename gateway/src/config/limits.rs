//! `[limits]`: bounds on memory, connections and channels.
//!
//! Owns the bounds that protect clients from each other. Must never contain the timeouts of one transport or the settings
//! of a namespace.

use std::time::Duration;

use super::reader::Section;
use super::reader::setting::settings;
use super::reader::units::{GIB, KIB, MIB, TIB, format_size};

/// Publications of maximum size that the default of `client_queue_bytes` can hold. With room for only one, a client that
/// reads quickly is disconnected as a slow consumer if two of them arrive within milliseconds.
const CLIENT_QUEUE_PUBLICATIONS: usize = 4;

settings! {
    /// Bounds on memory, connections and channels. A limit rejects what is new; it does not close an existing connection.
    pub struct Limits {
        /// Size of a request head: request line and headers. It must hold the largest cursor of a stream twice.
        request_header_bytes: usize as SizeKind = 24 * KIB, in KIB, MIB;
        /// Maximum time for the head of the first request.
        request_header_timeout: Duration as DurationKind = Duration::from_secs(10), in Duration::from_millis(100), Duration::from_secs(300);
        /// Maximum number of connections; `None` (0 in the file): as many as the limit of open files allows.
        connections: Option<usize> as OptionalCountKind = None, in 1, 10_000_000;
        /// Connections of one user; `None` (0 in the file): unlimited.
        connections_per_user: Option<usize> as OptionalCountKind = Some(1000), in 1, 10_000_000;
        /// Connections of one client address; `None` (0 in the file): unlimited.
        connections_per_address: Option<usize> as OptionalCountKind = Some(10_000), in 1, 10_000_000;
        /// Logins of one client address that may fail in a minute; `None` (0 in the file): unlimited.
        failed_logins_per_minute: Option<usize> as OptionalCountKind = Some(600), in 1, 1_000_000;
        /// Publications of one WebSocket client in a second; `None` (0 in the file): unlimited.
        publishes_per_second: Option<usize> as OptionalCountKind = None, in 1, 1_000_000;
        /// Publications of all WebSocket clients of one user in a second, on one node; `None` (0 in the file): unlimited.
        publishes_per_second_per_user: Option<usize> as OptionalCountKind = None, in 1, 1_000_000;
        /// Connections beyond `connections` that still get a response: a rejection, or the state of the gateway. A quarter
        /// of them is reserved for `/health`, `/ready` and `/metrics`.
        reserved_connections: usize as CountKind = 128, in 8, 65_536;
        /// Maximum time for the request of such a connection, and again for reading the response.
        reserved_timeout: Duration as DurationKind = Duration::from_secs(5), in Duration::from_millis(100), Duration::from_secs(60);
        /// Size of one message from a WebSocket client.
        message_bytes: usize as SizeKind = 64 * KIB, in KIB, 64 * MIB;
        /// Size of the payload of one publication from any source. A larger publication from Redis causes a gap.
        publication_bytes: usize as SizeKind = MIB, in KIB, 64 * MIB;
        /// Size of the body of one request to the HTTP API.
        api_body_bytes: usize as SizeKind = 2 * MIB, in KIB, 256 * MIB;
        /// Size of the bodies of all requests to the HTTP API that are in progress.
        api_buffer_bytes: usize as SizeKind = 64 * MIB, in MIB, 16 * GIB;
        /// Bytes queued for one client; beyond it, the client is a slow consumer.
        client_queue_bytes: usize as SizeKind = CLIENT_QUEUE_PUBLICATIONS * MIB, in 4 * KIB, GIB;
        /// Bytes of pending commands of one WebSocket client; beyond it, the gateway stops reading from the client.
        pending_command_bytes: usize as SizeKind = MIB, in KIB, 64 * MIB;
        /// How long data may be queued before the client is a slow consumer; `None`: unlimited.
        client_queue_age: Option<Duration> as OptionalDurationKind = Some(Duration::from_secs(30)), in Duration::from_secs(1), Duration::from_secs(3600);
        /// Channels that one connection may be subscribed to.
        channels_per_connection: usize as CountKind = 128, in 1, 100_000;
        /// Channels that one node may know at a time, including those without subscribers.
        channels: usize as CountKind = 1_000_000, in 1, 100_000_000;
        /// Channels without a subscriber that one client address may leave behind.
        idle_channels_per_address: usize as CountKind = 10_000, in 128, 100_000_000;
        /// Commands in one WebSocket frame.
        commands_per_frame: usize as CountKind = 1024, in 1, 65_536;
        /// Pending client requests to the control plane, for each shard.
        inflight_requests: usize as CountKind = 4096, in 16, 1_000_000;
        /// Batches of publications queued for one shard; beyond it, clients get a gap.
        shard_queue_items: usize as CountKind = 4096, in 16, 1_000_000;
        /// Bytes of publications queued for one shard; beyond it, clients get a gap.
        shard_queue_bytes: usize as SizeKind = 64 * MIB, in MIB, 4 * GIB;
        /// Bytes of publications received on one Redis link and queued for the node; beyond it, clients get a gap.
        redis_queue_bytes: usize as SizeKind = 64 * MIB, in MIB, 4 * GIB;
        /// Size of the history of all channels in the memory of one node.
        history_bytes: usize as SizeKind = 256 * MIB, in MIB, TIB;
        /// Publications in one recovery; a client that missed more gets a gap.
        recovery_publications: usize as CountKind = 300, in 1, 10_000;
        /// Revocations and commands of the API that may be in effect at a time.
        revocations: usize as CountKind = 10_000, in 16, 100_000;
    }
}

impl Limits {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let mut limits = Self::read_settings(section, Self::default());
        // A default is raised; a conflict in the file is an error.
        let raise = |key, size: &mut usize, default_min, min, other| {
            if !section.has(key) {
                *size = (*size).max(default_min);
            } else if *size < min {
                let what = format!("{} is less than `{other}` ({})", format_size(*size), format_size(min));
                section.error(&section.location_of_key(key), what);
                *size = min;
            }
        };
        let publication = limits.publication_bytes;
        for (key, size, default_min) in [
            ("client_queue_bytes", &mut limits.client_queue_bytes, CLIENT_QUEUE_PUBLICATIONS * publication),
            ("shard_queue_bytes", &mut limits.shard_queue_bytes, publication),
            ("redis_queue_bytes", &mut limits.redis_queue_bytes, publication),
            ("api_body_bytes", &mut limits.api_body_bytes, publication),
        ] {
            raise(key, size, default_min, publication, "publication_bytes");
        }
        let body = limits.api_body_bytes;
        raise("api_buffer_bytes", &mut limits.api_buffer_bytes, body, body, "api_body_bytes");
        limits
    }
}

//! The settings of a Redis broker: the server, and the bounds of its queues.
//!
//! Owns the defaults that have no key in the configuration.

use std::time::Duration;

use earshot_redis_link::ConnectConfig;

/// Settings of one Redis broker.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// The Redis deployment.
    pub instance: ConnectConfig,
    /// The interval of PING on each connection.
    pub ping_interval: Duration,
    /// The timeout of PING.
    pub ping_timeout: Duration,
    /// The interval of probes on the subscriber link; `None` disables them.
    pub probe_interval: Option<Duration>,
    /// The prefix of the probe channel; a unique suffix follows.
    pub probe_prefix: String,
    /// Publications that may wait between the link and the handler.
    pub receive_queue_items: usize,
    /// Bytes that may wait between the link and the handler.
    pub receive_queue_bytes: usize,
    /// The largest payload; a larger one is dropped, with a gap of its channel.
    pub message_bytes: usize,
    /// Topics in one `SUBSCRIBE`.
    pub subscribe_chunk: usize,
    /// Commands that may wait for the server.
    pub queue_items: usize,
    /// Bytes of commands that may wait for the server.
    pub queue_bytes: usize,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            instance: ConnectConfig::default(),
            ping_interval: Duration::from_secs(1),
            ping_timeout: Duration::from_secs(3),
            probe_interval: Some(Duration::from_secs(1)),
            probe_prefix: "earshot:probe:".to_owned(),
            receive_queue_items: 256 * 1024,
            receive_queue_bytes: 64 * 1024 * 1024,
            message_bytes: 1024 * 1024,
            subscribe_chunk: 500,
            queue_items: 16 * 1024,
            queue_bytes: 64 * 1024 * 1024,
        }
    }
}

//! What a Redis broker is told at start: the server, and the bounds of its queues.
//!
//! Owns the defaults of what has no key of its own in the configuration.

use std::time::Duration;

use earshot_redis_link::ConnectConfig;

/// Settings of one Redis broker.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Where publications go and come from.
    pub instance: ConnectConfig,
    /// How often each connection is asked whether it lives.
    pub ping_interval: Duration,
    /// How long it may take to answer before it is given up.
    pub ping_timeout: Duration,
    /// How often the subscriber link proves that it hears; `None`: it is only asked whether it lives.
    pub probe_interval: Option<Duration>,
    /// What the channel is called by which it does, with something behind it that nobody else has.
    pub probe_prefix: String,
    /// Publications that may wait between the link and the listener.
    pub receive_queue_items: usize,
    /// Bytes that may wait between the link and the listener.
    pub receive_queue_bytes: usize,
    /// The largest payload that is handed on; a larger one is a loss of its channel.
    pub message_bytes: usize,
    /// Topics in one `SUBSCRIBE`.
    pub subscribe_chunk: usize,
    /// Publications of ours that may wait for the server.
    pub queue_items: usize,
    /// Bytes of ours that may wait for the server.
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

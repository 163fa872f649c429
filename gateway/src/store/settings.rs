//! Settings of the store.

use std::time::Duration;

use earshot_redis_link::ConnectConfig;

/// How the store connects, and its limits. `Debug` shows no credentials.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The deployment that holds the keys.
    pub connection: ConnectConfig,
    /// Prefixes of the keys that are watched. A watched key with another prefix is checked only by the sweep. An empty
    /// prefix stands for all keys.
    pub prefixes: Vec<Vec<u8>>,
    /// Maximum number of requests that wait or are in flight.
    pub queue_items: usize,
    /// Maximum size of their keys and values.
    pub queue_bytes: usize,
    /// How often each watched key is read without tracking.
    pub sweep_interval: Duration,
    /// After a link failure, the time over which missing keys are reported, if all of them are missing.
    pub disconnect_window: Duration,
    /// Maximum number of watched keys read per second after a link failure.
    pub recovery_rate: u32,
    /// The shortest time between two reads of one key that changes often.
    pub reread_interval_min: Duration,
    /// How often an idle link is checked with PING.
    pub ping_interval: Duration,
    /// Limit of the wait for the reply to PING.
    pub ping_timeout: Duration,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            connection: ConnectConfig::default(),
            prefixes: Vec::new(),
            queue_items: 16_384,
            queue_bytes: 16 * 1024 * 1024,
            sweep_interval: Duration::from_secs(30),
            disconnect_window: Duration::from_secs(30),
            recovery_rate: 10_000,
            reread_interval_min: Duration::from_millis(500),
            ping_interval: Duration::from_secs(2),
            ping_timeout: Duration::from_secs(5),
        }
    }
}

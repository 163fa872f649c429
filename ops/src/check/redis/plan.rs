//! How the gateway will use a server.
//!
//! Owns the defaults without a configuration. Must not depend on how the tests work.

use std::time::Duration;

/// Planned use of one server.
#[derive(Clone, Debug)]
pub struct CheckPlan {
    /// Channels in the order of the configuration.
    pub channels: Vec<PlannedChannel>,
    /// Streams stored on the server.
    pub logs: Vec<PlannedLog>,
    /// Maximum size of a publication.
    pub publication_bytes: usize,
    /// Ping interval of the links.
    pub ping_interval: Duration,
    /// Prefix of probe channels; `None` if probing is disabled.
    pub probe_prefix: Option<String>,
    /// The configuration declares a cluster.
    pub cluster: bool,
    /// There is no configuration: everything is possible, nothing is required.
    pub assumed: bool,
}

impl Default for CheckPlan {
    /// For a server of which only the URL is known.
    fn default() -> Self {
        Self {
            channels: vec![PlannedChannel { name: "*".to_owned(), pattern: None, sharded: false }],
            logs: vec![PlannedLog { key_prefix: String::new(), channel: "*".to_owned() }],
            publication_bytes: 1024 * 1024,
            ping_interval: Duration::from_secs(1),
            probe_prefix: Some("earshot:probe:".to_owned()),
            cluster: false,
            assumed: true,
        }
    }
}

/// A channel or a glob.
#[derive(Clone, Debug)]
pub struct PlannedChannel {
    /// Exact name, or a glob with `*` and `?`.
    pub name: String,
    /// Pattern that is subscribed to instead, in Redis syntax.
    pub pattern: Option<String>,
    /// Sharded channel of a cluster.
    pub sharded: bool,
}

/// Streams stored in Redis.
#[derive(Clone, Debug)]
pub struct PlannedLog {
    /// Prefix of their keys.
    pub key_prefix: String,
    /// Channel or glob.
    pub channel: String,
}

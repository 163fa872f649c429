//! What the gateway is to do with a server.
//!
//! Owns what is assumed when nobody says. Must never know how any of it is tried.

use std::time::Duration;

/// What is planned on one server.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The channels, in the order of the configuration.
    pub channels: Vec<PlannedChannel>,
    /// The logs that are kept there.
    pub logs: Vec<PlannedLog>,
    /// The largest publication.
    pub publication_bytes: usize,
    /// How often each link asks whether the server lives.
    pub ping_interval: Duration,
    /// What the channels begin with on which hearing is proven; `None`: it is not.
    pub probe_prefix: Option<String>,
    /// It is taken for a node of a cluster.
    pub cluster: bool,
    /// Nobody has said what is planned: everything may be, and nothing must.
    pub assumed: bool,
}

impl Default for Plan {
    /// Of a server of which only the URL is known.
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

/// A channel, or the glob of many.
#[derive(Clone, Debug)]
pub struct PlannedChannel {
    /// An exact name, or a glob with `*` and `?`.
    pub name: String,
    /// The pattern that is subscribed in its place, as Redis writes it.
    pub pattern: Option<String>,
    /// It is a shard channel of a cluster.
    pub sharded: bool,
}

/// Logs that are kept in Redis.
#[derive(Clone, Debug)]
pub struct PlannedLog {
    /// What stands before its keys.
    pub key_prefix: String,
    /// The channel, or the glob of many.
    pub channel: String,
}

//! One Redis server: where it is, how one signs in, one attempt to connect, and how long to wait before the next.
//!
//! Everything that speaks to Redis dials here: the broker's links and the tools. Must never keep a connection, and
//! must never show a secret.

use std::fmt;
use std::time::Duration;

mod address;
mod backoff;
mod dial;
mod node;
pub mod slot;

pub use address::shown;
pub use backoff::Backoff;
pub use dial::{Dialer, Failure, said};
pub use node::NodeAddress;

/// How one Redis server is reached.
#[derive(Clone)]
pub struct InstanceSettings {
    /// What logs and metrics call it.
    pub name: String,
    /// `redis://` or `rediss://`, complete.
    pub url: String,
    /// The server is a node of a cluster; these are others of it, which are asked when that one is away.
    pub cluster: Option<Vec<NodeAddress>>,
    /// The longest that one attempt to connect may take: resolving, TCP, TLS and sign-in together.
    pub connect_timeout: Duration,
    /// The longest that a command may wait for its answer.
    pub command_timeout: Duration,
    /// Upper bound of the first (jittered) wait between two attempts to connect; it doubles from there.
    pub retry_min: Duration,
    /// Upper bound of every wait between two attempts to connect.
    pub retry_max: Duration,
    /// Shortest wait after the server refused us (password, ACL, TLS), where haste helps nobody.
    pub refused_retry_min: Duration,
    /// Longest wait after the server refused us.
    pub refused_retry_max: Duration,
}

impl Default for InstanceSettings {
    fn default() -> Self {
        Self {
            name: "redis".to_owned(),
            url: "redis://127.0.0.1:6379/0".to_owned(),
            cluster: None,
            connect_timeout: Duration::from_secs(10),
            command_timeout: Duration::from_secs(5),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(2),
            refused_retry_min: Duration::from_secs(2),
            refused_retry_max: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for InstanceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceSettings")
            .field("name", &self.name)
            .field("url", &shown(&self.url))
            .field("cluster", &self.cluster)
            .field("connect_timeout", &self.connect_timeout)
            .field("command_timeout", &self.command_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_shown() {
        let url = "rediss://bob:s3cret@h.example:1/0".to_owned();
        let debug = format!("{:?}", InstanceSettings { url, ..InstanceSettings::default() });
        assert!(!debug.contains("s3cret") && !debug.contains("bob"), "{debug}");
        assert!(debug.contains("rediss://h.example:1"), "{debug}");
    }
}

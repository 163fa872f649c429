//! Connections to one Redis server or deployment: address, TLS, authentication, Sentinel, cluster nodes, backoff.
//!
//! The broker of the gateway and the tools connect through this crate. Must never keep a connection or show a secret.
//!
//! - `address`: parses URLs; `files`, `tls`: passwords, certificates and keys, read at each attempt
//! - `stream`: name resolution, TCP, TLS; `server`: authentication on top of them
//! - `error`: causes of a failed connection, with the fix; `tls_probe`, `early_reply`: causes that Redis clients hide
//! - `role`, `sentinel`: find the primary, and detect a failover
//! - `node`, `slot`, `topology`: nodes, hash slots and slot assignment of a cluster
//! - `dial`: one attempt to connect; `backoff`: the wait until the next

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub mod address;
mod backoff;
mod dial;
mod early_reply;
mod error;
pub mod files;
mod node;
mod role;
mod sentinel;
mod server;
pub mod slot;
mod stream;
mod tls;
mod tls_probe;
mod topology;

pub use address::redacted;
pub use backoff::Backoff;
pub use dial::{Dialer, FailoverWatch};
pub use error::{LinkError, server_message};
pub use node::NodeAddress;
pub use sentinel::SentinelConfig;
pub use tls::{ClientCert, TlsConfig};
pub use topology::{SlotRange, Topology, parse_redirection};

/// How to connect to one Redis server.
#[derive(Clone)]
pub struct ConnectConfig {
    /// The name in logs and metrics.
    pub name: String,
    /// A complete URL: `redis://`, `rediss://` or `unix://`. With Sentinels, its host and port are ignored: the
    /// Sentinels report those of the primary.
    pub url: String,
    /// Set if the server is a node of a cluster: further nodes, tried when this one is unreachable.
    pub cluster: Option<Vec<NodeAddress>>,
    /// The ACL user, if the URL has none.
    pub username: Option<String>,
    /// The file of the password, instead of one in the URL. Read at each attempt to connect.
    pub password_file: Option<PathBuf>,
    /// TLS settings.
    pub tls: TlsConfig,
    /// The Sentinels that report the address of the primary.
    pub sentinel: Option<SentinelConfig>,
    /// How often a connected server is queried for its role, and the Sentinels for the primary.
    pub primary_check_interval: Duration,
    /// Limit of one attempt to connect: name resolution, TCP, TLS and authentication together.
    pub connect_timeout: Duration,
    /// Limit of the wait for the reply to a command.
    pub command_timeout: Duration,
    /// Upper bound of the first (jittered) wait between two attempts to connect; doubles with each attempt.
    pub retry_min: Duration,
    /// Upper bound of every wait between two attempts to connect.
    pub retry_max: Duration,
    /// Shortest wait after the server rejected the connection (password, ACL, TLS).
    pub rejected_retry_min: Duration,
    /// Longest wait after the server rejected the connection.
    pub rejected_retry_max: Duration,
}

impl Default for ConnectConfig {
    fn default() -> Self {
        Self {
            name: "redis".to_owned(),
            url: "redis://127.0.0.1:6379/0".to_owned(),
            cluster: None,
            username: None,
            password_file: None,
            tls: TlsConfig::default(),
            sentinel: None,
            primary_check_interval: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            command_timeout: Duration::from_secs(5),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(2),
            rejected_retry_min: Duration::from_secs(2),
            rejected_retry_max: Duration::from_secs(10),
        }
    }
}

impl ConnectConfig {
    /// The server, for logs: without credentials.
    pub fn location(&self) -> String {
        match &self.sentinel {
            Some(sentinel) => format!("the primary `{}` of the Sentinels", sentinel.master_name),
            None => redacted(&self.url),
        }
    }
}

impl fmt::Debug for ConnectConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectConfig")
            .field("name", &self.name)
            .field("url", &self.location())
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
    fn debug_hides_credentials() {
        let url = "rediss://bob:s3cret@h.example:1/0".to_owned();
        let debug = format!("{:?}", ConnectConfig { url, ..ConnectConfig::default() });
        assert!(!debug.contains("s3cret") && !debug.contains("bob"), "{debug}");
        assert!(debug.contains("rediss://h.example:1"), "{debug}");
    }
}

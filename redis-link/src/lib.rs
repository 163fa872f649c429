//! One Redis server: where it is, how one signs in, one attempt to connect, and how long to wait before the next.
//!
//! Everything that speaks to Redis dials here: the broker's links and the tools. Must never keep a connection, and
//! must never show a secret.

//!
//! - `address`: a URL, checked; `files`, `tls`: passwords, certificates and keys, read at each attempt
//! - `stream`: name, TCP, TLS; `server`: the sign-in on top of them
//! - `failure`: why not, and what to do; `mismatch`, `first_words`: the causes that hide
//! - `role`, `sentinel`: which server is the primary, and when another one is
//! - `node`, `slot`: the nodes of a cluster, and what each of them has
//! - `dial`: one attempt at the server that is right; `backoff`: the wait until the next

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub mod address;
mod backoff;
mod dial;
mod failure;
pub mod files;
mod first_words;
mod mismatch;
mod node;
mod role;
mod sentinel;
mod server;
pub mod slot;
mod stream;
mod tls;

pub use address::shown;
pub use backoff::Backoff;
pub use dial::{Dialer, Watch};
pub use failure::{Failure, said};
pub use node::NodeAddress;
pub use sentinel::SentinelSettings;
pub use tls::{Identity, TlsSettings};

/// How one Redis server is reached.
#[derive(Clone)]
pub struct InstanceSettings {
    /// What logs and metrics call it.
    pub name: String,
    /// `redis://`, `rediss://` or `unix://`, complete. With Sentinels, its host and port stand for the primary's.
    pub url: String,
    /// The server is a node of a cluster; these are others of it, which are asked when that one is away.
    pub cluster: Option<Vec<NodeAddress>>,
    /// The ACL user, where the URL says none.
    pub username: Option<String>,
    /// The file of the password, in the place of one in the URL. Read at each attempt to connect.
    pub password_file: Option<PathBuf>,
    /// What TLS needs beside the URL.
    pub tls: TlsSettings,
    /// Who tells where the primary is.
    pub sentinel: Option<SentinelSettings>,
    /// How often a connected server is asked for its role, and Sentinels for the primary.
    pub primary_check_interval: Duration,
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
            username: None,
            password_file: None,
            tls: TlsSettings::default(),
            sentinel: None,
            primary_check_interval: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            command_timeout: Duration::from_secs(5),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(2),
            refused_retry_min: Duration::from_secs(2),
            refused_retry_max: Duration::from_secs(10),
        }
    }
}

impl InstanceSettings {
    /// Where the server is, for logs.
    pub fn location(&self) -> String {
        match &self.sentinel {
            Some(sentinel) => format!("the primary `{}` of the Sentinels", sentinel.master),
            None => shown(&self.url),
        }
    }
}

impl fmt::Debug for InstanceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceSettings")
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
    fn secrets_are_never_shown() {
        let url = "rediss://bob:s3cret@h.example:1/0".to_owned();
        let debug = format!("{:?}", InstanceSettings { url, ..InstanceSettings::default() });
        assert!(!debug.contains("s3cret") && !debug.contains("bob"), "{debug}");
        assert!(debug.contains("rediss://h.example:1"), "{debug}");
    }
}

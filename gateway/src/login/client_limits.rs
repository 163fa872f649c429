//! Limits that belong to users and addresses.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::admission::{KeyedLimit, KeyedRate, Rate};
use crate::auth::ClientNetwork;

/// The configured limits (`[limits]`); `None`: unlimited.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientLimitSettings {
    /// Connections of one user.
    pub connections_per_user: Option<usize>,
    /// Failed logins of one address in a minute.
    pub failed_logins_per_minute: Option<usize>,
    /// Publications of one connection in a second.
    pub publishes_per_second: Option<usize>,
    /// Publications of one user in a second.
    pub publishes_per_second_per_user: Option<usize>,
}

/// The limits, with what counts against them. All hold on one node.
#[derive(Debug)]
pub struct ClientLimits {
    /// The connections of each user.
    pub connections_per_user: Arc<KeyedLimit<Box<str>>>,
    /// The failed logins of each address.
    pub failed_logins: KeyedRate<ClientNetwork>,
    /// The publications of each connection: its shard and its key there.
    pub publishes: KeyedRate<(usize, u64)>,
    /// The publications of each user.
    pub publishes_per_user: KeyedRate<Box<str>>,
}

impl ClientLimits {
    /// Limits with these settings.
    pub fn new(settings: ClientLimitSettings) -> Self {
        let rate =
            |count: Option<usize>, seconds| count.map(|count| Rate::new(count, Duration::from_secs(seconds)));
        Self {
            connections_per_user: KeyedLimit::new(settings.connections_per_user),
            failed_logins: KeyedRate::new(rate(settings.failed_logins_per_minute, 60)),
            publishes: KeyedRate::new(rate(settings.publishes_per_second, 1)),
            publishes_per_user: KeyedRate::new(rate(settings.publishes_per_second_per_user, 1)),
        }
    }

    /// Whether a client may publish now. `connection` is its shard and its key there; `user` is empty without a login.
    pub fn permit_publish(&self, connection: (usize, u64), user: &str) -> bool {
        let now = Instant::now();
        self.publishes.take(&connection, now)
            && (user.is_empty() || self.publishes_per_user.take(&user.into(), now))
    }
}

impl Default for ClientLimits {
    /// No limits.
    fn default() -> Self {
        Self::new(ClientLimitSettings::default())
    }
}

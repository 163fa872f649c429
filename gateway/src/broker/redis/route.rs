//! Where a subscriber link connects to.
//!
//! Owns the choice of the server, made anew at each attempt, and the hand-over that goes with each attempt. Must never
//! keep a connection.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;

use super::cluster::Cluster;
use super::cluster::bus::Bus;
use super::handover::Handover;
use super::settings::RedisSettings;
use crate::instance::{Dialer, Failure};

/// Where to connect to.
#[derive(Debug)]
pub(super) enum Route {
    /// One server, whatever is behind its name at the time.
    Server(Box<Dialer>),
    /// Any node of a cluster: each hears what is published at any other.
    Anywhere(Arc<Cluster>),
}

/// A connection that can be listened to.
pub(super) struct Line {
    pub(super) connection: MultiplexedConnection,
    pub(super) handover: Arc<Handover>,
    /// How the node heard the others before the first subscription; `None` where there are no others.
    pub(super) bus: Option<Bus>,
}

impl Route {
    /// One attempt.
    pub(super) async fn dial(&self, settings: &RedisSettings) -> Result<Line, Failure> {
        let handover = || Arc::new(Handover::new(settings));
        match self {
            Self::Server(dialer) => {
                let handover = handover();
                let connection = dialer.dial(handover.clone()).await?;
                Ok(Line { connection, handover, bus: None })
            }
            Self::Anywhere(cluster) => {
                let (_, connection, bus, handover) = cluster
                    .dial_any("subscriptions", |_| handover())
                    .await
                    .inspect_err(|_| cluster.doubt())?;
                Ok(Line { connection, handover, bus: Some(bus) })
            }
        }
    }
}

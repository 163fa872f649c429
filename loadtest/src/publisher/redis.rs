//! A blocking connection to Redis that pipelines plain `PUBLISH` commands. Nothing else is ever sent.

use redis::{Client, Connection};

use super::Outgoing;
use super::link::{PublishError, TIMEOUT};

/// An open connection.
pub(crate) struct RedisLink {
    connection: Connection,
}

impl std::fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisLink").finish_non_exhaustive()
    }
}

impl RedisLink {
    pub(super) fn open(url: &str) -> Result<Self, PublishError> {
        // `rediss://` panics without a provider; a second installation is refused, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let connection = Client::open(url)?.get_connection_with_timeout(TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        connection.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { connection })
    }

    pub(super) fn publish(&mut self, batch: &[Outgoing<'_>]) -> Result<(), PublishError> {
        let mut pipeline = redis::pipe();
        for message in batch {
            pipeline.publish(message.channel, &message.payload).ignore();
        }
        Ok(pipeline.exec(&mut self.connection)?)
    }
}

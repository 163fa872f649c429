//! Blocking connection to Redis that pipelines plain `PUBLISH` commands.

use redis::{Client, Connection};

use super::Outgoing;
use super::error::{IO_TIMEOUT, PublisherError};

/// An open connection.
pub(crate) struct RedisConnection {
    connection: Connection,
}

impl std::fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConnection").finish_non_exhaustive()
    }
}

impl RedisConnection {
    pub(super) fn open(url: &str) -> Result<Self, PublisherError> {
        // `rediss://` panics without a crypto provider. A second installation fails, which is harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let connection = Client::open(url)?.get_connection_with_timeout(IO_TIMEOUT)?;
        connection.set_read_timeout(Some(IO_TIMEOUT))?;
        connection.set_write_timeout(Some(IO_TIMEOUT))?;
        Ok(Self { connection })
    }

    pub(super) fn publish(&mut self, batch: &[Outgoing<'_>]) -> Result<(), PublisherError> {
        let mut pipeline = redis::pipe();
        for message in batch {
            pipeline.publish(message.channel, &message.payload).ignore();
        }
        Ok(pipeline.exec(&mut self.connection)?)
    }
}

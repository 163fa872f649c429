//! Reading push messages, for the micro-benchmarks. Must never be used by the gateway itself.

use redis::aio::AsyncPushSender;
use redis::{PushInfo, Value};

use super::receive_queue::{Dequeued, ReceiveQueue};
use super::settings::RedisSettings;
use crate::broker::BrokerMessage;

/// The receive queue of a subscriber link.
#[derive(Debug)]
pub struct PushReader(ReceiveQueue);

impl Default for PushReader {
    fn default() -> Self {
        Self(ReceiveQueue::new(&RedisSettings::default(), None))
    }
}

impl PushReader {
    /// Reads one push message in wire format. Returns `false` for anything else.
    pub fn read(&self, wire: &[u8]) -> bool {
        match redis::parse_redis_value(wire) {
            Ok(Value::Push { kind, data }) => self.0.send(PushInfo { kind, data }).is_ok(),
            _ => false,
        }
    }

    /// Takes up to `most` messages.
    pub fn take(&self, batch: &mut Vec<BrokerMessage>, most: usize) -> bool {
        matches!(self.0.dequeue(batch, most), Dequeued::Messages)
    }
}

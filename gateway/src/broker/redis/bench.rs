//! The way of a message from the wire into a batch, for the micro-benchmarks. Must never be used by the gateway itself.

use redis::aio::AsyncPushSender;
use redis::{PushInfo, Value};

use super::handover::{Handover, Taken};
use super::settings::RedisSettings;
use crate::broker::BrokerMessage;

/// What a subscriber link hears with.
#[derive(Debug)]
pub struct Hearing(Handover);

impl Default for Hearing {
    fn default() -> Self {
        Self(Handover::new(&RedisSettings::default(), None))
    }
}

impl Hearing {
    /// One push message as it stands on the wire; `false` when it is none.
    pub fn hear(&self, wire: &[u8]) -> bool {
        match redis::parse_redis_value(wire) {
            Ok(Value::Push { kind, data }) => self.0.send(PushInfo { kind, data }).is_ok(),
            _ => false,
        }
    }

    /// Takes up to `most` of what was heard.
    pub fn take(&self, batch: &mut Vec<BrokerMessage>, most: usize) -> bool {
        matches!(self.0.take(batch, most), Taken::Messages)
    }
}

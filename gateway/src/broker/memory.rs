//! The memory broker: what is published in this process is heard in this process.
//!
//! Owns nothing but the order of publications. Must never wait: the listener's calls are synchronous, and the lock
//! that orders them is never held across an await.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use earshot_protocol::ChannelName;

use super::{Attributes, BrokerEventHandler, BrokerMessage};

/// A broker without a server: each publication goes straight to the listener.
pub struct MemoryBroker {
    listener: Arc<dyn BrokerEventHandler>,
    /// Serialises the listener's calls.
    order: Mutex<()>,
}

impl MemoryBroker {
    /// A broker that delivers to `listener`.
    pub fn new(listener: Arc<dyn BrokerEventHandler>) -> Self {
        Self { listener, order: Mutex::default() }
    }

    /// Delivers one payload at once. The listener must not publish from within its call.
    pub fn publish(&self, channel: &ChannelName, data: Bytes, attributes: Attributes) {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.listener.on_message(BrokerMessage { channel: channel.as_str().to_owned(), data }, attributes);
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::TopicGap;
    use super::*;

    #[derive(Default)]
    struct Ear(Mutex<Vec<(String, Bytes, Attributes)>>);

    impl BrokerEventHandler for Ear {
        fn on_messages(&self, messages: &mut Vec<BrokerMessage>) {
            panic!("memory gives each publication with its attributes: {messages:?}");
        }

        fn on_message(&self, message: BrokerMessage, attributes: Attributes) {
            self.0.lock().unwrap().push((message.channel, message.data, attributes));
        }

        fn on_local_publish(&self, message: BrokerMessage) {
            panic!("memory is never away: {message:?}");
        }

        fn on_gap(&self, gap: TopicGap) {
            panic!("memory loses nothing: {gap:?}");
        }
    }

    #[test]
    fn delivers_at_once_in_order_and_untouched() {
        let ear = Arc::new(Ear::default());
        let broker = MemoryBroker::new(ear.clone());
        let channel = ChannelName::parse("news").unwrap();
        let payloads = [Bytes::from_static(b"1"), Bytes::new(), Bytes::from_static(b"\xff\0\r\n")];
        let attributes = Attributes::new(vec![("a".to_owned(), "b".to_owned())], None);
        for payload in &payloads {
            broker.publish(&channel, payload.clone(), attributes.clone());
        }
        let heard = ear.0.lock().unwrap();
        assert_eq!(*heard, payloads.map(|data| ("news".to_owned(), data, attributes.clone())));
    }
}

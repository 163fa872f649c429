//! The memory broker: publications stay within this process.
//!
//! Owns the order of publications. Must never wait: the handler's calls are synchronous, and the lock is never held
//! across an await.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use earshot_protocol::ChannelName;

use super::{Attributes, BrokerEventHandler, BrokerMessage};

/// A broker without a server: each publication goes directly to the handler.
pub struct MemoryBroker {
    handler: Arc<dyn BrokerEventHandler>,
    /// Serializes the calls of the handler.
    order: Mutex<()>,
}

impl MemoryBroker {
    /// Creates a broker that delivers to `handler`.
    pub fn new(handler: Arc<dyn BrokerEventHandler>) -> Self {
        Self { handler, order: Mutex::default() }
    }

    /// Delivers one payload immediately. The handler must not publish from within its call.
    pub fn publish(&self, channel: &ChannelName, data: Bytes, attributes: Attributes) {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.handler.on_message(BrokerMessage { channel: channel.as_str().to_owned(), data }, attributes);
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
    struct Recorder(Mutex<Vec<(String, Bytes, Attributes)>>);

    impl BrokerEventHandler for Recorder {
        fn on_messages(&self, messages: &mut Vec<BrokerMessage>) {
            panic!("on_messages called: {messages:?}");
        }

        fn on_message(&self, message: BrokerMessage, attributes: Attributes) {
            self.0.lock().unwrap().push((message.channel, message.data, attributes));
        }

        fn on_local_publish(&self, message: BrokerMessage) {
            panic!("on_local_publish called: {message:?}");
        }

        fn on_gap(&self, gap: TopicGap) {
            panic!("on_gap called: {gap:?}");
        }
    }

    #[test]
    fn delivers_immediately_in_order_and_unchanged() {
        let recorder = Arc::new(Recorder::default());
        let broker = MemoryBroker::new(recorder.clone());
        let channel = ChannelName::parse("news").unwrap();
        let payloads = [Bytes::from_static(b"1"), Bytes::new(), Bytes::from_static(b"\xff\0\r\n")];
        let attributes = Attributes::new(vec![("a".to_owned(), "b".to_owned())], None);
        for payload in &payloads {
            broker.publish(&channel, payload.clone(), attributes.clone());
        }
        let received = recorder.0.lock().unwrap();
        assert_eq!(*received, payloads.map(|data| ("news".to_owned(), data, attributes.clone())));
    }
}

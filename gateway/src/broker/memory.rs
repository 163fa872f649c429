//! The memory broker: publications stay within this process.
//!
//! Owns the order of publications. Must never wait: the handler's calls are synchronous, and the lock is never held
//! across an await.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use earshot_protocol::ChannelName;
use futures::future::BoxFuture;

use super::{
    Broker, BrokerError, BrokerEventHandler, BrokerMessage, BrokerReply, DeliveryScope, LinkStatus,
    PublishOptions, Topic, WhenUnavailable,
};

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
}

impl Broker for MemoryBroker {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn supports_attributes(&self) -> bool {
        true
    }

    fn links(&self) -> Vec<LinkStatus> {
        Vec::new()
    }

    fn subscribe<'a>(&'a self, _: &'a Topic, _: WhenUnavailable) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn unsubscribe(&self, _: &Topic) {}

    /// Delivers the payload immediately. The handler must not publish from within its call.
    fn publish(
        &self,
        channel: &ChannelName,
        data: Bytes,
        options: PublishOptions,
    ) -> BrokerReply<DeliveryScope> {
        {
            let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            let message = BrokerMessage { channel: channel.as_str().to_owned(), data };
            self.handler.on_message(message, options.attributes);
        }
        Box::pin(std::future::ready(Ok(DeliveryScope::AllNodes)))
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attributes, TopicGap};
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
            let options = PublishOptions {
                attributes: attributes.clone(),
                ..PublishOptions::new(WhenUnavailable::Reject)
            };
            drop(broker.publish(&channel, payload.clone(), options));
        }
        let received = recorder.0.lock().unwrap();
        assert_eq!(*received, payloads.map(|data| ("news".to_owned(), data, attributes.clone())));
    }
}

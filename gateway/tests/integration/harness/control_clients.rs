//! Two well-behaved clients on the same gateway as somebody who is not: after each misdeed they must still be heard.

use super::{Gateway, SseClient, WsClient};

/// The clients, and how often they were asked.
pub(crate) struct Neighbour {
    socket: WsClient,
    events: SseClient,
    asked: usize,
}

impl Neighbour {
    pub(crate) async fn of(gateway: &Gateway) -> Self {
        Self {
            socket: WsClient::open(gateway.address(), &["neighbour"]).await,
            events: SseClient::open(gateway.address(), "/sse/neighbour").await,
            asked: 0,
        }
    }

    /// The process lives, and a message still reaches both clients, the next one and nothing else.
    pub(crate) async fn notices_nothing(&mut self, gateway: &mut Gateway, after: &str) {
        gateway.assert_alive();
        self.asked += 1;
        let data = self.asked.to_string();
        gateway.publish("neighbour", &data).await;
        assert_eq!(self.socket.publication().await.data, data, "after {after}");
        assert_eq!(self.events.data("message").await, data, "after {after}");
    }
}

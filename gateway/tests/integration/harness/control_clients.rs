//! Two well-behaved clients on the gateway under attack. They verify that the gateway still serves others.

use super::{Gateway, SseClient, WsClient};

/// The clients, and the number of checks so far.
pub(crate) struct ControlClients {
    socket: WsClient,
    events: SseClient,
    checks: usize,
}

impl ControlClients {
    pub(crate) async fn connect(gateway: &Gateway) -> Self {
        Self {
            socket: WsClient::open(gateway.address(), &["control"]).await,
            events: SseClient::open(gateway.address(), "/sse/control").await,
            checks: 0,
        }
    }

    /// Asserts that the process is alive and that a publication reaches both clients, and nothing else does.
    pub(crate) async fn assert_unaffected(&mut self, gateway: &mut Gateway, after: &str) {
        gateway.assert_alive();
        self.checks += 1;
        let data = self.checks.to_string();
        gateway.publish("control", &data).await;
        assert_eq!(self.socket.publication().await.data, data, "after {after}");
        assert_eq!(self.events.data("message").await, data, "after {after}");
    }
}

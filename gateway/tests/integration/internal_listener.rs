//! `internal_listen`: the HTTP API, health and metrics move to their own listener.

use std::net::SocketAddr;

use crate::harness::process::free_port;
use crate::harness::{Gateway, SseClient, http};

#[tokio::test]
async fn internal_routes_are_served_only_by_the_internal_listener() {
    let port = free_port();
    let internal = SocketAddr::from(([127, 0, 0, 1], port));
    let config = format!("internal_listen = \"{internal}\"\n");
    let gateway = Gateway::settings().config(&config).start_unready().await;
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(http::fetch(internal, path).await.status, 200, "{path}");
        assert_eq!(gateway.fetch(path).await.status, 404, "{path}");
    }
    let mut events = SseClient::open(gateway.address(), "/sse/demo").await;
    let body = r#"{"channel":"demo","data":1}"#;
    assert_eq!(gateway.api("publish", body).await.status, 404);
    let published = http::post(internal, "/api/publish", &["content-type: application/json"], body).await;
    assert_eq!(published.status, 200);
    assert!(events.data("message").await.contains('1'));
    for path in ["/sse/demo", "/ws", "/"] {
        assert_eq!(http::fetch(internal, path).await.status, 404, "{path}");
    }
}

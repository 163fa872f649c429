//! `localhost` covers both address families: the gateway listens on whichever one a resolver returns.

use std::net::SocketAddr;

use crate::harness::{Gateway, Redis, SseClient, WsClient, http};

#[tokio::test]
async fn localhost_listens_on_both_families() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().redis(&redis).listen("localhost:{port}").start().await;
    let addresses = both(gateway.address().port());
    let mut sockets = Vec::new();
    let mut streams = Vec::new();
    for address in addresses {
        assert_eq!(http::fetch(address, "/health").await.status, 200, "{address}");
        sockets.push(WsClient::open(address, &["everywhere"]).await);
        streams.push(SseClient::open(address, "/sse/everywhere").await);
    }
    redis.publish("everywhere", b"1").await;
    for socket in &mut sockets {
        assert_eq!(socket.publication().await.data, "1");
    }
    for stream in &mut streams {
        assert_eq!(stream.data("message").await, "1");
    }
}

#[tokio::test]
async fn single_address_family_can_be_configured() {
    let gateway = Gateway::settings().listen("[::1]:{port}").start().await;
    let [v4, v6] = both(gateway.address().port());
    assert_eq!(gateway.address(), v6);
    assert!(http::try_fetch(v4, "/health").await.is_err(), "nothing listens on IPv4");
}

#[tokio::test]
async fn listen_address_is_read_from_environment_and_file() {
    for config in [true, false] {
        let port = crate::harness::process::free_port();
        let listen = format!("127.0.0.1:{port}");
        let settings = Gateway::settings().listen_from_config(port);
        let settings = if config {
            settings.config(&format!("listen = \"{listen}\"\n"))
        } else {
            settings.environment("EARSHOT_LISTEN", &listen)
        };
        assert_eq!(settings.start().await.address().port(), port);
    }
}

fn both(port: u16) -> [SocketAddr; 2] {
    [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::new("::1".parse().unwrap(), port)]
}

//! DNS rebinding: a page whose host name resolves to this machine cannot read from a gateway on loopback.

use std::net::SocketAddr;

use crate::harness::gateway::Settings;
use crate::harness::http::{Raw, Response};
use crate::harness::http2::Connection;
use crate::harness::nginx::Nginx;
use crate::harness::ws_frames::{KEY, VERSION};
use crate::harness::{Gateway, SseClient};

/// Every kind of request, as a page of `evil.example` sends it: same-origin, so without `Origin`.
const PATHS: [&str; 8] =
    ["/sse/a", "/sse?channel=a", "/health", "/ready", "/metrics", "/", "/nowhere", "/api/info"];

#[tokio::test]
async fn foreign_host_is_rejected_on_loopback() {
    for settings in [Gateway::settings(), open().environment("EARSHOT_API_KEY", "open-sesame")] {
        let gateway = settings.start().await;
        for path in PATHS {
            let rejected = get(gateway.address(), "evil.example:8000", path).await;
            assert_eq!(rejected.status, 421, "{path}: {rejected:?}");
            assert!(
                rejected.text().contains("evil.example") && rejected.text().contains("hosts"),
                "{rejected:?}"
            );
            let rejected = Connection::open(&gateway).await.get_with_authority("evil.example", path).await;
            assert_eq!(rejected.status(), 421, "{path} over HTTP/2");
        }
        let post = "POST /api/publish HTTP/1.1\r\nHost: evil.example\r\nX-API-Key: open-sesame\r\n\
                    Content-Length: 24\r\n\r\n{\"channel\":\"a\",\"data\":1}";
        assert_eq!(send(gateway.address(), post).await.status, 421);
        let origin = "Origin: http://evil.example";
        let socket = format!(
            "GET /ws HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{KEY}\r\n\
             {VERSION}\r\n{origin}\r\n\r\n"
        );
        assert_eq!(send(gateway.address(), &socket).await.status, 421);
        // On a keep-alive connection, and with the host in the request target.
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(raw.response().await.unwrap().status, 200);
        raw.send("GET /sse/a HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
        assert_eq!(raw.response().await.unwrap().status, 421);
        let absolute = "GET http://evil.example/sse/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(send(gateway.address(), absolute).await.status, 421);
    }
}

#[tokio::test]
async fn local_hosts_and_requests_without_host_are_accepted() {
    let gateway = open().start().await;
    for host in ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]", "10.0.2.2:8000", "app.localhost"] {
        assert_eq!(get(gateway.address(), host, "/health").await.status, 200, "{host}");
    }
    assert_eq!(send(gateway.address(), "GET /health HTTP/1.0\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn listed_host_from_a_proxy_is_accepted() {
    let config = "allowed_origins = [\"https://chat.example\"]\n";
    let gateway = open().config(config).start().await;
    let nginx = Nginx::before(gateway.address(), "proxy_set_header Host chat.example;").await;
    assert_eq!(get(([127, 0, 0, 1], nginx.port).into(), "anything.example", "/health").await.status, 200);
    SseClient::open(([127, 0, 0, 1], nginx.port).into(), "/sse/a").await;
    let config = "allowed_hosts = [\"live.example\"]\nallowed_origins = [\"https://chat.example\"]\n";
    let gateway = open().config(config).start().await;
    assert_eq!(get(gateway.address(), "live.example", "/health").await.status, 200);
    assert_eq!(
        get(gateway.address(), "chat.example", "/health").await.status,
        421,
        "only the hosts in `hosts`"
    );
}

#[tokio::test]
async fn wildcard_origin_does_not_disable_the_host_check() {
    let gateway = open().config("allowed_origins = [\"*\"]\n").start().await;
    for path in PATHS {
        let rejected = get(gateway.address(), "evil.example", path).await;
        assert_eq!(rejected.status, 421, "{path}: {rejected:?}");
        assert!(rejected.text().contains("\"*\" does not allow any host"), "{rejected:?}");
    }
    assert_eq!(get(gateway.address(), "localhost", "/health").await.status, 200);
}

#[tokio::test]
async fn other_listeners_accept_every_host_unless_configured() {
    let gateway = open().listen("0.0.0.0:{port}").start().await;
    assert_eq!(get(gateway.address(), "chat.example", "/sse/a").await.status, 200);
    let hosts = "allowed_hosts = \"chat.example\"\n";
    let gateway = open().listen("0.0.0.0:{port}").config(hosts).start().await;
    for (host, status) in [("chat.example", 200), ("127.0.0.1", 200), ("evil.example", 421)] {
        assert_eq!(get(gateway.address(), host, "/health").await.status, status, "{host}");
    }
}

#[tokio::test]
async fn cross_site_page_cannot_embed_a_stream_or_the_api() {
    let gateway = Gateway::start().await;
    for (site, status) in [("cross-site", 403), ("same-origin", 200), ("same-site", 200), ("none", 200)] {
        let line = format!("Host: localhost\r\nSec-Fetch-Site: {site}");
        let request = format!("GET /sse/a HTTP/1.1\r\n{line}\r\n\r\n");
        assert_eq!(head(gateway.address(), &request).await.status, status, "{site}");
        let body = r#"{"channel":"a","data":1}"#;
        let length = body.len();
        let call = format!("POST /api/publish HTTP/1.1\r\n{line}\r\nContent-Length: {length}\r\n\r\n{body}");
        assert_eq!(send(gateway.address(), &call).await.status, status, "{site}");
    }
}

/// Without `--dev`, with one open channel.
fn open() -> Settings {
    Gateway::settings().production().environment("EARSHOT_OPEN_CHANNELS", "a")
}

/// `GET` with a host; of a stream, only the head.
async fn get(address: SocketAddr, host: &str, path: &str) -> Response {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let stream = head(address, &request).await;
    if stream.status == 200 && path.starts_with("/sse") { stream } else { send(address, &request).await }
}

async fn send(address: SocketAddr, request: &str) -> Response {
    let mut raw = Raw::connect(address).await;
    raw.send(request).await;
    raw.response().await.unwrap()
}

async fn head(address: SocketAddr, request: &str) -> Response {
    let mut raw = Raw::connect(address).await;
    raw.send(request).await;
    raw.head().await.unwrap()
}

//! The addresses of clients behind trusted proxies: the limit on idle channels and the log use them.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::gateway::Settings;
use crate::harness::http::Raw;
use crate::harness::http2::Connection;
use crate::harness::nginx::Nginx;
use crate::harness::{Gateway, SseClient, WsClient, within_timeout, ws_frames};

/// Channels per request, and the idle channels that one address may leave behind.
const CHANNELS: usize = 128;

/// nginx connects from this address, and so do clients that take its part.
const PROXY: Ipv4Addr = Ipv4Addr::LOCALHOST;

const FORWARD: &str = "proxy_http_version 1.1; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; \
                       proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; \
                       proxy_buffering off;";

#[tokio::test]
async fn limit_applies_to_each_address_behind_a_proxy() {
    let gateway = trusting_the_proxy().start().await;
    let nginx = Nginx::before(gateway.address(), FORWARD).await;
    let address = SocketAddr::from((PROXY, nginx.port));
    let (one, other) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    // A different forged address each time.
    for number in 0..3 {
        let forged = format!("X-Forwarded-For: 203.0.113.{number}\r\n");
        leave_channels(connect_from(one, address).await, &format!("one-{number}"), &forged).await;
    }
    assert_idle_channels(&gateway, CHANNELS, 2 * CHANNELS).await;
    leave_channels(connect_from(other, address).await, "other", "").await;
    assert_idle_channels(&gateway, 2 * CHANNELS, 2 * CHANNELS).await;
    drop(WsClient::open_over(connect_from(other, address).await, &names("websocket")).await);
    assert_idle_channels(&gateway, 2 * CHANNELS, 3 * CHANNELS).await;
}

#[tokio::test]
async fn limit_applies_to_streams_that_hyper_carries() {
    let gateway = trusting_the_proxy().start().await;
    for number in 0..2 {
        let http2 = Connection::open(&gateway).await;
        let headers = [("x-forwarded-for", "203.0.113.1")];
        let answer = http2.get_with_headers(&path(&format!("http2-{number}")), &headers).await;
        assert_eq!(answer.status(), 200);
        gateway.wait_for_metric("earshot_subscriptions", &[], |count| count > 0.0).await;
        drop(answer);
    }
    assert_idle_channels(&gateway, CHANNELS, CHANNELS).await;
    for number in 0..2 {
        let mut raw = used_connection(&gateway).await;
        raw.send(request(&path(&format!("http1-{number}")), "X-Forwarded-For: 203.0.113.2\r\n")).await;
        assert_eq!(raw.head().await.unwrap().status, 200);
        raw.chunk().await.unwrap();
    }
    assert_idle_channels(&gateway, 2 * CHANNELS, 2 * CHANNELS).await;
    let lines = [ws_frames::KEY, ws_frames::VERSION, "X-Forwarded-For: 203.0.113.3"];
    for number in 0..2 {
        let mut raw = used_connection(&gateway).await;
        raw.send(ws_frames::handshake("/ws", &lines)).await;
        assert_eq!(raw.head().await.unwrap().status, 101);
        let names = names(&format!("websocket-{number}"));
        let subscriptions: serde_json::Map<_, _> = names.into_iter().map(|name| (name, json!({}))).collect();
        let connect = json!({ "id": 1, "connect": { "subs": subscriptions } });
        raw.send(ws_frames::frame(ws_frames::TEXT, connect.to_string().as_bytes())).await;
        assert!(within_timeout("the reply", raw.fill()).await.unwrap());
    }
    assert_idle_channels(&gateway, 3 * CHANNELS, 3 * CHANNELS).await;
}

#[tokio::test]
async fn header_of_an_untrusted_peer_is_ignored() {
    let peer = Ipv4Addr::new(127, 0, 0, 4);
    // Without trusted proxies, a loopback address may belong to a proxy, and the limit does not apply to it.
    for (settings, idle, evicted) in
        [(trusting_the_proxy(), CHANNELS, 2 * CHANNELS), (limited(""), 3 * CHANNELS, 0)]
    {
        let gateway = settings.start().await;
        for number in 0..3 {
            let forged = format!("X-Forwarded-For: 203.0.113.{number}\r\n");
            let stream = connect_from(peer, gateway.address()).await;
            leave_channels(stream, &number.to_string(), &forged).await;
        }
        assert_idle_channels(&gateway, idle, evicted).await;
    }
}

#[tokio::test]
async fn log_of_a_rejected_client_contains_its_address() {
    let gateway = trusting_the_proxy().start().await;
    let nginx = Nginx::before(gateway.address(), FORWARD).await;
    let client = connect_from(Ipv4Addr::new(127, 0, 0, 2), SocketAddr::from((PROXY, nginx.port))).await;
    let mut raw = Raw::over(client);
    raw.send(request("/sse/a", "Authorization: Bearer x\r\n")).await;
    assert_eq!(raw.head().await.unwrap().status, 401);
    gateway.wait_for_log(&["client rejected", "address=127.0.0.2", "peer=127.0.0.1:"]).await;
}

fn limited(top_level: &str) -> Settings {
    let limits = format!("[limits]\nidle_channels_per_address = {CHANNELS}\n");
    // Over HTTP/1.1, hyper detects a closed connection at the next write.
    let times = "[gateway]\nunsubscribe_delay = \"10m\"\n[sse]\nheartbeat = \"1s\"\n";
    let config = format!("{top_level}\n{times}{limits}");
    Gateway::settings().config(&config)
}

fn trusting_the_proxy() -> Settings {
    limited(&format!("trusted_proxies = [\"{PROXY}\"]"))
}

async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    within_timeout("connect", socket.connect(address)).await.unwrap()
}

/// A connection that has carried a request, so that hyper serves it.
async fn used_connection(gateway: &Gateway) -> Raw {
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.response().await.unwrap().status, 200);
    raw
}

fn names(prefix: &str) -> Vec<String> {
    (0..CHANNELS).map(|number| format!("{prefix}-{number}")).collect()
}

fn path(prefix: &str) -> String {
    let channels: Vec<String> = names(prefix).iter().map(|name| format!("channel={name}")).collect();
    format!("/sse?{}", channels.join("&"))
}

fn request(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
}

/// Subscribes to new channels, and disconnects.
async fn leave_channels(stream: TcpStream, prefix: &str, lines: &str) {
    drop(SseClient::open_with(Raw::over(stream), &path(prefix), lines).await);
}

async fn assert_idle_channels(gateway: &Gateway, idle: usize, evicted: usize) {
    let equals = |expected: usize| move |value: f64| (value - expected as f64).abs() < 0.5;
    let by_address = [r#"reason="address""#];
    gateway.wait_for_metric("earshot_subscriptions", &[], equals(0)).await;
    gateway.wait_for_metric("earshot_channels_evicted_total", &by_address, equals(evicted)).await;
    gateway.wait_for_metric("earshot_channels", &[], equals(idle)).await;
}

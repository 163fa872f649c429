//! Without `--dev` only what the configuration opens is open; with it, the gateway is only reachable from this machine.

use futures::StreamExt as _;
use serde_json::json;

use crate::harness::encoding::Encoding;
use crate::harness::nginx::Nginx;
use crate::harness::ws_frames::{self, RawWebSocket};
use crate::harness::{Gateway, Redis, SseClient, WsClient, http, until, within_timeout};

const PUBLISH: &str = r#"{"channel":"a","data":1}"#;

#[tokio::test]
async fn redis_url_alone_opens_no_channel() {
    let redis = Redis::start().await;
    for listen in ["127.0.0.1:{port}", "0.0.0.0:{port}"] {
        let gateway = Gateway::settings().redis(&redis).production().listen(listen).start().await;
        assert_eq!(gateway.fetch("/health").await.json()["cache"], "redis", "{listen}");
        assert_closed(&gateway).await;
    }
}

#[tokio::test]
async fn memory_broker_opens_no_channel() {
    let gateway = Gateway::settings().production().start().await;
    assert_closed(&gateway).await;
}

#[tokio::test]
async fn open_channels_variable_allows_subscribers() {
    let redis = Redis::start().await;
    let settings = Gateway::settings().redis(&redis).production();
    let gateway = settings.environment("EARSHOT_OPEN_CHANNELS", "web-signals,jobs:*").start().await;
    let mut socket = WsClient::open(gateway.address(), &["web-signals", "jobs:1"]).await;
    let mut stream = SseClient::open(gateway.address(), "/sse/jobs:1").await;
    redis.publish("jobs:1", b"7").await;
    assert_eq!(stream.data("message").await, "7");
    for (channel, code) in [("web-signals", 103), ("jobs:1", 103), ("web-signals2", 102)] {
        let reply = socket.request("publish", json!({ "channel": channel, "data": 1 })).await;
        assert_eq!(reply["error"]["code"], code, "{channel}: {reply}");
    }
    assert_eq!(http::fetch(gateway.address(), "/sse/other").await.status, 404);
    assert_eq!(gateway.api("publish", PUBLISH).await.status, 403);
    assert!(!gateway.process.log().contains("EARSHOT_OPEN_CHANNELS="), "{}", gateway.process.log());
}

#[tokio::test]
async fn local_proxy_does_not_open_the_api() {
    let settings = Gateway::settings().production().environment("EARSHOT_OPEN_CHANNELS", "a");
    let gateway = settings.start().await;
    let nginx = Nginx::before(gateway.address(), "").await;
    let proxy_address = std::net::SocketAddr::from(([127, 0, 0, 1], nginx.port));
    for method in ["publish", "info"] {
        let response = http::post(proxy_address, &format!("/api/{method}"), &[], PUBLISH).await;
        assert_eq!(response.status, 403, "{method}: {response:?}");
        assert!(response.text().contains("EARSHOT_API_KEY"), "{response:?}");
    }
}

#[tokio::test]
async fn development_mode_opens_everything_with_one_warning() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    let reply = socket.request("publish", json!({ "channel": "a", "data": 1 })).await;
    assert!(reply.get("error").is_none(), "{reply}");
    let page = ["Origin: http://localhost:3000"];
    assert_eq!(http::post(gateway.address(), "/api/publish", &page, PUBLISH).await.status, 200);
    let mut raw = http::Raw::connect(gateway.address()).await;
    raw.send(format!("GET /sse/a HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n", page[0])).await;
    let head = raw.head().await.unwrap();
    let allowed = head.header("access-control-allow-origin");
    assert_eq!((head.status, allowed), (200, Some("http://localhost:3000")));
    assert_eq!(gateway.fetch("/").await.status, 200, "the page");
    gateway.wait_for_log(&["--dev"]).await;
    let log = gateway.process.log();
    assert_eq!(warnings(&log), 1, "{log}");
}

#[tokio::test]
async fn development_mode_requires_a_loopback_listener() {
    for listen in ["0.0.0.0:{port}", ":{port}"] {
        let mut process = Gateway::settings().listen(listen).run();
        let status = within_timeout("the process exits", process.wait_for_exit()).await;
        assert_eq!(status.code(), Some(2), "{listen}");
        let log = process.log();
        assert!(log.contains("--listen: ") && log.contains("--dev") && log.contains("localhost"), "{log}");
    }
}

#[tokio::test]
async fn protected_channels_require_their_exact_name() {
    let redis = Redis::start().await;
    redis.run(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]).await;
    let protected = [
        "celery.pidbox",
        "/0.celery.pidbox",
        "/0.celeryev/worker.heartbeat",
        "__keyspace@0__:sess:1",
        "__keyevent@0__:set",
        "bull:mail:events",
        "earshot:probe:default",
    ];
    let everything = || Gateway::settings().redis(&redis);
    for settings in [everything(), everything().production().environment("EARSHOT_OPEN_CHANNELS", "*")] {
        let gateway = settings.environment("EARSHOT_API_KEY", "open-sesame").start().await;
        let mut pidbox = redis::Client::open(redis.url()).unwrap().get_async_pubsub().await.unwrap();
        pidbox.subscribe("celery.pidbox").await.unwrap();
        let mut socket = WsClient::open(gateway.address(), &["usual"]).await;
        for channel in protected {
            for method in ["subscribe", "publish", "history"] {
                let mut body = json!({ "channel": channel });
                if method == "publish" {
                    body["data"] = json!({ "method": "shutdown" });
                }
                let reply = socket.request(method, body).await;
                assert_eq!(reply["error"]["code"], 102, "{method} {channel}: {reply}");
            }
            let path = format!("/sse?channel=usual&channel={}", channel.replace('/', "%2F"));
            assert_eq!(gateway.fetch(&path).await.status, 404, "{channel}");
            let body = json!({ "channel": channel, "data": 1 }).to_string();
            let key = ["X-API-Key: open-sesame"];
            let response = http::post(gateway.address(), "/api/publish", &key, &body).await.json();
            assert_eq!(response["error"]["code"], 102, "{channel}: {response}");
        }
        // The first message proves that nothing was published before.
        redis.publish("celery.pidbox", b"by its owner").await;
        let first = within_timeout("a command to the worker", pidbox.on_message().next()).await.unwrap();
        assert_eq!(first.get_payload::<String>().unwrap(), "by its owner");
    }
    let exact = "[[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\n\n\
                 [[namespace]]\nname = \"keys\"\nchannels = [\"__keyevent@0__:set\"]\nsubscribe = \"anyone\"\n";
    let gateway = everything().config(exact).start().await;
    let mut stream = SseClient::open(gateway.address(), "/sse/__keyevent@0__:set").await;
    redis.run(&["SET", "k", "1"]).await;
    assert_eq!(stream.data("message").await, "k");
}

/// Asserts that every entry point is closed and that the log names the settings that open it.
async fn assert_closed(gateway: &Gateway) {
    let no_channels: [&str; 0] = [];
    let mut socket = WsClient::open(gateway.address(), &no_channels).await;
    let data = json!({ "channel": "a", "data": 1 });
    let channel = json!({ "channel": "a" });
    for (method, body) in [("subscribe", &channel), ("publish", &data), ("history", &channel)] {
        let reply = socket.request(method, body.clone()).await;
        assert_eq!(reply["error"]["code"], 102, "{method}: {reply}");
    }
    assert_eq!(http::fetch(gateway.address(), "/sse/a").await.status, 404);
    for method in ["publish", "info"] {
        let response = gateway.api(method, PUBLISH).await;
        assert_eq!(response.status, 403, "{method}: {response:?}");
        let text = response.text();
        for word in ["EARSHOT_API_KEY", "[api]", "--dev"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    assert_eq!(http::fetch(gateway.address(), "/").await.status, 404, "the page is not served");
    let settings = ["EARSHOT_OPEN_CHANNELS=", "EARSHOT_API_KEY=", "EARSHOT_ALLOWED_ORIGINS="];
    gateway.wait_for_log(&settings).await;
    let log = gateway.process.log();
    for line in settings {
        assert_eq!(log.lines().filter(|logged| logged.starts_with(line)).count(), 1, "{line}: {log}");
    }
    assert_eq!(warnings(&log), 1, "{log}");
}

/// Counts warnings in a log, without those about the Redis server of the test and about rejected clients.
fn warnings(log: &str) -> usize {
    log.lines()
        .filter(|line| {
            line.contains("WARN")
                && !["Redis: ", "client rejected: "].iter().any(|other| line.contains(other))
        })
        .count()
}

/// With its own gateway, because the line is logged at most once in ten seconds.
#[tokio::test]
async fn rejected_stream_token_is_logged() {
    let gateway = Gateway::start().await;
    let mut raw = http::Raw::connect(gateway.address()).await;
    raw.send("GET /sse/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x.y.z\r\n\r\n").await;
    assert_eq!(raw.response().await.unwrap().status, 401);
    until("the rejection is logged", async || {
        gateway.process.log().contains("a token was sent").then_some(())
    })
    .await;
    assert!(!gateway.process.log().contains("x.y.z"));
}

#[tokio::test]
async fn rejections_are_logged_with_reason_peer_origin_and_channel() {
    let gateway = Gateway::settings().production().start().await;
    let address = gateway.address();
    let mut stream = http::Raw::connect(address).await;
    stream.send("GET /sse/unknown-room HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(stream.response().await.unwrap().status, 404);
    let mut socket = http::Raw::connect(address).await;
    let origin = "Origin: https://other.example";
    socket.send(ws_frames::handshake("/ws", &[ws_frames::KEY, ws_frames::VERSION, origin])).await;
    assert_eq!(socket.head().await.unwrap().status, 101);
    assert_eq!(gateway.api("info", "{}").await.status, 403);
    gateway.wait_for_log(&["no namespace matches this channel", "unknown-room"]).await;
    gateway.wait_for_log(&["this origin is not allowed", "https://other.example"]).await;
    gateway.wait_for_log(&["no API key is configured", "peer", "127.0.0.1:"]).await;
}

#[tokio::test]
async fn token_without_configured_login_is_rejected_everywhere() {
    for settings in [Gateway::settings(), Gateway::settings().production()] {
        let gateway = settings.environment("EARSHOT_OPEN_CHANNELS", "a").start().await;
        let address = gateway.address();
        for connect in [r#"{"token":"x.y.z"}"#, r#"{"headers":{"Authorization":"Bearer x.y.z"}}"#] {
            let mut raw = RawWebSocket::open(address).await;
            raw.text(&format!(r#"{{"id":1,"connect":{connect}}}"#)).await;
            assert_eq!(raw.close().await, Some((3500, "invalid token".to_owned())), "{connect}");
        }
        let mut socket = WsClient::connect(address, Encoding::Json).await;
        let reply = socket.request("subscribe", json!({ "channel": "a", "token": "x.y.z" })).await;
        assert_eq!(reply["error"]["code"], 103, "{reply}");
        for (path, line) in [("/ws", "Authorization: Bearer x.y.z"), ("/ws?token=x.y.z", "A: b")] {
            let mut raw = RawWebSocket::open_with(address, path, &[line]).await;
            assert_eq!(raw.close().await, Some((3500, "invalid token".to_owned())), "{path} {line}");
        }
        for (path, line) in [
            ("/sse/a", "Authorization: Bearer x.y.z"),
            ("/sse/a?token=x.y.z", "A: b"),
            ("/sse/a?ticket=x.y.z", "A: b"),
        ] {
            let mut raw = http::Raw::connect(address).await;
            raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n")).await;
            let rejected = raw.response().await.unwrap();
            assert_eq!(rejected.status, 401, "{path} {line}");
            assert!(rejected.text().contains("no [[login]] is configured"), "{rejected:?}");
        }
        gateway.wait_for_log(&["a token was sent", "no [[login]] is configured"]).await;
        let log = gateway.process.log();
        assert!(!log.contains("x.y.z"), "{log}");
        assert_eq!(log.matches("a token was sent").count(), 1, "one line in ten seconds: {log}");
    }
}

//! The HTTP API, compatible with Centrifugo's server API: methods, authorization, and status endpoints.

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};

use crate::harness::http2::Connection;
use crate::harness::{Gateway, Redis, SseClient, WsClient, http, until, within_timeout};

#[tokio::test]
async fn publish_delivers_the_payload_unchanged() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let mut socket = WsClient::open(gateway.address(), &["web-signals"]).await;
    let mut events = SseClient::open(gateway.address(), "/sse/web-signals").await;
    let data = r#"{"b" : 1.0,"a":[1e3,"\u00e9"]}"#;
    let body = format!(r#"{{"channel":"web-signals","data":{data}}}"#);
    let answer = gateway.api("publish", &body).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"result": {}})));
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json")));
    assert_eq!(socket.publication().await.data, data);
    assert_eq!(events.data("message").await, data);
}

#[tokio::test]
async fn broadcast_reaches_every_channel_and_responds_for_each() {
    let gateway = Gateway::start().await;
    let mut socket = WsClient::open(gateway.address(), &["a", "b"]).await;
    let answer = gateway.api("broadcast", r#"{"channels":["a","b"],"data":{"n":1}}"#).await.json();
    assert_eq!(answer, json!({"result": {"responses": [{"result": {}}, {"result": {}}]}}));
    let mut received = [socket.publication().await.channel, socket.publication().await.channel];
    received.sort();
    assert_eq!(received, ["a", "b"]);
    let mixed = gateway.api("broadcast", r#"{"channels":["a",""],"data":1}"#).await.json();
    assert_eq!(mixed["result"]["responses"][0], json!({"result": {}}), "{mixed}");
    assert_eq!(mixed["result"]["responses"][1]["error"]["code"], 107, "{mixed}");
}

#[tokio::test]
async fn null_is_a_valid_payload() {
    let gateway = Gateway::start().await;
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    for body in [r#"{"channel":"a","data":null}"#, r#"{"channel":"a","b64data":"bnVsbA=="}"#] {
        assert_eq!(gateway.api("publish", body).await.json(), json!({"result": {}}));
        assert_eq!(socket.publication().await.data, "null");
    }
    let reply = socket.request("publish", json!({"channel": "a", "data": null})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    assert_eq!(socket.publication().await.data, "null");
}

#[tokio::test]
async fn history_returns_payloads_byte_for_byte() {
    let gateway = Gateway::start().await;
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    let data = r#"{"z":1.10,"a":1E2,"a":[12345678901234567890123,"\u00e9\/"], "b" : null}"#;
    gateway.publish("a", data).await;
    socket.publication().await;
    let answer = gateway.api("history", r#"{"channel":"a","limit":1}"#).await.text();
    assert!(answer.contains(&format!(r#"{{"data":{data},"offset":1}}"#)), "{answer}");
}

#[tokio::test]
async fn channels_counts_subscribers_and_info_describes_the_node() {
    let gateway = Gateway::start().await;
    let socket = WsClient::open(gateway.address(), &["room:1", "other"]).await;
    let events = SseClient::open(gateway.address(), "/sse/room:1").await;
    let all = json!({"result": {"channels": {"room:1": {"num_clients": 2}, "other": {"num_clients": 1}}}});
    until("both clients are counted", async || {
        (gateway.api("channels", "{}").await.json() == all).then_some(())
    })
    .await;
    let some = gateway.api("channels", r#"{"pattern":"room:*"}"#).await.json();
    assert_eq!(some, json!({"result": {"channels": {"room:1": {"num_clients": 2}}}}));

    let info = until("info counts clients and channels", async || {
        let info = gateway.api("info", "{}").await.json();
        let node = &info["result"]["nodes"][0];
        (node["num_clients"] == 2 && node["num_channels"] == 2).then_some(info)
    })
    .await;
    let node = &info["result"]["nodes"][0];
    for text in ["uid", "name", "version"] {
        assert!(node[text].as_str().is_some_and(|text| !text.is_empty()), "{text}: {info}");
    }
    drop((socket, events));
    until("no client is counted", async || {
        let info = gateway.api("info", "{}").await.json();
        let left = info["result"]["nodes"][0].get("num_clients").and_then(Value::as_u64).unwrap_or(0);
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn invalid_request_is_an_error_with_code_and_message() {
    let config = "[[namespace]]\nname = \"web\"\nchannels = [\"web-*\"]\nsubscribe = \"anyone\"\n";
    let gateway = Gateway::settings().config(config).start().await;
    let rows = [
        ("publish", r#"{"channel":"","data":1}"#, 107),
        ("publish", r#"{"data":1}"#, 107),
        ("publish", "not JSON", 107),
        ("publish", "", 107),
        ("publish", r#"{"channel":"web-1"}"#, 107),
        ("publish", r#"{"channel":"elsewhere","data":1}"#, 102),
        ("broadcast", r#"{"channels":[],"data":1}"#, 107),
        ("publish", r#"{"channel":"web-1","data":1,"b64data":"MQ=="}"#, 107),
        ("publish", r#"{"channel":"web-1","data":1,"delta":true}"#, 108),
        ("publish", r#"{"channel":"web-1","data":1,"skip_history":true}"#, 108),
        ("publish", r#"{"channel":"web-1","data":1,"version":7}"#, 108),
        ("publish", r#"{"channel":"web-1","data":1,"version_epoch":"a"}"#, 108),
        ("broadcast", r#"{"channels":["web-1"],"data":1,"version":7}"#, 108),
    ];
    for (method, body, code) in rows {
        let answer = gateway.api(method, body).await;
        assert_eq!(answer.status, 200, "{method} {body}");
        let error = &answer.json()["error"];
        assert_eq!(error["code"], code, "{method} {body}: {error}");
        let message = [(102, "unknown channel"), (107, "bad request"), (108, "not available")]
            .into_iter()
            .find_map(|(number, message)| (number == code).then_some(message));
        assert_eq!(error["message"].as_str(), message, "clients match the message of the protocol: {error}");
        assert!(error["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{error}");
    }
    let unknown = gateway.api("fly", "{}").await;
    assert_eq!((unknown.status, &unknown.json()["error"]["message"]), (404, &json!("method not found")));
    let too_long = format!(r#"{{"channel":"web-1","data":"{}"}}"#, "x".repeat(3 << 20));
    assert_eq!(gateway.api("publish", &too_long).await.status, 413);
}

#[tokio::test]
async fn configured_api_key_is_required() {
    let gateway = Gateway::settings().config("[api]\nkey = \"open-sesame-0123456789\"\n").start().await;
    let body = r#"{"channel":"a","data":1}"#;
    let rows: [(&[&str], u16); 7] = [
        (&[], 401),
        (&["X-API-Key: wrong"], 401),
        (&["Authorization: apikey open-sesame"], 401),
        (&["Authorization: Bearer open-sesame-0123456789"], 401),
        (&["X-API-Key: open-sesame-0123456789"], 200),
        (&["Authorization: apikey open-sesame-0123456789"], 200),
        (&["Authorization: Basic YTpi", "X-API-Key: open-sesame-0123456789"], 200),
    ];
    let in_query = [
        ("?api_key=open-sesame-0123456789", 200),
        ("?a=b&api_key=open%2Dsesame%2D0123456789", 200),
        ("?api_key=open-sesame", 401),
        ("?api_key=", 401),
        ("?api_key=%0a", 401),
    ];
    for (query, status) in in_query {
        let answer = http::post(gateway.address(), &format!("/api/publish{query}"), &[], body).await;
        assert_eq!(answer.status, status, "{query}");
    }
    let rejected = http::post(gateway.address(), "/api/publish", &[], body).await.json();
    assert_eq!(
        (&rejected["error"]["code"], &rejected["error"]["message"]),
        (&json!(101), &json!("unauthorized"))
    );
    for (headers, status) in rows {
        let answer = http::post(gateway.address(), "/api/publish", headers, body).await;
        assert_eq!(answer.status, status, "{headers:?}");
    }
    assert!(!gateway.process.log().contains("sesame"), "the key is in the log");
}

#[tokio::test]
async fn cross_site_page_cannot_use_the_keyless_api() {
    let gateway = Gateway::start().await;
    let body = r#"{"channel":"a","data":1}"#;
    let foreign =
        http::post(gateway.address(), "/api/publish", &["Origin: https://evil.example"], body).await;
    assert_eq!(foreign.status, 403);
    let own = format!("Origin: http://{}", gateway.address());
    assert_eq!(http::post(gateway.address(), "/api/publish", &[&own], body).await.status, 200);
}

#[tokio::test]
async fn health_ready_and_metrics_report_the_state() {
    let gateway = Gateway::start().await;
    let _socket = WsClient::open(gateway.address(), &["a"]).await;
    let _events = SseClient::open(gateway.address(), "/sse/a").await;
    let health = gateway.fetch("/health").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("ok")));
    assert_eq!(health.json()["cache"], "memory");
    assert_eq!(gateway.fetch("/ready").await.status, 200);
    gateway.publish("a", "1").await;
    until("the counters are updated", async || {
        let page = gateway.fetch("/metrics").await;
        assert!(page.header("content-type").is_some_and(|kind| kind.contains("text")), "{page:?}");
        let counted = [
            gateway.metric("earshot_connections", &[r#"transport="websocket""#]).await,
            gateway.metric("earshot_connections", &[r#"transport="sse""#]).await,
            gateway.metric("earshot_messages_total", &[]).await,
            gateway.metric("earshot_deliveries_total", &[]).await,
        ];
        (counted == [1.0, 1.0, 1.0, 2.0]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn development_mode_serves_the_page() {
    let gateway = Gateway::start().await;
    let page = gateway.fetch("/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
}

#[tokio::test]
async fn secrets_of_a_redis_url_are_never_shown() {
    let mut redis = Redis::start().await;
    redis.kill();
    let url = redis.url().replace("redis://", "redis://app:hunter2-hunter2@");
    let gateway = Gateway::settings().environment("REDIS_URL", &url).start_unready().await;
    let health = gateway.fetch("/health").await.text();
    let metrics = gateway.fetch("/metrics").await.text();
    let ready = gateway.fetch("/ready").await.text();
    for text in [health, metrics, ready, gateway.process.log()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn bodies_of_concurrent_requests_are_bounded_together() {
    const LAST: usize = (1 << 20) - 1;
    let config =
        "[limits]\npublication_bytes = \"64KiB\"\napi_body_bytes = \"1MiB\"\napi_buffer_bytes = \"2MiB\"\n";
    let gateway = Gateway::settings().config(config).start().await;
    let connection = Connection::open(&gateway).await;
    let padding = " ".repeat(1 << 20);
    let body = Bytes::from(format!(r#"{{"channel":"a","data":1}}{padding}"#)).slice(..=LAST);
    let (mut answers, mut bodies) = (FuturesUnordered::new(), Vec::new());
    for number in 0..4 {
        let (answer, mut sender) = connection.begin_post("/api/publish").await;
        sender.send_data(body.slice(..LAST), false).unwrap();
        answers.push(async move { (number, answer.await.unwrap()) });
        bodies.push(sender);
    }
    // Two bodies fit, in whatever order their parts arrive; none of them is complete.
    let mut rejected = Vec::new();
    for _ in 0..2 {
        let (number, answer) = within_timeout("a rejection", answers.next()).await.unwrap();
        assert_eq!(answer.status(), 429);
        let text = within_timeout("its reason", answer.into_body().data()).await.unwrap().unwrap();
        let error = serde_json::from_slice::<Value>(&text).unwrap()["error"].take();
        assert!(error["code"] == 111 && error["detail"].to_string().contains("api_buffer_bytes"), "{error}");
        rejected.push(number);
    }
    let accepted = (0..4).filter(|number| !rejected.contains(number));
    accepted.for_each(|number| bodies[number].send_data(body.slice(LAST..), true).unwrap());
    for _ in 0..2 {
        assert_eq!(within_timeout("an answer", answers.next()).await.unwrap().1.status(), 200);
    }
    gateway.wait_for_metric("earshot_api_requests_rejected_total", &[], |rejected| rejected == 2.0).await;
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!(gateway.api("publish", &body).await.json(), json!({"result": {}}), "the buffer is free again");
}

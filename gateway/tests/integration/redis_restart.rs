//! A Redis restart: no client is disconnected, readiness reflects the state, and every channel is subscribed again.

use std::collections::BTreeSet;

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::ws::Incoming;
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive, until};

const SOCKETS: usize = 200;
const CHANNELS_EACH: usize = 100;
const CHANNELS: usize = SOCKETS * CHANNELS_EACH;

/// A socket, and the number that selects its channels.
type Numbered = (usize, WsClient);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_channels_are_resubscribed_after_a_crash() {
    let _exclusive = exclusive().await;
    let mut redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let mut sockets = Vec::new();
    for socket in 0..SOCKETS {
        sockets.push((socket, WsClient::open(gateway.address(), &channels(socket)).await));
    }
    until("every subscription is active", async || {
        (active_subscriptions(&gateway).await == CHANNELS).then_some(())
    })
    .await;
    sockets = receive_everything(&redis, sockets, "before").await;

    redis.kill();
    gateway.wait_for_ready_status(503).await;
    assert_eq!(gateway.fetch("/health").await.status, 200, "alive, although not ready");
    redis.restart().await;
    gateway.wait_for_ready_status(200).await;
    assert_eq!(
        active_subscriptions(&gateway).await,
        CHANNELS,
        "ready requires every subscription to be active"
    );
    let mut resubscribing = JoinSet::new();
    for (number, mut socket) in sockets {
        resubscribing.spawn(async move {
            socket.resubscribe_after_gaps(CHANNELS_EACH).await;
            (number, socket)
        });
    }
    let sockets = resubscribing.join_all().await;
    receive_everything(&redis, sockets, "after").await;
}

#[tokio::test]
async fn streams_stay_open_during_an_outage_and_receive_a_gap_event() {
    let mut redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let mut events = SseClient::open(gateway.address(), "/sse/web-signals").await;
    redis.publish("web-signals", b"1").await;
    assert_eq!(events.data("message").await, "1");

    redis.kill();
    gateway.wait_for_ready_status(503).await;
    redis.restart().await;
    gateway.wait_for_ready_status(200).await;
    redis.publish("web-signals", b"2").await;
    let gap: serde_json::Value = serde_json::from_str(&events.data("gap").await).unwrap();
    assert_eq!(gap["channel"], "web-signals");
    assert_eq!(gap["reason"], "link-down");
    assert_eq!(events.data("message").await, "2");
}

#[tokio::test]
async fn health_is_degraded_during_an_outage() {
    let mut redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let health = gateway.fetch("/health").await.json();
    assert_eq!((&health["cache"], &health["status"]), (&"redis".into(), &"ok".into()), "{health}");
    redis.kill();
    until("/health reports degraded", async || {
        let answer = gateway.fetch("/health").await;
        assert_eq!(answer.status, 200);
        (answer.json()["status"] == "degraded").then_some(())
    })
    .await;
    redis.restart().await;
    until("/health reports ok", async || {
        (gateway.fetch("/health").await.json()["status"] == "ok").then_some(())
    })
    .await;
}

#[tokio::test]
async fn gateway_started_before_redis_becomes_ready() {
    let mut redis = Redis::start().await;
    redis.kill();
    let gateway = Gateway::settings().redis(&redis).start_unready().await;
    assert_eq!(gateway.fetch("/ready").await.status, 503);
    redis.restart().await;
    gateway.wait_for_ready_status(200).await;
    let mut socket = WsClient::open(gateway.address(), &["late"]).await;
    redis.publish("late", b"1").await;
    assert_eq!(socket.publication().await.data, "1");
}

#[tokio::test]
async fn channel_without_subscribers_is_unsubscribed_at_redis() {
    let redis = Redis::start().await;
    let config = "[gateway]\nunsubscribe_delay = \"1s\"\n\n[[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\n\
                  history = { size = 0 }\n";
    let gateway = Gateway::settings().config(config).redis(&redis).start().await;
    let mut socket = WsClient::open(gateway.address(), &["brief", "kept"]).await;
    assert_eq!(redis.publish("brief", b"1").await, 1);
    assert_eq!(socket.publication().await.data, "1");
    let reply = socket.request("unsubscribe", json!({ "channel": "brief" })).await;
    assert!(reply["unsubscribe"].is_object(), "{reply}");
    until("Redis has no subscriber of the channel", async || {
        (redis.publish("brief", b"2").await == 0).then_some(())
    })
    .await;
    assert_eq!(redis.publish("kept", b"3").await, 1);
    assert_eq!(socket.publication().await.data, "3");
}

#[tokio::test]
async fn hanging_redis_is_detected() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    redis.signal("STOP");
    until("both links are known to be down", async || {
        let health = gateway.fetch("/health").await.json();
        let links = health["links"].as_array().cloned().unwrap_or_default();
        links.iter().all(|link| link["up"] == false).then_some(())
    })
    .await;
    redis.signal("CONT");
    gateway.wait_for_ready_status(200).await;
    socket.resubscribe_after_gaps(1).await;
    redis.publish("a", b"1").await;
    assert_eq!(socket.publication().await.data, "1");
}

#[tokio::test]
async fn requests_during_an_outage_fail_with_a_temporary_error() {
    let mut redis = Redis::start().await;
    let config = "[redis.default]\nurl = \"redis://127.0.0.1:1\"\ncommand_timeout = \"1s\"\n\n[[namespace]]\n\
                  name = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\npublish = \"anyone\"\nwhen_redis_down = \"reject\"\n";
    let gateway = Gateway::settings().config(config).redis(&redis).start().await;
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    redis.kill();
    gateway.wait_for_ready_status(503).await;
    for (method, body) in
        [("publish", json!({"channel": "a", "data": 1})), ("subscribe", json!({"channel": "b"}))]
    {
        let reply = socket.request(method, body).await;
        assert_eq!(
            (&reply["error"]["code"], &reply["error"]["temporary"]),
            (&json!(100), &json!(true)),
            "{reply}"
        );
    }
    let answer = gateway.api("publish", r#"{"channel":"a","data":1}"#).await.json();
    assert_eq!(answer["error"]["code"], 100, "{answer}");

    redis.restart().await;
    gateway.wait_for_ready_status(200).await;
    socket.resubscribe_after_gaps(1).await;
    assert!(socket.request("subscribe", json!({"channel": "b"})).await.get("error").is_none());
    assert!(socket.request("publish", json!({"channel": "b", "data": 2})).await.get("error").is_none());
    assert_eq!(socket.publication().await.data, "2", "a failed publication is not published later");
}

fn channels(socket: usize) -> Vec<String> {
    (0..CHANNELS_EACH).map(|number| format!("session:{socket}:{number}")).collect()
}

async fn active_subscriptions(gateway: &Gateway) -> usize {
    gateway.metric("earshot_redis_subscriptions", &[r#"state="active""#]).await as usize
}

/// Publishes once to every channel; each socket must receive exactly its own messages and stay open.
async fn receive_everything(redis: &Redis, sockets: Vec<Numbered>, text: &str) -> Vec<Numbered> {
    let payload = format!("{text:?}");
    let mut receivers = JoinSet::new();
    for (number, mut socket) in sockets {
        let payload = payload.clone();
        receivers.spawn(async move {
            receive_each_once(&mut socket, number, &payload).await;
            (number, socket)
        });
    }
    let names: Vec<String> = (0..SOCKETS).flat_map(channels).collect();
    redis.publish_all(names.iter().map(|name| (name.as_str(), payload.as_bytes()))).await;
    receivers.join_all().await
}

async fn receive_each_once(socket: &mut WsClient, number: usize, payload: &str) {
    let mut missing: BTreeSet<String> = channels(number).into_iter().collect();
    while !missing.is_empty() {
        match socket.next().await {
            Incoming::Publication(publication) => {
                assert_eq!(publication.data, payload);
                assert!(missing.remove(&publication.channel), "duplicate or not subscribed: {publication:?}");
            }
            other => panic!("socket {number}, {} channels missing: {other:?}", missing.len()),
        }
    }
}

#[tokio::test]
async fn probes_prevent_the_idle_timeout_of_the_server() {
    const IDLE: u64 = 5;
    let redis = Redis::start_with_arguments(&["--timeout", &IDLE.to_string()]).await;
    let gateway = Gateway::on(&redis).await;
    let mut socket = WsClient::open(gateway.address(), &["quiet"]).await;
    let mut connection = redis.connection().await;
    until("the idle timeout has passed twice", async || {
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await.unwrap();
        let uptime = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:")).unwrap();
        (uptime.trim().parse::<u64>().unwrap() > 2 * IDLE).then_some(())
    })
    .await;
    redis.publish("quiet", b"1").await;
    assert_eq!(socket.publication().await.data, "1");
    assert_eq!(gateway.metric("earshot_redis_reconnects_total", &[]).await, 0.0);
}

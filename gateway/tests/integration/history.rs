//! Subscribers can read the history of a channel page by page, and its size is bounded.

use serde_json::{Value, json};

use crate::harness::encoding::Encoding;
use crate::harness::ws::Publication;
use crate::harness::{Gateway, Redis, WsClient, exclusive, until};

const CONFIG: &str = r#"
[limits]
recovery_publications = 8

[[namespace]]
name = "none"
channels = ["none-*"]
subscribe = "anyone"
history = { size = 0 }

[[namespace]]
name = "small"
channels = ["small-*"]
subscribe = "anyone"
history = { size = 3 }

[[namespace]]
name = "rooms"
channels = ["room-*"]
subscribe = "anyone"
"#;

/// A subscriber of a channel to which 1 to 10 were published.
async fn reader(redis: &Redis, gateway: &Gateway, encoding: Encoding, channel: &str) -> (WsClient, Value) {
    let mut client = WsClient::connect(gateway.address(), encoding).await;
    let reply = client.request("subscribe", json!({ "channel": channel })).await;
    for number in 1..=10 {
        redis.publish(channel, number.to_string().as_bytes()).await;
        assert_eq!(client.publication().await.data, number.to_string());
    }
    (client, reply["subscribe"]["epoch"].clone())
}

async fn history(client: &mut WsClient, channel: &str, mut request: Value) -> Value {
    request["channel"] = channel.into();
    client.request("history", request).await
}

/// The numbers of a page; each one equals its offset.
fn numbers(reply: &Value) -> Vec<u64> {
    assert!(reply["history"].is_object(), "{reply}");
    let publications = reply["history"]["publications"].as_array().into_iter().flatten();
    let numbers = publications.map(|publication| {
        let publication = Publication::read(String::new(), publication);
        assert_eq!(publication.data, publication.offset.to_string(), "{reply}");
        publication.offset
    });
    numbers.collect()
}

async fn start() -> (Redis, Gateway) {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    (redis, gateway)
}

#[tokio::test]
async fn page_has_the_requested_publications_and_the_position() {
    for encoding in Encoding::BOTH {
        let (redis, gateway) = start().await;
        let (mut client, epoch) = reader(&redis, &gateway, encoding, "room-1").await;
        let since = |offset: u64| json!({"offset": offset, "epoch": epoch});
        let pages = [
            (json!({}), vec![], "no limit: position only"),
            (json!({"limit": 0}), vec![], "limit 0: position only"),
            (json!({"limit": 0, "since": since(3)}), vec![], "limit 0 with other parameters"),
            (json!({"limit": 3}), vec![1, 2, 3], "oldest first"),
            (json!({"limit": 3, "reverse": true}), vec![10, 9, 8], "newest first"),
            (json!({"limit": -1}), (1..=8).collect(), "the maximum of the gateway"),
            (json!({"limit": 500}), (1..=8).collect(), "more than the maximum"),
            (json!({"limit": -1, "reverse": true}), (3..=10).rev().collect(), "the maximum in reverse"),
            (json!({"limit": 3, "since": since(4)}), vec![5, 6, 7], "after a position"),
            (json!({"limit": -1, "since": since(8)}), vec![9, 10], "the rest"),
            (json!({"limit": -1, "since": since(10)}), vec![], "after the last position"),
            (json!({"limit": 3, "reverse": true, "since": since(4)}), vec![3, 2, 1], "before a position"),
            (json!({"limit": 2, "since": {"offset": 6}}), vec![7, 8], "an empty epoch matches any"),
        ];
        for (request, expected, why) in pages {
            let reply = history(&mut client, "room-1", request.clone()).await;
            assert_eq!(numbers(&reply), expected, "{why}: {request}");
            let top = (&reply["history"]["epoch"], &reply["history"]["offset"]);
            assert_eq!(top, (&epoch, &json!(10)), "{why}: {request}");
        }
    }
}

#[tokio::test]
async fn consecutive_pages_cover_the_whole_history() {
    let (redis, gateway) = start().await;
    let (mut client, epoch) = reader(&redis, &gateway, Encoding::Json, "room-1").await;
    for (reverse, start) in [(false, 0), (true, 11)] {
        let (mut all, mut offset) = (Vec::new(), start);
        loop {
            let since = json!({"offset": offset, "epoch": epoch});
            let request = json!({"limit": 3, "since": since, "reverse": reverse});
            let page = numbers(&history(&mut client, "room-1", request).await);
            let Some(last) = page.last() else { break };
            offset = *last;
            all.extend(page);
        }
        let expected: Vec<u64> = if reverse { (1..=10).rev().collect() } else { (1..=10).collect() };
        assert_eq!(all, expected, "reverse: {reverse}");
    }
}

#[tokio::test]
async fn history_is_limited_to_its_size() {
    let (redis, gateway) = start().await;
    let (mut client, _) = reader(&redis, &gateway, Encoding::Json, "small-1").await;
    assert_eq!(numbers(&history(&mut client, "small-1", json!({"limit": -1})).await), [8, 9, 10]);
}

#[tokio::test]
async fn channel_without_publications_has_an_empty_history() {
    let (_redis, gateway) = start().await;
    let mut client = WsClient::open(gateway.address(), &["room-9"]).await;
    let reply = history(&mut client, "room-9", json!({"limit": -1})).await;
    assert_eq!(numbers(&reply), [] as [u64; 0]);
    assert!(reply["history"]["epoch"].as_str().is_some_and(|epoch| !epoch.is_empty()), "{reply}");
}

#[tokio::test]
async fn each_rejected_request_has_its_error_code() {
    for encoding in Encoding::BOTH {
        let (redis, gateway) = start().await;
        let (mut client, epoch) = reader(&redis, &gateway, encoding, "room-1").await;
        client.request("subscribe", json!({"channel": "none-1"})).await;
        let another = json!({"limit": 3, "since": {"offset": 3, "epoch": "another"}});
        let rejected = [
            ("room-2", json!({"limit": 3}), 103, "not subscribed"),
            ("none-2", json!({"limit": 3}), 108, "no history, not subscribed"),
            ("none-1", json!({"limit": 3}), 108, "no history"),
            ("elsewhere", json!({"limit": 3}), 102, "unknown namespace"),
            ("", json!({"limit": 3}), 107, "no channel"),
            ("room-\u{7}", json!({"limit": 3}), 107, "an invalid channel name"),
            ("room-1", another, 112, "another epoch"),
        ];
        for (channel, request, code, why) in rejected {
            let reply = history(&mut client, channel, request).await;
            assert_eq!(reply["error"]["code"], code, "{why}: {reply}");
        }
        client.request("unsubscribe", json!({"channel": "room-1"})).await;
        let reply = history(&mut client, "room-1", json!({"limit": 3})).await;
        assert_eq!(reply["error"]["code"], 103, "after unsubscribing: {reply}");
        let reply = client.request("subscribe", json!({"channel": "room-1"})).await;
        assert_eq!(reply["subscribe"]["epoch"], epoch, "{reply}");
    }
}

/// Channels, and the history size of each: far more together than the node may keep.
const CHANNELS: usize = 10_000;
const SIZE: usize = 16;
const PAYLOAD: usize = 200;
const HISTORY_BYTES_MAX: usize = 4 << 20;

/// The last publication, before older ones are evicted for it.
const LAST_PUBLICATION_BYTES: usize = 1 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_of_ten_thousand_channels_stays_within_the_node_limit() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let config = format!(
        "[limits]\nhistory_bytes = \"4MiB\"\nchannels_per_connection = {CHANNELS}\n\n\
         [[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\nhistory = {{ size = {SIZE}, ttl = \"10m\" }}\n"
    );
    let gateway = Gateway::settings().config(&config).redis(&redis).start().await;
    let names: Vec<String> = (0..CHANNELS).map(|number| format!("room-{number}")).collect();
    for names in names.chunks(500) {
        drop(WsClient::open(gateway.address(), names).await);
    }
    let before = gateway.memory();
    let mut most = 0.0_f64;
    for round in 1..=SIZE {
        let payload = format!("{{\"number\":{round},\"fill\":\"{}\"}}", "x".repeat(PAYLOAD));
        redis.publish_all(names.iter().map(|name| (name.as_str(), &payload))).await;
        until("the gateway has received the round", async || {
            let kept = gateway.metric("earshot_history_bytes", &[]).await;
            assert!(kept <= (HISTORY_BYTES_MAX + LAST_PUBLICATION_BYTES) as f64, "{kept} bytes of history");
            most = most.max(kept);
            let received = gateway.metric("earshot_messages_total", &[]).await;
            (received >= (round * CHANNELS) as f64).then_some(())
        })
        .await;
    }
    assert!(most > 0.5 * HISTORY_BYTES_MAX as f64, "at most {most} bytes of history: the test is void");
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < 6 * HISTORY_BYTES_MAX as u64, "the process grew by {growth} bytes");
    for name in names.iter().step_by(97).chain([&names[CHANNELS - 1]]) {
        assert_complete_or_not_recovered(&gateway, name).await;
    }
}

/// Evicted publications are reported as not recovered, never as a hole.
async fn assert_complete_or_not_recovered(gateway: &Gateway, channel: &str) {
    for offset in [0, SIZE - 1, SIZE] {
        let mut client = WsClient::connect(gateway.address(), Encoding::Json).await;
        let request = json!({"channel": channel, "recover": true, "offset": offset});
        let reply = client.request("subscribe", request).await;
        let publications = reply["subscribe"]["publications"].as_array().map_or(0, Vec::len);
        if reply["subscribe"]["recovered"] == true {
            assert_eq!(publications, SIZE - offset, "{channel} from {offset}: {reply}");
        } else {
            assert_eq!(publications, 0, "{channel} from {offset}: {reply}");
            assert!(offset < SIZE, "{channel}: nothing was missed: {reply}");
        }
    }
}

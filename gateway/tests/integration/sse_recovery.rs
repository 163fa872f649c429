//! An event stream that reconnects continues from the position of its client, or reports each channel that cannot be
//! recovered.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::harness::sse::Event;
use crate::harness::{Gateway, Redis, SseClient};

/// One channel with a short history, one without, all others with a sufficient one.
const CONFIG: &str = r#"
[[namespace]]
name = "small"
channels = ["small"]
subscribe = "anyone"
history = { size = 2 }

[[namespace]]
name = "none"
channels = ["none"]
subscribe = "anyone"
history = { size = 0 }

[[namespace]]
name = "rest"
channels = ["*"]
subscribe = "anyone"
"#;

async fn start() -> (Redis, Gateway) {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    (redis, gateway)
}

async fn publish(redis: &Redis, channel: &str, numbers: RangeInclusive<u64>) {
    let numbers: Vec<String> = numbers.map(|number| number.to_string()).collect();
    redis.publish_all(numbers.iter().map(|number| (channel, number))).await;
}

/// Asserts the next events, as (name, data); returns the last one.
async fn expect<D: ToString>(
    stream: &mut SseClient,
    events: impl IntoIterator<Item = (&str, D)>,
) -> Option<Event> {
    let mut last = None;
    for (name, data) in events {
        let event = stream.event().await;
        assert_eq!((event.name.as_str(), &event.data), (name, &data.to_string()));
        last = Some(event);
    }
    last
}

/// The recovery state of each channel in a `subscribed` event.
fn recovered(subscribed: &Event) -> Value {
    let data: Value = serde_json::from_str(&subscribed.data).unwrap();
    data["channels"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, channel)| (name.clone(), channel["recovered"].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Asserts that the next event is a gap of this channel.
async fn gap(stream: &mut SseClient, channel: &str) -> Event {
    let event = stream.event().await;
    let data: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!(event.name, "gap", "{event:?}");
    assert_eq!((&data["channel"], &data["reason"]), (&json!(channel), &json!("unrecoverable")), "{event:?}");
    event
}

#[tokio::test]
async fn last_event_id_is_read_from_header_and_query() {
    for path in ["/sse/news", "/sse?channel=other&channel=news"] {
        let name = if path == "/sse/news" { "message" } else { "news" };
        let (redis, gateway) = start().await;
        let (mut stream, _) = SseClient::connect(gateway.address(), path).await;
        publish(&redis, "news", 1..=4).await;
        let id = expect(&mut stream, [(name, 1), (name, 2)]).await.unwrap().id;
        expect(&mut stream, [(name, 3), (name, 4)]).await;
        drop(stream);

        let separator = if path.contains('?') { '&' } else { '?' };
        let in_query = |key: &str| format!("{path}{separator}{key}={id}");
        let mut streams = vec![SseClient::resume(gateway.address(), path, &id).await];
        for key in ["last_event_id", "lastEventId"] {
            streams.push(SseClient::connect(gateway.address(), &in_query(key)).await);
        }
        for (stream, subscribed) in &mut streams {
            assert_eq!(recovered(subscribed)["news"], true, "{subscribed:?}");
            expect(stream, [(name, 3), (name, 4)]).await;
        }
        publish(&redis, "news", 5..=5).await;
        for (stream, _) in &mut streams {
            expect(stream, [(name, 5)]).await;
        }
    }
}

#[tokio::test]
async fn every_event_id_can_be_resumed() {
    let one: &[_] = &[("a", "message")];
    let two: &[_] = &[("a", "a"), ("b", "b")];
    for (path, channels) in [("/sse/a", one), ("/sse?channel=a&channel=b", two)] {
        let (redis, gateway) = start().await;
        let (mut stream, subscribed) = SseClient::connect(gateway.address(), path).await;
        let (mut events, mut ids) = (Vec::new(), vec![subscribed.id]);
        for number in 1..=5 {
            for (channel, name) in channels {
                publish(&redis, channel, number..=number).await;
                ids.push(expect(&mut stream, [(*name, number)]).await.unwrap().id);
                events.push((name.to_string(), number.to_string()));
            }
        }
        let mut resumed = Vec::new();
        for (known, id) in ids.iter().enumerate() {
            let (mut again, subscribed) = SseClient::resume(gateway.address(), path, id).await;
            assert_eq!(recovered(&subscribed)["a"], true, "{subscribed:?}");
            let mut missed = Vec::new();
            let mut end = subscribed.id;
            for _ in known..events.len() {
                let event = again.event().await;
                missed.push((event.name, event.data));
                end = event.id;
            }
            for (_, name) in channels {
                // Each channel is ordered; there is no order between channels.
                let of = |events: &[(String, String)]| -> Vec<String> {
                    events.iter().filter(|(own, _)| own == name).map(|(_, data)| data.clone()).collect()
                };
                assert_eq!(of(&missed), of(&events[known..]), "{name} from the id after {known} events");
            }
            resumed.push(again);
            // The last id of a recovery can be resumed, too.
            resumed.push(SseClient::resume(gateway.address(), path, &end).await.0);
        }
        publish(&redis, "a", 6..=6).await;
        for mut stream in resumed {
            expect(&mut stream, [(channels[0].1, 6)]).await;
        }
    }
}

#[tokio::test]
async fn id_of_the_subscribed_event_can_be_resumed() {
    for path in ["/sse/news", "/sse?channel=news&channel=other"] {
        let name = if path == "/sse/news" { "message" } else { "news" };
        let (redis, gateway) = start().await;
        let (stream, subscribed) = SseClient::connect(gateway.address(), path).await;
        assert_eq!(recovered(&subscribed)["news"], false, "there was nothing to recover: {subscribed:?}");
        drop(stream);
        publish(&redis, "news", 1..=2).await;
        let (mut stream, subscribed) = SseClient::resume(gateway.address(), path, &subscribed.id).await;
        assert_eq!(recovered(&subscribed)["news"], true, "{subscribed:?}");
        expect(&mut stream, [(name, 1), (name, 2)]).await;
    }
}

#[tokio::test]
async fn repeated_reconnects_lose_nothing() {
    let (redis, gateway) = start().await;
    let path = "/sse?channel=a&channel=b";
    let (_, subscribed) = SseClient::connect(gateway.address(), path).await;
    let mut id = subscribed.id;
    for round in 1..=20 {
        publish(&redis, "a", 2 * round - 1..=2 * round).await;
        publish(&redis, "b", round..=round).await;
        let (mut stream, subscribed) = SseClient::resume(gateway.address(), path, &id).await;
        assert_eq!(recovered(&subscribed), json!({"a": true, "b": true}), "round {round}");
        let mut got = Vec::new();
        for _ in 0..3 {
            let event = stream.event().await;
            got.push((event.name, event.data));
            id = event.id;
        }
        got.sort();
        let expected = [("a", 2 * round - 1), ("a", 2 * round), ("b", round)];
        let mut expected = expected.map(|(name, number)| (name.to_owned(), number.to_string()));
        expected.sort();
        assert_eq!(got, expected, "round {round}");
    }
}

#[tokio::test]
async fn unrecoverable_channel_has_a_gap_event_and_others_continue() {
    let (redis, gateway) = start().await;
    let path = "/sse?channel=small&channel=news";
    let (mut stream, _) = SseClient::connect(gateway.address(), path).await;
    publish(&redis, "news", 1..=1).await;
    let id = expect(&mut stream, [("news", 1)]).await.unwrap().id;
    publish(&redis, "small", 1..=3).await;
    expect(&mut stream, [("small", 1), ("small", 2), ("small", 3)]).await;
    publish(&redis, "news", 2..=3).await;
    expect(&mut stream, [("news", 2), ("news", 3)]).await;
    drop(stream);

    let (mut stream, subscribed) = SseClient::resume(gateway.address(), path, &id).await;
    assert_eq!(recovered(&subscribed), json!({"small": false, "news": true}));
    let gap_id = gap(&mut stream, "small").await.id;
    expect(&mut stream, [("news", 2), ("news", 3)]).await;
    publish(&redis, "small", 4..=4).await;
    expect(&mut stream, [("small", 4)]).await;

    // A client that disconnects right after the gap event recovers what follows it, without a second gap event.
    let (mut stream, subscribed) = SseClient::resume(gateway.address(), path, &gap_id).await;
    assert_eq!(recovered(&subscribed), json!({"small": true, "news": true}));
    let mut got = Vec::new();
    for _ in 0..3 {
        let event = stream.event().await;
        got.push((event.name, event.data));
    }
    got.sort();
    let expected = [("news", "2"), ("news", "3"), ("small", "4")];
    assert_eq!(got, expected.map(|(name, data)| (name.to_owned(), data.to_owned())));
}

#[tokio::test]
async fn unrecoverable_single_channel_has_a_gap_event_and_continues() {
    let (redis, gateway) = start().await;
    let (mut stream, _) = SseClient::connect(gateway.address(), "/sse/small").await;
    publish(&redis, "small", 1..=4).await;
    let id = expect(&mut stream, [("message", 1)]).await.unwrap().id;
    expect(&mut stream, [("message", 2), ("message", 3), ("message", 4)]).await;
    drop(stream);
    let (mut stream, subscribed) = SseClient::resume(gateway.address(), "/sse/small", &id).await;
    assert_eq!(recovered(&subscribed), json!({"small": false}));
    gap(&mut stream, "small").await;
    publish(&redis, "small", 5..=5).await;
    expect(&mut stream, [("message", 5)]).await;
}

#[tokio::test]
async fn reconnect_without_history_has_a_gap_event() {
    let (redis, gateway) = start().await;
    let (mut stream, _) = SseClient::connect(gateway.address(), "/sse/none").await;
    publish(&redis, "none", 1..=2).await;
    let id = expect(&mut stream, [("message", 1)]).await.unwrap().id;
    expect(&mut stream, [("message", 2)]).await;
    let (mut again, subscribed) = SseClient::resume(gateway.address(), "/sse/none", &id).await;
    assert_eq!(recovered(&subscribed), json!({"none": false}));
    gap(&mut again, "none").await;
    publish(&redis, "none", 3..=3).await;
    expect(&mut again, [("message", 3)]).await;
}

#[tokio::test]
async fn changed_channel_list_recovers_the_channels_of_both_lists() {
    let (redis, gateway) = start().await;
    let (mut stream, _) = SseClient::connect(gateway.address(), "/sse?channel=a&channel=b").await;
    let (mut subscriber_of_c, _) = SseClient::connect(gateway.address(), "/sse/c").await;
    publish(&redis, "a", 1..=1).await;
    let id = expect(&mut stream, [("a", 1)]).await.unwrap().id;
    for channel in ["a", "b", "c"] {
        publish(&redis, channel, 2..=3).await;
    }
    expect(&mut stream, [("a", 2), ("a", 3), ("b", 2), ("b", 3)]).await;
    expect(&mut subscriber_of_c, [("message", 2), ("message", 3)]).await;
    drop(stream);

    let (mut changed, subscribed) =
        SseClient::resume(gateway.address(), "/sse?channel=c&channel=b", &id).await;
    assert_eq!(recovered(&subscribed), json!({"b": true, "c": false}));
    let id_of_changed = expect(&mut changed, [("b", 2), ("b", 3)]).await.unwrap().id;
    publish(&redis, "c", 4..=4).await;
    expect(&mut changed, [("c", 4)]).await;

    let (mut alone, subscribed) = SseClient::resume(gateway.address(), "/sse/a", &id).await;
    assert_eq!(recovered(&subscribed), json!({"a": true}), "from several channels to one");
    let id_of_one = expect(&mut alone, [("message", 2), ("message", 3)]).await.unwrap().id;

    let (mut reordered, subscribed) =
        SseClient::resume(gateway.address(), "/sse?channel=b&channel=a", &id_of_one).await;
    assert_eq!(recovered(&subscribed), json!({"a": true, "b": false}), "from one channel to several");
    publish(&redis, "b", 4..=4).await;
    expect(&mut reordered, [("b", 4)]).await;

    let (mut reordered, subscribed) =
        SseClient::resume(gateway.address(), "/sse?channel=b&channel=c", &id_of_changed).await;
    assert_eq!(
        recovered(&subscribed),
        json!({"b": true, "c": true}),
        "the order of channels does not matter"
    );
    let mut got = [reordered.event().await, reordered.event().await].map(|event| (event.name, event.data));
    got.sort();
    assert_eq!(got, [("b", "4"), ("c", "4")].map(|(name, data)| (name.to_owned(), data.to_owned())));
}

#[tokio::test]
async fn unknown_cursor_has_a_gap_event() {
    let (redis, gateway) = start().await;
    let other = Gateway::on(&redis).await;
    let path = "/sse?channel=a&channel=b";
    let (_, subscribed) = SseClient::connect(other.address(), path).await;
    for cursor in [subscribed.id.as_str(), "garbage", "AAAA"] {
        let (mut stream, subscribed) = SseClient::resume(gateway.address(), path, cursor).await;
        assert_eq!(recovered(&subscribed), json!({"a": false, "b": false}), "{cursor}");
        for channel in ["a", "b"] {
            gap(&mut stream, channel).await;
        }
        publish(&redis, "a", 1..=1).await;
        expect(&mut stream, [("a", 1)]).await;
    }
    let (mut stream, subscribed) = SseClient::resume(gateway.address(), path, "").await;
    assert_eq!(recovered(&subscribed), json!({"a": false, "b": false}));
    publish(&redis, "b", 1..=1).await;
    expect(&mut stream, [("b", 1)]).await;
}

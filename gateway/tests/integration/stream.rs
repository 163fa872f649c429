//! `source = "stream"`: the log in Redis defines positions, which are the same on every gateway.

use serde_json::{Value, json};

use crate::harness::encoding::Encoding;
use crate::harness::logs::{
    append, append_numbers, gateway, offsets_and_data, read_log, restart_empty, scripts_run,
};
use crate::harness::ws::Publication;
use crate::harness::{Gateway, Redis, SseClient, WsClient, until};

async fn start() -> (Redis, [Gateway; 2]) {
    let redis = Redis::start().await;
    let gateways = [gateway(&redis).await, gateway(&redis).await];
    (redis, gateways)
}

async fn subscribe(client: &mut WsClient, request: Value) -> Value {
    let reply = client.request("subscribe", request).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    reply["subscribe"].clone()
}

#[tokio::test]
async fn gateways_return_the_same_positions_over_both_transports() {
    let (_redis, gateways) = start().await;
    let mut sockets = Vec::new();
    let mut streams = Vec::new();
    for gateway in &gateways {
        for encoding in Encoding::BOTH {
            let mut socket = WsClient::connect(gateway.address(), encoding).await;
            let result = subscribe(&mut socket, json!({"channel": "job:1"})).await;
            assert_eq!((&result["recoverable"], &result["positioned"]), (&json!(true), &json!(true)));
            sockets.push(socket);
        }
        for path in ["/sse/job:1", "/sse?channel=job:1&channel=job:2"] {
            streams.push(SseClient::open(gateway.address(), path).await);
        }
    }
    let mut epochs = Vec::new();
    for number in 1..=20_u64 {
        let (epoch, offset) = append_numbers(&gateways[(number % 2) as usize], "job:1", [number]).await;
        assert_eq!(offset, number, "the same sequence on either gateway");
        epochs.push(epoch);
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "{epochs:?}");
    for socket in &mut sockets {
        for number in 1..=20 {
            let publication = socket.publication().await;
            assert_eq!((publication.offset, publication.data), (number, number.to_string()));
        }
    }
    for number in 1..=20_u64 {
        let mut ids = Vec::new();
        for stream in &mut streams {
            let event = stream.event().await;
            assert_eq!(event.data, number.to_string());
            ids.push(event.id);
        }
        assert_eq!((&ids[0], &ids[1]), (&ids[2], &ids[3]), "a cursor does not depend on its gateway");
    }
    for gateway in &gateways {
        let mut late = WsClient::connect(gateway.address(), Encoding::Json).await;
        let result = subscribe(&mut late, json!({"channel": "job:1"})).await;
        assert_eq!((&result["epoch"], &result["offset"]), (&json!(epochs[0]), &json!(20)));
    }
}

#[tokio::test]
async fn restarted_gateway_continues_the_offsets() {
    let (redis, [mut first, second]) = start().await;
    let (epoch, _) = append_numbers(&first, "job:1", 1..=5).await;
    restart_empty(&mut first, &redis).await;
    assert_eq!(append_numbers(&first, "job:1", [6]).await, (epoch.clone(), 6));
    let mut client = WsClient::connect(first.address(), Encoding::Json).await;
    let result = subscribe(&mut client, json!({"channel": "job:1"})).await;
    assert_eq!((&result["epoch"], &result["offset"]), (&json!(epoch), &json!(6)));
    append_numbers(&second, "job:1", [7]).await;
    assert_eq!(client.publication().await.offset, 7);
}

#[tokio::test]
async fn tags_are_delivered_live_recovered_and_in_history() {
    for encoding in Encoding::BOTH {
        let (_redis, [first, second]) = start().await;
        let mut live = WsClient::connect(second.address(), encoding).await;
        subscribe(&mut live, json!({"channel": "job:1"})).await;
        let tags = json!({"state": "active", "naïve \"key\"": "line\nbreak"});
        append(&first, "job:1", json!({"data": {"a": 1}, "tags": tags})).await;
        append(&first, "job:1", json!({"data": 2})).await;
        let tagged = live.publication().await;
        assert_eq!((tagged.data.as_str(), &tagged.tags), (r#"{"a":1}"#, &tags));
        let plain = live.publication().await;
        assert_eq!((plain.data.as_str(), &plain.tags), ("2", &Value::Null));

        let request = json!({"channel": "job:1", "recover": true, "offset": 0});
        let mut late = WsClient::connect(first.address(), encoding).await;
        let result = subscribe(&mut late, request).await;
        let recovered = Publication::read(String::new(), &result["publications"][0]);
        assert_eq!((recovered.data.as_str(), &recovered.tags), (r#"{"a":1}"#, &tags), "{result}");
        let (_, publications) = read_log(&second, "job:1").await;
        assert_eq!(publications[0]["tags"], tags, "{publications:?}");
        assert!(publications[1].get("tags").is_none(), "{publications:?}");
    }
}

#[tokio::test]
async fn repeated_idempotency_key_returns_the_first_position() {
    let (redis, [mut first, second]) = start().await;
    let mut client = WsClient::open(second.address(), &["job:1", "job:2"]).await;
    let request = |data: u64| json!({"data": data, "idempotency_key": "order-1"});
    let position = append(&first, "job:1", request(1)).await;
    assert_eq!(append(&first, "job:1", request(2)).await, position);
    assert_eq!(append(&second, "job:1", request(3)).await, position, "on either gateway");
    append_numbers(&first, "job:1", [4]).await;
    restart_empty(&mut first, &redis).await;
    assert_eq!(append(&first, "job:1", request(5)).await, position, "after other publications");
    append(&first, "job:2", request(6)).await;
    append(&first, "job:1", json!({"data": 7, "idempotency_key": "order-2"})).await;
    let mut received = Vec::new();
    for _ in 0..4 {
        let Publication { channel, data, offset, .. } = client.publication().await;
        received.push((channel, offset, data));
    }
    received.sort();
    let expected = [("job:1", 1, "1"), ("job:1", 2, "4"), ("job:1", 3, "7"), ("job:2", 1, "6")];
    let expected = expected.map(|(channel, offset, data)| (channel.to_owned(), offset, data.to_owned()));
    assert_eq!(received, expected, "keys are scoped to their channel");
}

#[tokio::test]
async fn broadcast_returns_the_position_in_each_channel() {
    let (_redis, [first, second]) = start().await;
    append_numbers(&first, "job:2", 1..=2).await;
    let request =
        json!({"channels": ["job:1", "job:2"], "data": 9, "idempotency_key": "b", "tags": {"k": "v"}});
    for gateway in [&first, &second] {
        let answer = gateway.api("broadcast", &request.to_string()).await.json();
        let responses = answer["result"]["responses"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let offsets: Vec<_> = responses.iter().map(|response| &response["result"]["offset"]).collect();
        assert_eq!(offsets, [&json!(1), &json!(3)], "{answer}");
    }
}

#[tokio::test]
async fn every_gateway_returns_the_history_of_any_channel() {
    let (redis, [first, second]) = start().await;
    let (epoch, _) = append_numbers(&first, "job:1", 1..=7).await;
    let third = gateway(&redis).await;
    let expected: Vec<_> = (1..=7).map(|number| (number, json!(number))).collect();
    for gateway in [&first, &second, &third] {
        let (found_epoch, publications) = read_log(gateway, "job:1").await;
        assert_eq!((found_epoch, offsets_and_data(&publications)), (epoch.clone(), expected.clone()));
        let request = json!({"channel": "job:1", "limit": 2, "since": {"offset": 3, "epoch": epoch}});
        let answer = gateway.api("history", &request.to_string()).await.json();
        assert_eq!(answer["result"]["offset"], 7, "{answer}");
        let publications = answer["result"]["publications"].as_array().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(offsets_and_data(publications), expected[3..5], "{answer}");
    }
}

#[tokio::test]
async fn removed_history_is_gone_on_every_gateway_and_offsets_continue() {
    let (redis, [first, second]) = start().await;
    let mut client = WsClient::open(second.address(), &["job:1"]).await;
    let mut here = WsClient::open(first.address(), &["job:1"]).await;
    let (epoch, _) = append_numbers(&first, "job:1", 1..=3).await;
    for number in 1..=3 {
        assert_eq!(client.publication().await.offset, number);
        assert_eq!(here.publication().await.offset, number);
    }
    let answer = first.api("history_remove", r#"{"channel":"job:1"}"#).await.json();
    assert!(answer["result"].is_object(), "{answer}");
    let third = gateway(&redis).await;
    for gateway in [&first, &second, &third] {
        let (_, publications) = read_log(gateway, "job:1").await;
        assert_eq!(offsets_and_data(&publications), []);
        let request = json!({"channel": "job:1", "recover": true, "offset": 1, "epoch": epoch});
        let mut late = WsClient::connect(gateway.address(), Encoding::Json).await;
        let result = subscribe(&mut late, request).await;
        assert_eq!(result["publications"].as_array().map_or(0, Vec::len), 0, "{result}");
        assert!(result["recovered"] != true, "missed publications were removed: {result}");
    }
    assert_eq!(append_numbers(&second, "job:1", [4]).await, (epoch, 4));
    assert_eq!(client.publication().await.offset, 4, "subscribers are unaffected");
    assert_eq!(here.publication().await.offset, 4, "subscribers are unaffected");
    for gateway in [&first, &second, &third] {
        let (_, publications) = read_log(gateway, "job:1").await;
        assert_eq!(offsets_and_data(&publications), [(4, json!(4))]);
    }
}

#[tokio::test]
async fn client_publications_are_appended_to_the_log() {
    for encoding in Encoding::BOTH {
        let (_redis, [first, second]) = start().await;
        append_numbers(&first, "job:1", [1]).await;
        let mut app = WsClient::connect(first.address(), encoding).await;
        subscribe(&mut app, json!({"channel": "job:1"})).await;
        let mut browser = SseClient::open(second.address(), "/sse/job:1").await;
        let reply = app.request("publish", json!({"channel": "job:1", "data": {"n": 2}})).await;
        assert!(reply.get("error").is_none(), "{reply}");
        let publication = app.publication().await;
        assert_eq!((publication.offset, publication.data.as_str()), (2, r#"{"n":2}"#));
        assert_eq!(browser.data("message").await, r#"{"n":2}"#);
        let (_, publications) = read_log(&second, "job:1").await;
        assert_eq!(offsets_and_data(&publications), [(1, json!(1)), (2, json!({"n": 2}))]);
    }
}

#[tokio::test]
async fn plain_publish_is_ignored_and_counted() {
    let (redis, [first, _second]) = start().await;
    let mut client = WsClient::open(first.address(), &["job:1"]).await;
    let mut stream = SseClient::open(first.address(), "/sse/job:1").await;
    append_numbers(&first, "job:1", [1]).await;
    for payload in ["99", "", "\0es2 ", r#"{"offset":7}"#] {
        redis.publish("job:1", payload.as_bytes()).await;
    }
    until("all four are counted", async || {
        let ignored = first.metric("earshot_messages_outside_log_total", &[]).await;
        (ignored == 4.0).then_some(())
    })
    .await;
    append_numbers(&first, "job:1", [2]).await;
    for number in ["1", "2"] {
        assert_eq!(client.publication().await.data, number);
        assert_eq!(stream.data("message").await, number);
    }
}

#[tokio::test]
async fn forged_envelope_does_not_stop_delivery() {
    let (redis, [first, _second]) = start().await;
    let mut client = WsClient::open(first.address(), &["job:1"]).await;
    let (epoch, _) = append_numbers(&first, "job:1", [1]).await;
    assert_eq!(client.publication().await.data, "1");
    let mut connection = redis.connection().await;
    let before = scripts_run(&mut connection).await;
    for forged in ["\0es2 zzz 7 0\n99".to_owned(), format!("\0es2 {epoch} 7 0\n99")] {
        let read = scripts_run(&mut connection).await;
        redis.publish("job:1", forged.as_bytes()).await;
        // Three reads return nothing, and one more returns what arrived meanwhile; then the gateway gives up.
        until("the gateway has stopped reading the log", async || {
            (scripts_run(&mut connection).await >= read + 4).then_some(())
        })
        .await;
    }
    for number in 2..=9 {
        append_numbers(&first, "job:1", [number]).await;
        let publication = client.publication().await;
        assert_eq!(
            (publication.offset, publication.data),
            (number, number.to_string()),
            "the content of the log"
        );
    }
    let scripts = scripts_run(&mut connection).await - before;
    assert!(scripts < 60, "{scripts} scripts for 8 publications: the log is read repeatedly");
}

#[tokio::test]
async fn every_kind_of_payload_is_delivered_live_and_recovered() {
    let (_redis, [first, second]) = start().await;
    let mut live = WsClient::open(second.address(), &["job:1"]).await;
    let large = format!("\"{}\"", "x".repeat(200_000));
    let sent = [
        json!({"data": {"pretty": [1, 2.50, null]}}),
        json!({"data": "text"}),
        json!({"data": serde_json::from_str::<Value>(&large).unwrap()}),
        json!({"b64data": "bm90IGpzb24="}),
        json!({"b64data": "AP/+gA=="}),
    ];
    for request in &sent {
        append(&first, "job:1", request.clone()).await;
    }
    let mut received = Vec::new();
    for _ in &sent {
        let publication = live.publication().await;
        received.push((publication.offset, publication.data, publication.tags));
    }
    let expected = [r#"{"pretty":[1,2.50,null]}"#, "\"text\"", &large, "\"not json\"", "\"AP/+gA==\""];
    for ((_, data, _), expected) in received.iter().zip(expected) {
        let same: Value = serde_json::from_str(expected).unwrap();
        assert_eq!(serde_json::from_str::<Value>(data).unwrap(), same);
    }
    assert_eq!(received[4].2, json!({"encoding": "base64"}));
    for gateway in [&first, &second] {
        let mut late = WsClient::connect(gateway.address(), Encoding::Json).await;
        let result = subscribe(&mut late, json!({"channel": "job:1", "recover": true, "offset": 0})).await;
        let publications = result["publications"].as_array().into_iter().flatten();
        let mut recovered: Vec<_> = publications
            .map(|publication| Publication::read(String::new(), publication))
            .map(|publication| (publication.offset, publication.data, publication.tags))
            .collect();
        // Publications that do not fit in the reply follow it.
        while recovered.len() < received.len() {
            let publication = late.publication().await;
            recovered.push((publication.offset, publication.data, publication.tags));
        }
        assert_eq!(recovered, received);
    }
}

//! Subscribers of a `stream` channel without publications: subscribing writes nothing to Redis, and the first
//! publications are recovered on any node.

use redis::Value as RedisValue;
use serde_json::json;

use crate::harness::encoding::Encoding;
use crate::harness::logs::{append_numbers, gateway, scripts_run};
use crate::harness::subscriber::{Ledger, NUMBERS, Received, Subscriber, Transport};
use crate::harness::{Redis, SseClient, WsClient, until};

/// The number of keys in Redis.
async fn keys(redis: &Redis) -> RedisValue {
    redis.run(&["DBSIZE"]).await
}

#[tokio::test]
async fn subscribing_to_a_channel_without_a_log_writes_nothing() {
    let redis = Redis::start().await;
    let first = gateway(&redis).await;
    for encoding in Encoding::BOTH {
        let mut client = WsClient::connect(first.address(), encoding).await;
        for number in 0..20 {
            let channel = format!("unused:{number}");
            let reply = client.request("subscribe", json!({"channel": channel, "recover": true})).await;
            assert!(reply["subscribe"].is_object(), "{reply}");
        }
    }
    let _stream = SseClient::open(first.address(), "/sse?channel=unused:a&channel=unused:b").await;
    let subscriber = Subscriber::connect(first.address(), Transport::Sse).await;
    // After the link is cut, each of the 23 logs is read again.
    let mut connection = redis.connection().await;
    let before = scripts_run(&mut connection).await;
    redis.disconnect_subscribers().await;
    until("the logs are read again", async || {
        (scripts_run(&mut connection).await >= before + 23).then_some(())
    })
    .await;
    first.wait_for_ready_status(200).await;
    assert_eq!(keys(&redis).await, RedisValue::Int(0));
    drop(subscriber);
}

/// Receives until this number. Panics on a gap.
async fn read_without_gap(subscriber: &mut Subscriber, ledger: &mut Ledger, last: u64, transport: Transport) {
    while !ledger.has(last) {
        let received = subscriber.next().await;
        assert_ne!(received, Received::Gap, "{transport:?}: {ledger:?}");
        ledger.record(received);
    }
}

#[tokio::test]
async fn first_publications_are_recovered_on_another_node() {
    for transport in Transport::ALL {
        for before in [0, 2] {
            let redis = Redis::start().await;
            let (mut first, other, third) =
                (gateway(&redis).await, gateway(&redis).await, gateway(&redis).await);
            let mut subscriber = Subscriber::connect(first.address(), transport).await;
            let mut ledger = Ledger::from_start();
            // Live publications have no epoch: the client still sends the earlier one.
            append_numbers(&other, NUMBERS, 1..=before).await;
            read_without_gap(&mut subscriber, &mut ledger, before, transport).await;
            first.process.kill();
            append_numbers(&other, NUMBERS, before + 1..=5).await;
            assert!(subscriber.reconnect_to(third.address()).await);
            // A WebSocket that received publications since cannot name their log: it has a gap, and misses the rest.
            let unknown = before > 0 && matches!(transport, Transport::WebSocket(_));
            if unknown {
                assert_eq!(subscriber.next().await, Received::Gap, "{transport:?}");
                ledger.record(Received::Gap);
            } else {
                read_without_gap(&mut subscriber, &mut ledger, 5, transport).await;
            }
            assert!(subscriber.reconnect_to(other.address()).await);
            append_numbers(&third, NUMBERS, 6..=7).await;
            read_without_gap(&mut subscriber, &mut ledger, 7, transport).await;
            assert_eq!(subscriber.recoveries, [!unknown, true], "{transport:?} {before}");
        }
    }
}

#[tokio::test]
async fn reconnect_before_the_first_publication_recovers() {
    for transport in Transport::ALL {
        let redis = Redis::start().await;
        let (first, other) = (gateway(&redis).await, gateway(&redis).await);
        let mut subscriber = Subscriber::connect(first.address(), transport).await;
        let mut ledger = Ledger::from_start();
        assert!(subscriber.reconnect_to(other.address()).await);
        append_numbers(&first, NUMBERS, 1..=3).await;
        read_without_gap(&mut subscriber, &mut ledger, 3, transport).await;
        assert_eq!(subscriber.recoveries, [true], "{transport:?}");
    }
}

#[tokio::test]
async fn log_lost_before_the_reconnect_is_a_gap() {
    for transport in Transport::ALL {
        let mut redis = Redis::start().await;
        let first = gateway(&redis).await;
        let mut subscriber = Subscriber::connect(first.address(), transport).await;
        let mut ledger = Ledger::from_start();
        append_numbers(&first, NUMBERS, 1..=2).await;
        read_without_gap(&mut subscriber, &mut ledger, 2, transport).await;
        drop(first);
        // Redis has no persistence: a new log begins, and becomes longer.
        redis.kill();
        redis.restart().await;
        let second = gateway(&redis).await;
        append_numbers(&second, NUMBERS, 3..=8).await;
        assert!(subscriber.reconnect_to(second.address()).await);
        append_numbers(&second, NUMBERS, 9..=9).await;
        let mut gaps = 0;
        while !ledger.has(9) {
            let received = subscriber.next().await;
            gaps += usize::from(received == Received::Gap);
            ledger.record(received);
        }
        assert!(gaps > 0, "{transport:?}: {ledger:?}");
    }
}

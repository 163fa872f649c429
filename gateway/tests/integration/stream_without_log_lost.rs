//! Subscribers of a `stream` channel without a log yet: a log that was created and lost meanwhile is a gap.

use serde_json::json;

use crate::harness::logs::{append_numbers, gateway, gateway_behind_proxy, scripts_run};
use crate::harness::proxy::ProxyMode;
use crate::harness::subscriber::{Ledger, NUMBERS, Received, Subscriber, Transport};
use crate::harness::{Redis, until};

/// Receives until this number. Asserts that a gap precedes the first number after `last`.
async fn gap_after(subscriber: &mut Subscriber, ledger: &mut Ledger, last: u64, until: u64, which: &str) {
    while !ledger.has(until) {
        let received = subscriber.next().await;
        assert!(
            received == Received::Gap || ledger.gaps > 0 || !ledger.has(last),
            "{which}: {received:?}: {ledger:?}"
        );
        ledger.record(received);
    }
}

#[tokio::test]
async fn log_lost_while_the_link_is_down_is_a_gap() {
    for transport in Transport::ALL {
        let mut redis = Redis::start().await;
        let (cut_off, proxy) = gateway_behind_proxy(&redis).await;
        let (other, mut third) = (gateway(&redis).await, gateway(&redis).await);
        let mut present = Subscriber::connect(cut_off.address(), transport).await;
        let mut returning = Subscriber::connect(third.address(), transport).await;
        third.process.kill();
        proxy.allow(ProxyMode::Closed);
        cut_off.wait_for_ready_status(503).await;
        append_numbers(&other, NUMBERS, 1..=3).await;
        redis.kill();
        other.wait_for_ready_status(503).await;
        redis.restart().await;
        other.wait_for_ready_status(200).await;
        proxy.allow(ProxyMode::Open);
        cut_off.wait_for_ready_status(200).await;
        let mut connection = redis.connection().await;
        until("the log is read", async || (scripts_run(&mut connection).await > 0).then_some(())).await;
        assert!(returning.reconnect_to(cut_off.address()).await);
        append_numbers(&other, NUMBERS, 4..=4).await;
        for (subscriber, which) in [(&mut present, "present"), (&mut returning, "returning")] {
            assert_eq!(subscriber.next().await, Received::Gap, "{transport:?} {which}");
        }
        append_numbers(&other, NUMBERS, 5..=5).await;
        while present.next().await != Received::Number(5) {}
        while returning.next().await != Received::Number(5) {}
    }
}

#[tokio::test]
async fn log_evicted_before_the_reconnect_is_a_gap() {
    let mut redis = Redis::start_with_arguments(&["--maxmemory-policy", "volatile-lru"]).await;
    for transport in Transport::ALL {
        let (mut first, mut second, third) =
            (gateway(&redis).await, gateway(&redis).await, gateway(&redis).await);
        let mut subscriber = Subscriber::connect(first.address(), transport).await;
        first.process.kill();
        append_numbers(&second, NUMBERS, 1..=5).await;
        second.process.kill();
        evict_everything(&mut redis).await;
        append_numbers(&third, NUMBERS, 6..=6).await;
        assert!(subscriber.reconnect_to(third.address()).await);
        append_numbers(&third, NUMBERS, 7..=7).await;
        gap_after(&mut subscriber, &mut Ledger::from_start(), 0, 7, &format!("{transport:?}")).await;
        redis.run(&["FLUSHALL"]).await;
    }
}

/// Makes Redis evict every key, and then accept writes again.
async fn evict_everything(redis: &mut Redis) {
    redis.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    until("the keys are evicted", async || {
        (redis.run(&["DBSIZE"]).await == redis::Value::Int(0)).then_some(())
    })
    .await;
    redis.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
}

#[tokio::test]
async fn log_deleted_after_live_publications_is_a_gap() {
    for transport in Transport::ALL {
        let redis = Redis::start().await;
        let (mut first, other, third) = (gateway(&redis).await, gateway(&redis).await, gateway(&redis).await);
        let mut subscriber = Subscriber::connect(first.address(), transport).await;
        let mut ledger = Ledger::from_start();
        append_numbers(&other, NUMBERS, 1..=3).await;
        ledger.read(&mut subscriber, 3).await;
        first.process.kill();
        redis.run(&["DEL", "stream:numbers", "stream-meta:numbers"]).await;
        assert_eq!(redis.run(&["DBSIZE"]).await, redis::Value::Int(0));
        append_numbers(&other, NUMBERS, 4..=8).await;
        assert!(subscriber.reconnect_to(third.address()).await);
        append_numbers(&third, NUMBERS, 9..=9).await;
        gap_after(&mut subscriber, &mut ledger, 3, 9, &format!("{transport:?}")).await;
    }
}

/// A gateway with its link down has a subscriber from before the log; a client that received part of the log connects.
#[tokio::test]
async fn client_ahead_of_a_gateway_without_the_log_recovers() {
    for transport in Transport::ALL {
        let redis = Redis::start().await;
        let (affected, proxy) = gateway_behind_proxy(&redis).await;
        let other = gateway(&redis).await;
        let mut waiting = Subscriber::connect(affected.address(), transport).await;
        append_numbers(&other, "unrelated", 1..=1).await;
        proxy.allow(ProxyMode::Commands);
        affected.wait_for_ready_status(503).await;
        append_numbers(&other, NUMBERS, 1..=1).await;
        // It subscribes after the first publication, so it has a position in the log.
        let mut reconnecting = Subscriber::connect(other.address(), transport).await;
        let mut ahead = Ledger::default();
        append_numbers(&other, NUMBERS, 2..=3).await;
        ahead.read(&mut reconnecting, 3).await;
        assert!(reconnecting.reconnect_to(affected.address()).await);
        proxy.allow(ProxyMode::Open);
        affected.wait_for_ready_status(200).await;
        append_numbers(&other, NUMBERS, 4..=4).await;
        ahead.read(&mut reconnecting, 4).await;
        assert_eq!((ahead.gaps, reconnecting.recoveries), (0, vec![true]), "{transport:?}");
        let mut ledger = Ledger::from_start();
        ledger.read(&mut waiting, 4).await;
        assert_eq!(ledger.gaps, 0, "{transport:?}");
    }
}

#[tokio::test]
async fn history_since_another_epoch_without_a_log_is_an_error() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis).await;
    for since in [json!({"offset": 1, "epoch": "other"}), json!({"offset": 0, "epoch": "2n9c"})] {
        let request = json!({"channel": "unused", "limit": 1, "since": since}).to_string();
        let answer = gateway.api("history", &request).await.json();
        assert_eq!(answer["error"]["code"], 112, "{request}: {answer}");
    }
    for request in [
        json!({"channel": "unused"}),
        json!({"channel": "unused", "limit": 1, "since": {"offset": 0, "epoch": ""}}),
    ] {
        let answer = gateway.api("history", &request.to_string()).await.json();
        assert!(answer["result"].is_object(), "{request}: {answer}");
    }
}

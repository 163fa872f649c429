//! Subscribers of a `stream` channel that nobody has published to: reading writes nothing, and what is published first is
//! recovered on any node.

use redis::Value as RedisValue;
use serde_json::json;

use crate::harness::encoding::Encoding;
use crate::harness::logs::{append_numbers, gateway, scripts_run};
use crate::harness::subscriber::{Follower, Heard, Ledger, NUMBERS, Way};
use crate::harness::{Redis, SseClient, WsClient, until};

/// How many keys Redis has.
async fn keys(redis: &Redis) -> RedisValue {
    redis.run(&["DBSIZE"]).await
}

#[tokio::test]
async fn who_subscribes_to_a_channel_without_a_log_writes_nothing() {
    let redis = Redis::start().await;
    let first = gateway(&redis).await;
    for encoding in Encoding::BOTH {
        let mut client = WsClient::speaking(first.address(), encoding).await;
        for number in 0..20 {
            let channel = format!("nobody:{number}");
            let reply = client.request("subscribe", json!({"channel": channel, "recover": true})).await;
            assert!(reply["subscribe"].is_object(), "{reply}");
        }
    }
    let _stream = SseClient::open(first.address(), "/sse?channel=nobody:a&channel=nobody:b").await;
    let follower = Follower::join(first.address(), Way::Stream).await;
    // After the link was cut, each of the 23 logs is read again.
    let mut connection = redis.connection().await;
    let before = scripts_run(&mut connection).await;
    redis.cut_subscribers().await;
    until("the logs are read again", async || {
        (scripts_run(&mut connection).await >= before + 23).then_some(())
    })
    .await;
    first.answers_ready_with(200).await;
    assert_eq!(keys(&redis).await, RedisValue::Int(0));
    drop(follower);
}

/// Reads until this number; every one must come, without a gap.
async fn whole(follower: &mut Follower, ledger: &mut Ledger, last: u64, way: Way) {
    while !ledger.has(last) {
        let heard = follower.next().await;
        assert_ne!(heard, Heard::Gap, "{way:?}: {ledger:?}");
        ledger.enter(heard);
    }
}

#[tokio::test]
async fn what_is_published_first_is_recovered_on_another_node() {
    for way in Way::ALL {
        for before in [0, 2] {
            let redis = Redis::start().await;
            let (mut first, other, third) =
                (gateway(&redis).await, gateway(&redis).await, gateway(&redis).await);
            let mut follower = Follower::join(first.address(), way).await;
            let mut ledger = Ledger::from_the_first();
            // What comes live has offsets alone: the client still names the epoch of before.
            append_numbers(&other, NUMBERS, 1..=before).await;
            whole(&mut follower, &mut ledger, before, way).await;
            first.process.kill();
            append_numbers(&other, NUMBERS, before + 1..=5).await;
            assert!(follower.go_to(third.address()).await);
            // A socket that received publications since cannot name their log: a gap, and the rest of it is missing.
            let unknown = before > 0 && matches!(way, Way::Socket(_));
            if unknown {
                assert_eq!(follower.next().await, Heard::Gap, "{way:?}");
                ledger.enter(Heard::Gap);
            } else {
                whole(&mut follower, &mut ledger, 5, way).await;
            }
            assert!(follower.go_to(other.address()).await);
            append_numbers(&third, NUMBERS, 6..=7).await;
            whole(&mut follower, &mut ledger, 7, way).await;
            assert_eq!(follower.recoveries, [!unknown, true], "{way:?} {before}");
        }
    }
}

#[tokio::test]
async fn who_comes_back_before_anything_was_published_has_missed_nothing() {
    for way in Way::ALL {
        let redis = Redis::start().await;
        let (first, other) = (gateway(&redis).await, gateway(&redis).await);
        let mut follower = Follower::join(first.address(), way).await;
        let mut ledger = Ledger::from_the_first();
        assert!(follower.go_to(other.address()).await);
        append_numbers(&first, NUMBERS, 1..=3).await;
        whole(&mut follower, &mut ledger, 3, way).await;
        assert_eq!(follower.recoveries, [true], "{way:?}");
    }
}

#[tokio::test]
async fn a_log_that_was_lost_meanwhile_is_a_gap_for_who_came_before_it() {
    for way in Way::ALL {
        let mut redis = Redis::start().await;
        let first = gateway(&redis).await;
        let mut follower = Follower::join(first.address(), way).await;
        let mut ledger = Ledger::from_the_first();
        append_numbers(&first, NUMBERS, 1..=2).await;
        whole(&mut follower, &mut ledger, 2, way).await;
        drop(first);
        // Nothing is kept: another log begins, and becomes longer.
        redis.kill();
        redis.restart().await;
        let second = gateway(&redis).await;
        append_numbers(&second, NUMBERS, 3..=8).await;
        assert!(follower.go_to(second.address()).await);
        append_numbers(&second, NUMBERS, 9..=9).await;
        let mut gaps = 0;
        while !ledger.has(9) {
            let heard = follower.next().await;
            gaps += usize::from(heard == Heard::Gap);
            ledger.enter(heard);
        }
        assert!(gaps > 0, "{way:?}: {ledger:?}");
    }
}

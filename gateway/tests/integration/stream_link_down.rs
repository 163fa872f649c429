//! A gateway that cannot hear is behind its log. Nobody who is there, or comes from elsewhere, pays for that: what it
//! missed is read, and nothing comes twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::harness::logs::{append_numbers, gateway, gateway_behind};
use crate::harness::proxy::{Passage, Proxy};
use crate::harness::subscriber::{Follower, Ledger, NUMBERS, Way};
use crate::harness::{Gateway, PATIENCE, Redis, until};

/// Before somebody who was sent away comes again.
const PAUSE: Duration = Duration::from_millis(20);

/// Followers of every kind on each of two gateways have heard 1 to 5; the second gateway does not hear the next five.
async fn one_is_deaf(redis: &Redis, passage: Passage) -> ([Gateway; 2], Proxy, Vec<(Follower, Ledger, Way)>) {
    let hearing = gateway(redis).await;
    let (deaf, network) = gateway_behind(redis).await;
    // They come to a log: a socket with a position of before it could not return after a publication.
    append_numbers(&hearing, NUMBERS, 0..=0).await;
    let mut followers = Vec::new();
    for way in Way::ALL {
        for address in [hearing.address(), deaf.address()] {
            followers.push((Follower::join(address, way).await, Ledger::from_the_first(), way));
        }
    }
    append_numbers(&hearing, NUMBERS, 1..=5).await;
    for (follower, ledger, _) in &mut followers {
        ledger.read(follower, 5).await;
    }
    network.allow(passage);
    deaf.answers_ready_with(503).await;
    append_numbers(&hearing, NUMBERS, 6..=10).await;
    ([hearing, deaf], network, followers)
}

#[tokio::test]
async fn a_gateway_that_cannot_hear_but_read_gives_what_the_log_has_to_those_who_come() {
    let redis = Redis::start().await;
    let ([_hearing, deaf], network, mut followers) = one_is_deaf(&redis, Passage::Commands).await;
    for (place, (follower, ledger, way)) in followers.iter_mut().enumerate() {
        // Every other one was on the gateway that hears, and is ahead of this one.
        if place % 2 == 0 {
            ledger.read(follower, 10).await;
        }
        assert!(follower.go_to(deaf.address()).await, "{way:?}");
    }
    network.allow(Passage::Open);
    deaf.answers_ready_with(200).await;
    append_numbers(&deaf, NUMBERS, 11..=12).await;
    for (mut follower, mut ledger, way) in followers {
        ledger.read(&mut follower, 12).await;
        assert_eq!((ledger.gaps, ledger.delivered), (0, 12), "{way:?}");
        assert!(!follower.recoveries.contains(&false), "{way:?}: {:?}", follower.recoveries);
    }
}

#[tokio::test]
async fn what_was_said_while_a_gateway_was_deaf_comes_also_when_nothing_follows_it() {
    for passage in [Passage::Commands, Passage::Closed] {
        let redis = Redis::start().await;
        let (_gateways, network, followers) = one_is_deaf(&redis, passage).await;
        network.allow(Passage::Open);
        for (mut follower, mut ledger, way) in followers {
            ledger.read(&mut follower, 10).await;
            assert_eq!((ledger.gaps, ledger.delivered), (0, 10), "{way:?}");
            assert!(follower.recoveries.is_empty(), "{way:?}: it stayed subscribed");
        }
    }
}

#[tokio::test]
async fn a_gateway_that_can_neither_hear_nor_read_makes_nobody_hear_twice() {
    let redis = Redis::start().await;
    let ([_hearing, deaf], network, followers) = one_is_deaf(&redis, Passage::Closed).await;
    let mut going = JoinSet::new();
    let came = Arc::new(AtomicUsize::new(0));
    for (place, (mut follower, mut ledger, way)) in followers.into_iter().enumerate() {
        let (deaf, came) = (deaf.address(), Arc::clone(&came));
        going.spawn(async move {
            if place % 2 == 0 {
                ledger.read(&mut follower, 10).await;
                came.fetch_add(1, Ordering::Relaxed);
                // It may be asked to come again.
                let deadline = Instant::now() + PATIENCE;
                while !follower.go_to(deaf).await {
                    assert!(Instant::now() < deadline, "{way:?}: it is not let in");
                    sleep(PAUSE).await;
                }
            }
            ledger.read(&mut follower, 12).await;
            assert_eq!((ledger.gaps, ledger.delivered), (0, 12), "{way:?}");
            assert!(!follower.recoveries.contains(&false), "{way:?}: {:?}", follower.recoveries);
        });
    }
    until("one of each kind comes", async || (came.load(Ordering::Relaxed) == Way::ALL.len()).then_some(()))
        .await;
    network.allow(Passage::Open);
    deaf.answers_ready_with(200).await;
    append_numbers(&deaf, NUMBERS, 11..=12).await;
    while let Some(done) = going.join_next().await {
        done.unwrap();
    }
}

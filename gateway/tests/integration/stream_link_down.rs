//! A gateway that cannot hear is behind its log. Nobody who is there, or comes from elsewhere, pays for that: what it
//! missed is read, and nothing comes twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::harness::logs::{append_numbers, gateway, gateway_behind_proxy};
use crate::harness::proxy::{Proxy, ProxyMode};
use crate::harness::subscriber::{Ledger, NUMBERS, Subscriber, Transport};
use crate::harness::{Gateway, Redis, WAIT_TIMEOUT, until};

/// Before somebody who was sent away comes again.
const PAUSE: Duration = Duration::from_millis(20);

/// Followers of every kind on each of two gateways have heard 1 to 5; the second gateway does not hear the next five.
async fn one_is_deaf(
    redis: &Redis,
    mode: ProxyMode,
) -> ([Gateway; 2], Proxy, Vec<(Subscriber, Ledger, Transport)>) {
    let hearing = gateway(redis).await;
    let (deaf, network) = gateway_behind_proxy(redis).await;
    // They come to a log: a socket with a position of before it could not return after a publication.
    append_numbers(&hearing, NUMBERS, 0..=0).await;
    let mut subscribers = Vec::new();
    for transport in Transport::ALL {
        for address in [hearing.address(), deaf.address()] {
            subscribers.push((
                Subscriber::connect(address, transport).await,
                Ledger::from_start(),
                transport,
            ));
        }
    }
    append_numbers(&hearing, NUMBERS, 1..=5).await;
    for (subscriber, ledger, _) in &mut subscribers {
        ledger.read(subscriber, 5).await;
    }
    network.allow(mode);
    deaf.wait_for_ready_status(503).await;
    append_numbers(&hearing, NUMBERS, 6..=10).await;
    ([hearing, deaf], network, subscribers)
}

#[tokio::test]
async fn a_gateway_that_cannot_hear_but_read_gives_what_the_log_has_to_those_who_come() {
    let redis = Redis::start().await;
    let ([_hearing, deaf], network, mut subscribers) = one_is_deaf(&redis, ProxyMode::Commands).await;
    for (place, (subscriber, ledger, transport)) in subscribers.iter_mut().enumerate() {
        // Every other one was on the gateway that hears, and is ahead of this one.
        if place % 2 == 0 {
            ledger.read(subscriber, 10).await;
        }
        assert!(subscriber.reconnect_to(deaf.address()).await, "{transport:?}");
    }
    network.allow(ProxyMode::Open);
    deaf.wait_for_ready_status(200).await;
    append_numbers(&deaf, NUMBERS, 11..=12).await;
    for (mut subscriber, mut ledger, transport) in subscribers {
        ledger.read(&mut subscriber, 12).await;
        assert_eq!((ledger.gaps, ledger.delivered), (0, 12), "{transport:?}");
        assert!(!subscriber.recoveries.contains(&false), "{transport:?}: {:?}", subscriber.recoveries);
    }
}

#[tokio::test]
async fn what_was_said_while_a_gateway_was_deaf_comes_also_when_nothing_follows_it() {
    for mode in [ProxyMode::Commands, ProxyMode::Closed] {
        let redis = Redis::start().await;
        let (_gateways, network, subscribers) = one_is_deaf(&redis, mode).await;
        network.allow(ProxyMode::Open);
        for (mut subscriber, mut ledger, transport) in subscribers {
            ledger.read(&mut subscriber, 10).await;
            assert_eq!((ledger.gaps, ledger.delivered), (0, 10), "{transport:?}");
            assert!(subscriber.recoveries.is_empty(), "{transport:?}: it stayed subscribed");
        }
    }
}

#[tokio::test]
async fn a_gateway_that_can_neither_hear_nor_read_makes_nobody_hear_twice() {
    let redis = Redis::start().await;
    let ([_hearing, deaf], network, subscribers) = one_is_deaf(&redis, ProxyMode::Closed).await;
    let mut going = JoinSet::new();
    let came = Arc::new(AtomicUsize::new(0));
    for (place, (mut subscriber, mut ledger, transport)) in subscribers.into_iter().enumerate() {
        let (deaf, came) = (deaf.address(), Arc::clone(&came));
        going.spawn(async move {
            if place % 2 == 0 {
                ledger.read(&mut subscriber, 10).await;
                came.fetch_add(1, Ordering::Relaxed);
                // It may be asked to come again.
                let deadline = Instant::now() + WAIT_TIMEOUT;
                while !subscriber.reconnect_to(deaf).await {
                    assert!(Instant::now() < deadline, "{transport:?}: it is not let in");
                    sleep(PAUSE).await;
                }
            }
            ledger.read(&mut subscriber, 12).await;
            assert_eq!((ledger.gaps, ledger.delivered), (0, 12), "{transport:?}");
            assert!(!subscriber.recoveries.contains(&false), "{transport:?}: {:?}", subscriber.recoveries);
        });
    }
    until("one of each kind comes", async || {
        (came.load(Ordering::Relaxed) == Transport::ALL.len()).then_some(())
    })
    .await;
    network.allow(ProxyMode::Open);
    deaf.wait_for_ready_status(200).await;
    append_numbers(&deaf, NUMBERS, 11..=12).await;
    while let Some(done) = going.join_next().await {
        done.unwrap();
    }
}

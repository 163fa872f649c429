//! A gateway with its link down is behind the log. Neither its clients nor reconnecting ones are affected: missed
//! entries are read from the log, and nothing is delivered twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::harness::logs::{append_numbers, gateway, gateway_behind_proxy};
use crate::harness::proxy::{Proxy, ProxyMode};
use crate::harness::subscriber::{Ledger, NUMBERS, Subscriber, Transport};
use crate::harness::{Gateway, Redis, WAIT_TIMEOUT, until};

/// Interval between reconnect attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Subscribers of every transport on two gateways have received 1 to 5; the second gateway does not receive the next
/// five.
async fn with_one_link_down(
    redis: &Redis,
    mode: ProxyMode,
) -> ([Gateway; 2], Proxy, Vec<(Subscriber, Ledger, Transport)>) {
    let healthy = gateway(redis).await;
    let (affected, proxy) = gateway_behind_proxy(redis).await;
    // The log exists first: a WebSocket with a position from before it could not recover after a publication.
    append_numbers(&healthy, NUMBERS, 0..=0).await;
    let mut subscribers = Vec::new();
    for transport in Transport::ALL {
        for address in [healthy.address(), affected.address()] {
            subscribers.push((
                Subscriber::connect(address, transport).await,
                Ledger::from_start(),
                transport,
            ));
        }
    }
    append_numbers(&healthy, NUMBERS, 1..=5).await;
    for (subscriber, ledger, _) in &mut subscribers {
        ledger.read(subscriber, 5).await;
    }
    proxy.allow(mode);
    affected.wait_for_ready_status(503).await;
    append_numbers(&healthy, NUMBERS, 6..=10).await;
    ([healthy, affected], proxy, subscribers)
}

#[tokio::test]
async fn gateway_without_subscriptions_recovers_clients_from_the_log() {
    let redis = Redis::start().await;
    let ([_healthy, affected], proxy, mut subscribers) =
        with_one_link_down(&redis, ProxyMode::Commands).await;
    for (index, (subscriber, ledger, transport)) in subscribers.iter_mut().enumerate() {
        // Half of them were on the healthy gateway and are ahead of this one.
        if index % 2 == 0 {
            ledger.read(subscriber, 10).await;
        }
        assert!(subscriber.reconnect_to(affected.address()).await, "{transport:?}");
    }
    proxy.allow(ProxyMode::Open);
    affected.wait_for_ready_status(200).await;
    append_numbers(&affected, NUMBERS, 11..=12).await;
    for (mut subscriber, mut ledger, transport) in subscribers {
        ledger.read(&mut subscriber, 12).await;
        assert_eq!((ledger.gaps, ledger.delivered), (0, 12), "{transport:?}");
        assert!(!subscriber.recoveries.contains(&false), "{transport:?}: {:?}", subscriber.recoveries);
    }
}

#[tokio::test]
async fn missed_entries_are_delivered_without_a_later_publication() {
    for mode in [ProxyMode::Commands, ProxyMode::Closed] {
        let redis = Redis::start().await;
        let (_gateways, proxy, subscribers) = with_one_link_down(&redis, mode).await;
        proxy.allow(ProxyMode::Open);
        for (mut subscriber, mut ledger, transport) in subscribers {
            ledger.read(&mut subscriber, 10).await;
            assert_eq!((ledger.gaps, ledger.delivered), (0, 10), "{transport:?}");
            assert!(subscriber.recoveries.is_empty(), "{transport:?}: it stayed subscribed");
        }
    }
}

#[tokio::test]
async fn gateway_without_redis_delivers_nothing_twice() {
    let redis = Redis::start().await;
    let ([_healthy, affected], proxy, subscribers) = with_one_link_down(&redis, ProxyMode::Closed).await;
    let mut clients = JoinSet::new();
    let reconnecting = Arc::new(AtomicUsize::new(0));
    for (index, (mut subscriber, mut ledger, transport)) in subscribers.into_iter().enumerate() {
        let (affected, reconnecting) = (affected.address(), Arc::clone(&reconnecting));
        clients.spawn(async move {
            if index % 2 == 0 {
                ledger.read(&mut subscriber, 10).await;
                reconnecting.fetch_add(1, Ordering::Relaxed);
                // The gateway may ask for a retry.
                let deadline = Instant::now() + WAIT_TIMEOUT;
                while !subscriber.reconnect_to(affected).await {
                    assert!(Instant::now() < deadline, "{transport:?}: cannot reconnect");
                    sleep(RETRY_INTERVAL).await;
                }
            }
            ledger.read(&mut subscriber, 12).await;
            assert_eq!((ledger.gaps, ledger.delivered), (0, 12), "{transport:?}");
            assert!(!subscriber.recoveries.contains(&false), "{transport:?}: {:?}", subscriber.recoveries);
        });
    }
    until("one client of each transport reconnects", async || {
        (reconnecting.load(Ordering::Relaxed) == Transport::ALL.len()).then_some(())
    })
    .await;
    proxy.allow(ProxyMode::Open);
    affected.wait_for_ready_status(200).await;
    append_numbers(&affected, NUMBERS, 11..=12).await;
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
}

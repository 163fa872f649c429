//! Channels without a subscriber: how long they stay, and which of them are evicted.

use std::cell::RefCell;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::metrics::Metrics;
use crate::node::history::{HistoryBudget, HistoryRules};
use crate::node::messages::SubscribeError;
use crate::node::registry::ChannelLimits;

const NO_HISTORY: HistoryRules = HistoryRules { size: 0, ttl: Duration::ZERO, bytes: 0 };

const LINGER: Duration = Duration::from_secs(30);

/// A registry, and the channels that it gave up at the broker.
struct Trial {
    registry: Arc<ChannelRegistry>,
    released: RefCell<Vec<String>>,
}

impl Trial {
    fn new(channels: usize, idle_per_creator: usize) -> Self {
        let limits = ChannelLimits {
            channels,
            idle_per_creator,
            unsubscribe_delay: LINGER,
            publication_bytes: 100,
            recovery_publications: 1,
        };
        let registry = ChannelRegistry::new(Arc::from([]), limits, HistoryBudget::new(100), Metrics::new(1));
        Self { registry, released: RefCell::default() }
    }

    fn release(&self) -> impl Fn(&ChannelName) {
        |name| self.released.borrow_mut().push(name.as_str().to_owned())
    }

    /// A shard subscribes to a channel.
    fn subscribe(&self, name: &str, from: Option<IpAddr>) -> Result<(), SubscribeError> {
        let name = ChannelName::parse(name).unwrap();
        let channel = self.registry.enter(&name, (NO_HISTORY, None), from, self.release())?;
        self.registry.entered(&channel, 0, |_| {});
        Ok(())
    }

    fn unsubscribe(&self, name: &str) {
        self.registry.detach(&ChannelName::parse(name).unwrap(), 0, false, self.release());
    }

    fn has(&self, name: &str) -> bool {
        self.registry.find(&ChannelName::parse(name).unwrap()).is_some()
    }

    fn released(&self) -> Vec<String> {
        self.released.take()
    }
}

fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn subscribes_that_fail_do_not_keep_a_channel() {
    let trial = Trial::new(10, 10);
    let name = ChannelName::parse("a").unwrap();
    for second in 0..40 {
        let channel = trial.registry.enter(&name, (NO_HISTORY, None), None, |_| {}).unwrap();
        trial.registry.abandon(&channel, |_| {});
        assert_eq!(trial.registry.channels(), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        trial.registry.expire(Instant::now(), |_| {});
        if trial.registry.channels() == 0 {
            return assert_eq!(second, 29);
        }
    }
    panic!("it is still there");
}

#[tokio::test(start_paused = true)]
async fn the_oldest_idle_channels_give_way_and_no_other() {
    let trial = Trial::new(4, 100);
    for name in ["used", "first", "second", "third"] {
        trial.subscribe(name, None).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(trial.subscribe("more", None), Err(SubscribeError::TooManyChannels));
    for name in ["first", "second", "third"] {
        trial.unsubscribe(name);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // It is the youngest now, though its entry is the oldest.
    trial.subscribe("first", None).unwrap();
    trial.unsubscribe("first");
    for (name, gives_way) in [("a", "second"), ("b", "third"), ("c", "first")] {
        trial.subscribe(name, None).unwrap();
        assert_eq!(trial.released(), [gives_way]);
        assert!(!trial.has(gives_way) && trial.has("used"));
    }
    assert_eq!(trial.subscribe("more", None), Err(SubscribeError::TooManyChannels));
    assert_eq!((trial.registry.channels(), trial.released().len()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn one_address_leaves_a_bounded_number_of_channels_behind() {
    let (one, other, proxy) = (address("203.0.113.7"), address("203.0.113.8"), address("10.0.0.1"));
    let trial = Trial::new(1000, 3);
    for (from, prefix) in [(one, "one"), (other, "other"), (proxy, "proxy")] {
        for number in 0..10 {
            trial.subscribe(&format!("{prefix}-{number}"), from).unwrap();
        }
        for number in 0..10 {
            trial.unsubscribe(&format!("{prefix}-{number}"));
        }
    }
    assert_eq!(trial.registry.channels(), 3 + 3 + 10);
    assert_eq!(trial.released().len(), 14);
    for (number, stays) in [(0, false), (6, false), (7, true), (8, true), (9, true)] {
        assert_eq!(trial.has(&format!("one-{number}")), stays, "{number}: the oldest are evicted");
    }
    // A channel that is used again is not idle, and the youngest afterwards.
    trial.subscribe("one-7", one).unwrap();
    trial.subscribe("one-new", one).unwrap();
    trial.unsubscribe("one-new");
    assert_eq!(trial.released().len(), 0);
    trial.unsubscribe("one-7");
    assert_eq!(trial.released(), ["one-8"]);
    tokio::time::advance(LINGER).await;
    trial.registry.expire(Instant::now(), trial.release());
    assert_eq!((trial.registry.channels(), trial.registry.creators.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_several_addresses_use_is_attributed_to_none() {
    let (one, other) = (address("203.0.113.7"), address("203.0.113.8"));
    let trial = Trial::new(1000, 3);
    let shared = ChannelName::parse("shared-in-a-shard").unwrap();
    for name in ["news", "own", "unknown", shared.as_str()] {
        trial.subscribe(name, one).unwrap();
    }
    // The client that has gone already has no address any more.
    trial.subscribe("unknown", None).unwrap();
    trial.subscribe("news", other).unwrap();
    trial.registry.detach(&shared, 0, true, trial.release());
    ["news", "own", "unknown"].iter().for_each(|name| trial.unsubscribe(name));
    for number in 0..10 {
        let name = format!("one-{number}");
        trial.subscribe(&name, one).unwrap();
        trial.unsubscribe(&name);
    }
    assert!(trial.has("news") && trial.has(shared.as_str()));
    assert!(!trial.has("own") && !trial.has("unknown"));
    assert_eq!(trial.registry.channels(), 2 + 3);
    tokio::time::advance(LINGER).await;
    trial.registry.expire(Instant::now(), trial.release());
    assert_eq!((trial.registry.channels(), trial.registry.creators.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_queue_does_not_keep_evicted_channels() {
    let one = address("203.0.113.7");
    let trial = Trial::new(1000, 3);
    for number in 0..10_000 {
        let name = number.to_string();
        trial.subscribe(&name, one).unwrap();
        trial.unsubscribe(&name);
        let (entries, channels) = (trial.registry.queue().len(), trial.registry.channels());
        // The channel that is evicted counts when the queue is looked at.
        let most = 2 * (channels + 1) + ROOM_KEPT;
        assert!(channels <= 3 && entries <= most, "{entries} entries, {channels} channels");
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_lets_go_a_bounded_number_of_channels() {
    const MANY: usize = 2 * EXPIRED_PER_TURN_MAX + 1;
    let trial = Trial::new(MANY, 1);
    for number in 0..MANY {
        trial.subscribe(&number.to_string(), None).unwrap();
        trial.unsubscribe(&number.to_string());
    }
    tokio::time::advance(LINGER).await;
    let now = Instant::now();
    for left in [EXPIRED_PER_TURN_MAX + 1, 1] {
        assert!(trial.registry.expire(now, trial.release()) <= now, "more are due");
        assert_eq!(trial.registry.channels(), left);
    }
    assert!(trial.registry.expire(now, trial.release()) > now);
    assert_eq!(trial.registry.channels(), 0);
    let (map, queue) = (trial.registry.channels.capacity(), trial.registry.queue().capacity());
    assert!(map <= ROOM_KEPT && queue <= ROOM_KEPT, "{map} and {queue} are kept");
}

#[tokio::test(start_paused = true)]
async fn evictions_alone_give_memory_back() {
    const MANY: usize = 2000;
    let trial = Trial::new(MANY, 0);
    for number in 0..MANY {
        trial.subscribe(&number.to_string(), address("203.0.113.7")).unwrap();
    }
    for number in 0..MANY {
        trial.unsubscribe(&number.to_string());
    }
    assert_eq!(trial.registry.channels(), 0);
    tokio::time::advance(LINGER / 2).await;
    trial.registry.expire(Instant::now(), trial.release());
    let (map, queue) = (trial.registry.channels.capacity(), trial.registry.queue().capacity());
    assert!(map <= ROOM_KEPT && queue <= 8 * ROOM_KEPT, "{map} and {queue} are kept");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Subscribe(u8, u8),
    Unsubscribe(u8),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12u8, 1..3u8).prop_map(|(name, host)| Step::Subscribe(name, host)),
        4 => (0..12u8).prop_map(Step::Unsubscribe),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn a_subscribe_fails_only_where_every_channel_is_used(steps in prop::collection::vec(step(), 0..200)) {
        const CHANNELS: usize = 5;
        const IDLE: usize = 2;
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        clock.block_on(async move {
            let trial = Trial::new(CHANNELS, IDLE);
            let mut used = std::collections::BTreeSet::new();
            for step in steps {
                match step {
                    Step::Subscribe(name, host) => {
                        let from = Some(IpAddr::from([203, 0, 113, host]));
                        let subscribed = trial.subscribe(&name.to_string(), from).is_ok();
                        assert_eq!(subscribed, used.contains(&name) || used.len() < CHANNELS);
                        used.extend(subscribed.then_some(name));
                    }
                    Step::Unsubscribe(name) => {
                        if used.remove(&name) {
                            trial.unsubscribe(&name.to_string());
                        }
                    }
                    Step::Wait => {
                        tokio::time::advance(Duration::from_secs(7)).await;
                        trial.registry.expire(Instant::now(), trial.release());
                    }
                }
                assert!(used.iter().all(|name| trial.has(&name.to_string())));
                assert!(trial.registry.channels() <= CHANNELS);
                assert!(trial.registry.creators.idle_max() <= IDLE);
            }
            used.iter().for_each(|name| trial.unsubscribe(&name.to_string()));
            tokio::time::advance(LINGER).await;
            trial.registry.expire(Instant::now(), trial.release());
            assert_eq!((trial.registry.channels(), trial.registry.creators.len()), (0, 0));
            assert!(trial.registry.queue().is_empty());
        });
    }
}

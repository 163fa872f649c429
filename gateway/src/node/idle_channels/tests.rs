//! Channels without a subscriber: how long they stay, and which of them are evicted.

use std::cell::RefCell;

use earshot_protocol::ChannelName;
use proptest::prelude::*;

use super::*;
use crate::auth::ClientNetwork;
use crate::metrics::Metrics;
use crate::node::history::HistoryBudget;
use crate::node::messages::SubscribeError;
use crate::node::namespace::fixtures::open_channel;
use crate::node::registry::ChannelLimits;

const UNSUBSCRIBE_DELAY: Duration = Duration::from_secs(30);

/// A registry that records which channels it unsubscribes.
struct TestRegistry {
    registry: Arc<ChannelRegistry>,
    unsubscribed: RefCell<Vec<String>>,
}

impl TestRegistry {
    fn new(channels: usize, idle_per_creator: usize) -> Self {
        let limits = ChannelLimits {
            channels,
            idle_per_creator,
            unsubscribe_delay: UNSUBSCRIBE_DELAY,
            publication_bytes: 100,
            recovery_publications: 1,
        };
        let registry = ChannelRegistry::new(Arc::from([]), limits, HistoryBudget::new(100), Metrics::new(1));
        Self { registry, unsubscribed: RefCell::default() }
    }

    fn unsubscribe_at_broker(&self) -> impl Fn(&Channel) {
        |channel| self.unsubscribed.borrow_mut().push(channel.name.as_str().to_owned())
    }

    /// A shard subscribes to a channel.
    fn subscribe(&self, name: &str, from: Option<ClientNetwork>) -> Result<(), SubscribeError> {
        let channel = open_channel(name);
        let channel = self.registry.acquire(&channel, from, self.unsubscribe_at_broker())?;
        self.registry.commit_attach(&channel, 0, |_| {});
        Ok(())
    }

    fn unsubscribe(&self, name: &str) {
        self.registry.detach(&ChannelName::parse(name).unwrap(), 0, false, self.unsubscribe_at_broker());
    }

    fn has(&self, name: &str) -> bool {
        self.registry.find(&ChannelName::parse(name).unwrap()).is_some()
    }

    fn unsubscribed(&self) -> Vec<String> {
        self.unsubscribed.take()
    }
}

fn network(address: &str) -> Option<ClientNetwork> {
    Some(ClientNetwork::of(address.parse().unwrap()))
}

#[tokio::test(start_paused = true)]
async fn failed_subscribes_do_not_prolong_the_delay() {
    let test = TestRegistry::new(10, 10);
    let resolved = open_channel("a");
    for second in 0..40 {
        let channel = test.registry.acquire(&resolved, None, |_| {}).unwrap();
        test.registry.abort_attach(&channel, |_| {});
        assert_eq!(test.registry.channels(), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        test.registry.unsubscribe_idle(Instant::now(), |_| {});
        if test.registry.channels() == 0 {
            return assert_eq!(second, 29);
        }
    }
    panic!("the channel was not removed");
}

#[tokio::test(start_paused = true)]
async fn evicts_the_oldest_idle_channels_only() {
    let test = TestRegistry::new(4, 100);
    for name in ["used", "first", "second", "third"] {
        test.subscribe(name, None).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(test.subscribe("more", None), Err(SubscribeError::TooManyChannels));
    for name in ["first", "second", "third"] {
        test.unsubscribe(name);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // It is the youngest now, though its entry is the oldest.
    test.subscribe("first", None).unwrap();
    test.unsubscribe("first");
    for (name, evicted) in [("a", "second"), ("b", "third"), ("c", "first")] {
        test.subscribe(name, None).unwrap();
        assert_eq!(test.unsubscribed(), [evicted]);
        assert!(!test.has(evicted) && test.has("used"));
    }
    assert_eq!(test.subscribe("more", None), Err(SubscribeError::TooManyChannels));
    assert_eq!((test.registry.channels(), test.unsubscribed().len()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn bounds_the_idle_channels_of_a_network() {
    let (one, other, proxy) = (network("203.0.113.7"), network("203.0.113.8"), None);
    let test = TestRegistry::new(1000, 3);
    for (from, prefix) in [(one, "one"), (other, "other"), (proxy, "proxy")] {
        for number in 0..10 {
            test.subscribe(&format!("{prefix}-{number}"), from).unwrap();
        }
        for number in 0..10 {
            test.unsubscribe(&format!("{prefix}-{number}"));
        }
    }
    assert_eq!(test.registry.channels(), 3 + 3 + 10);
    assert_eq!(test.unsubscribed().len(), 14);
    for (number, stays) in [(0, false), (6, false), (7, true), (8, true), (9, true)] {
        assert_eq!(test.has(&format!("one-{number}")), stays, "{number}");
    }
    // A channel that is used again is not idle, and the youngest afterwards.
    test.subscribe("one-7", one).unwrap();
    test.subscribe("one-new", one).unwrap();
    test.unsubscribe("one-new");
    assert_eq!(test.unsubscribed().len(), 0);
    test.unsubscribe("one-7");
    assert_eq!(test.unsubscribed(), ["one-8"]);
    tokio::time::advance(UNSUBSCRIBE_DELAY).await;
    test.registry.unsubscribe_idle(Instant::now(), test.unsubscribe_at_broker());
    assert_eq!((test.registry.channels(), test.registry.creators.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn does_not_attribute_a_channel_of_several_networks() {
    let (one, other) = (network("203.0.113.7"), network("203.0.113.8"));
    let test = TestRegistry::new(1000, 3);
    let shared = ChannelName::parse("shared-in-a-shard").unwrap();
    for name in ["news", "own", "public", shared.as_str()] {
        test.subscribe(name, one).unwrap();
    }
    // A client to which no limit applies, such as a proxy, also counts as another client.
    test.subscribe("public", None).unwrap();
    test.subscribe("news", other).unwrap();
    test.registry.detach(&shared, 0, true, test.unsubscribe_at_broker());
    ["news", "own", "public"].iter().for_each(|name| test.unsubscribe(name));
    for number in 0..10 {
        let name = format!("one-{number}");
        test.subscribe(&name, one).unwrap();
        test.unsubscribe(&name);
    }
    assert!(test.has("news") && test.has("public") && test.has(shared.as_str()));
    assert!(!test.has("own"));
    assert_eq!(test.registry.channels(), 3 + 3);
    tokio::time::advance(UNSUBSCRIBE_DELAY).await;
    test.registry.unsubscribe_idle(Instant::now(), test.unsubscribe_at_broker());
    assert_eq!((test.registry.channels(), test.registry.creators.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn removes_evicted_channels_from_the_queue() {
    let one = network("203.0.113.7");
    let test = TestRegistry::new(1000, 3);
    for number in 0..10_000 {
        let name = number.to_string();
        test.subscribe(&name, one).unwrap();
        test.unsubscribe(&name);
        let (entries, channels) = (test.registry.idle.lock().len(), test.registry.channels());
        // The evicted channel counts when the queue is inspected.
        let most = 2 * (channels + 1) + CAPACITY_MIN;
        assert!(channels <= 3 && entries <= most, "{entries} entries, {channels} channels");
    }
}

#[tokio::test(start_paused = true)]
async fn removes_a_bounded_number_of_channels_per_turn() {
    const MANY: usize = 2 * EXPIRED_PER_TURN_MAX + 1;
    let test = TestRegistry::new(MANY, 1);
    for number in 0..MANY {
        test.subscribe(&number.to_string(), None).unwrap();
        test.unsubscribe(&number.to_string());
    }
    tokio::time::advance(UNSUBSCRIBE_DELAY).await;
    let now = Instant::now();
    for left in [EXPIRED_PER_TURN_MAX + 1, 1] {
        assert!(test.registry.unsubscribe_idle(now, test.unsubscribe_at_broker()) <= now, "more are due");
        assert_eq!(test.registry.channels(), left);
    }
    assert!(test.registry.unsubscribe_idle(now, test.unsubscribe_at_broker()) > now);
    assert_eq!(test.registry.channels(), 0);
    let (map, queue) = (test.registry.channels.capacity(), test.registry.idle.lock().capacity());
    assert!(map <= CAPACITY_MIN && queue <= CAPACITY_MIN, "capacities: {map} and {queue}");
}

#[tokio::test(start_paused = true)]
async fn releases_memory_after_evictions() {
    const MANY: usize = 2000;
    let test = TestRegistry::new(MANY, 0);
    for number in 0..MANY {
        test.subscribe(&number.to_string(), network("203.0.113.7")).unwrap();
    }
    for number in 0..MANY {
        test.unsubscribe(&number.to_string());
    }
    assert_eq!(test.registry.channels(), 0);
    tokio::time::advance(UNSUBSCRIBE_DELAY / 2).await;
    test.registry.unsubscribe_idle(Instant::now(), test.unsubscribe_at_broker());
    let (map, queue) = (test.registry.channels.capacity(), test.registry.idle.lock().capacity());
    assert!(map <= CAPACITY_MIN && queue <= 8 * CAPACITY_MIN, "capacities: {map} and {queue}");
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
    fn subscribe_fails_only_if_every_channel_is_in_use(steps in prop::collection::vec(step(), 0..200)) {
        const CHANNELS: usize = 5;
        const IDLE: usize = 2;
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        clock.block_on(async move {
            let test = TestRegistry::new(CHANNELS, IDLE);
            let mut used = std::collections::BTreeSet::new();
            for step in steps {
                match step {
                    Step::Subscribe(name, host) => {
                        let from = network(&format!("203.0.113.{host}"));
                        let subscribed = test.subscribe(&name.to_string(), from).is_ok();
                        assert_eq!(subscribed, used.contains(&name) || used.len() < CHANNELS);
                        used.extend(subscribed.then_some(name));
                    }
                    Step::Unsubscribe(name) => {
                        if used.remove(&name) {
                            test.unsubscribe(&name.to_string());
                        }
                    }
                    Step::Wait => {
                        tokio::time::advance(Duration::from_secs(7)).await;
                        test.registry.unsubscribe_idle(Instant::now(), test.unsubscribe_at_broker());
                    }
                }
                assert!(used.iter().all(|name| test.has(&name.to_string())));
                assert!(test.registry.channels() <= CHANNELS);
                assert!(test.registry.creators.idle_max() <= IDLE);
            }
            used.iter().for_each(|name| test.unsubscribe(&name.to_string()));
            tokio::time::advance(UNSUBSCRIBE_DELAY).await;
            test.registry.unsubscribe_idle(Instant::now(), test.unsubscribe_at_broker());
            assert_eq!((test.registry.channels(), test.registry.creators.len()), (0, 0));
            assert!(test.registry.idle.lock().is_empty());
        });
    }
}

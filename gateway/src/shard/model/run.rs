//! Publications that come in one batch: what follows goes out together, and a hole among them is told in its place.

use std::sync::Arc;

use earshot_protocol::{ChannelName, Payload, StreamPosition};
use fastrand::Rng;

use super::gateway::Gateway;
use super::line::Line;
use super::rules::{Rules, Slow, Weather};
use crate::node::messages::NodeEvent;
use crate::node::publication::Publication;
use crate::shard::{ArrivalKind, Resume};

const CHANNEL: &str = "a";

/// A gateway in which so many streams hear one channel and have read nothing yet.
fn streams<const N: usize>(client_queue_bytes: usize, slow: Slow) -> (Gateway, [Line; N]) {
    let mut rules = Rules::draw(&mut Rng::with_seed(7), Weather::Calm);
    (rules.asks, rules.lane, rules.client_queue_bytes) = (100, 100, client_queue_bytes);
    (rules.channels, rules.last, rules.slow) = (1, None, vec![slow]);
    let mut gateway = Gateway::new(&rules);
    let channels = vec![ChannelName::parse(CHANNEL).unwrap()];
    let lines = [0; N].map(|_| {
        let (channels, resume) = (channels.clone(), Resume::Fresh);
        Line::open(
            &mut gateway,
            0,
            ArrivalKind::Sse { channels, named: false, ping: false, resume, refusal: None },
        )
    });
    while gateway.shards[0].ask_one() | gateway.shards[0].deliver_all() {}
    (gateway, lines)
}

/// A batch of publications that many steps behind where the shard stands, payloads of so many bytes at the least.
fn deliver(gateway: &mut Gateway, steps: &[u64], bytes: usize) {
    let shard = &mut gateway.shards[0].shard;
    let name = ChannelName::parse(CHANNEL).unwrap();
    let id = shard.channels.find(&name).unwrap();
    let stands = shard.channels.at(id).position;
    let publication = |step: &u64| {
        let position = StreamPosition { offset: stands.offset + step, ..stands };
        let payload = Payload::new(format!("<{step}>{}", "x".repeat(bytes)).into());
        Arc::new(Publication::new(name.clone(), position, payload))
    };
    shard.deliver(NodeEvent::Publications(steps.iter().map(publication).collect()));
    shard.flush_some();
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

#[test]
fn a_hole_in_a_batch_is_told_in_its_place_and_what_was_had_is_left_out() {
    let clock = paused();
    let _entered = clock.enter();
    // Two, so that the shard encodes for itself.
    let (mut gateway, mut lines) = streams::<2>(1 << 20, Slow::Disconnect);
    deliver(&mut gateway, &[1, 2, 2, 3, 6, 7, 1, 8], 0);
    for line in &mut lines {
        while line.read(1000) | gateway.shards[0].wake() {}
        let text = String::from_utf8_lossy(&line.read).into_owned();
        let told = ["<1>", "<2>", "<3>", "event: gap", "<6>", "<7>", "<8>"];
        let places = told.map(|what| text.find(what).unwrap_or_else(|| panic!("{what}: {text}")));
        assert!(places.is_sorted(), "{text}");
        for what in told {
            assert_eq!(text.matches(what).count(), 1, "{what}: {text}");
        }
    }
}

#[test]
fn a_batch_whose_first_part_ends_the_last_subscriber_ends_with_it() {
    let clock = paused();
    let _entered = clock.enter();
    let (mut gateway, _lines) = streams::<1>(1000, Slow::Disconnect);
    // The stream takes the first eight and is too slow for the next, and what follows stands behind a hole.
    deliver(&mut gateway, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14], 100_000);
    let shard = &gateway.shards[0].shard;
    assert!(shard.channels.find(&ChannelName::parse(CHANNEL).unwrap()).is_none());
}

#[test]
fn nobody_is_slow_because_a_batch_is_larger_than_what_may_wait() {
    let clock = paused();
    let _entered = clock.enter();
    for slow in [Slow::Disconnect, Slow::Latest, Slow::DropOldest] {
        let (mut gateway, mut lines) = streams::<1>(20_000, slow);
        let steps: Vec<u64> = (1..=60).collect();
        deliver(&mut gateway, &steps, 1000);
        while !lines[0].ended && (lines[0].read(1000) | gateway.shards[0].wake()) {}
        let text = String::from_utf8_lossy(&lines[0].read).into_owned();
        for step in steps {
            assert_eq!(text.matches(&format!("<{step}>")).count(), 1, "{slow:?}: {step}");
        }
    }
}

#[test]
fn who_was_blocked_and_has_read_meanwhile_is_not_slow() {
    let clock = paused();
    let _entered = clock.enter();
    for slow in [Slow::Disconnect, Slow::DropOldest] {
        let (mut gateway, mut lines) = streams::<1>(20_000, slow);
        let mut blocked = 0;
        for _ in 0..40 {
            deliver(&mut gateway, &(1..=12).collect::<Vec<_>>(), 1000);
            // It reads as soon as it must; that it does, the shard is not told.
            if gateway.shards[0].shard.connections.iter().any(|(_, connection)| connection.blocked) {
                blocked += 1;
                lines[0].read(1000);
            }
        }
        assert!(blocked > 2, "{slow:?}: it was never blocked");
        while !lines[0].ended && (lines[0].read(1000) | gateway.shards[0].wake()) {}
        let text = String::from_utf8_lossy(&lines[0].read).into_owned();
        assert_eq!((text.matches("<12>").count(), text.matches("event: gap").count()), (40, 0), "{slow:?}");
    }
}

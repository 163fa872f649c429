//! Batches of publications: consecutive ones are delivered together, and a gap is reported between them.

use std::sync::Arc;

use earshot_protocol::{ChannelName, Payload, StreamPosition};
use fastrand::Rng;

use super::gateway::Gateway;
use super::parameters::{Parameters, Scenario, Slow};
use super::transport::Transport;
use crate::auth::Identity;
use crate::node::messages::{NodeEvent, PublicationBatch};
use crate::node::publication::Publication;
use crate::shard::{NewConnectionKind, Resume};

const CHANNEL: &str = "a";

/// A gateway with `N` streams on one channel that have read nothing yet.
fn streams<const N: usize>(client_queue_bytes: usize, slow: Slow) -> (Gateway, [Transport; N]) {
    let mut parameters = Parameters::draw(&mut Rng::with_seed(7), Scenario::Unlimited);
    (parameters.pending_requests, parameters.inflight_requests, parameters.client_queue_bytes) =
        (100, 100, client_queue_bytes);
    (parameters.channels, parameters.last, parameters.slow) = (1, None, vec![slow]);
    let mut gateway = Gateway::new(&parameters);
    let channels = vec![gateway.resolve(ChannelName::parse(CHANNEL).unwrap())];
    let lines = [0; N].map(|_| {
        let (channels, resume) = (channels.clone(), Resume::New);
        Transport::open(
            &mut gateway,
            0,
            NewConnectionKind::Sse {
                channels,
                identity: Identity::anonymous(),
                named: false,
                ping: false,
                resume,
                rejection: None,
            },
        )
    });
    while gateway.shards[0].forward_request() | gateway.shards[0].deliver_all() {}
    (gateway, lines)
}

/// Delivers a batch of publications whose offsets are `steps` after the shard's position, with payloads of at least
/// `bytes`.
fn deliver(gateway: &mut Gateway, steps: &[u64], bytes: usize) {
    let shard = &mut gateway.shards[0].shard;
    let name = ChannelName::parse(CHANNEL).unwrap();
    let id = shard.state.channels().find(&name).unwrap();
    let current = shard.state.channels().get(id).position;
    let publication = |step: &u64| {
        let position = StreamPosition { offset: current.offset + step, ..current };
        let payload = Payload::new(format!("<{step}>{}", "x".repeat(bytes)).into());
        Arc::new(Publication::new(name.clone(), position, payload))
    };
    let publications = steps.iter().map(publication).collect();
    let batch = PublicationBatch { publications, queued_at: tokio::time::Instant::now() };
    shard.on_node_event(NodeEvent::Publications(batch));
    shard.flush_batch();
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

#[test]
fn reports_a_gap_within_a_batch_and_skips_duplicates() {
    let clock = paused();
    let _entered = clock.enter();
    // Two subscribers, so that the shard encodes for itself.
    let (mut gateway, mut lines) = streams::<2>(1 << 20, Slow::Disconnect);
    deliver(&mut gateway, &[1, 2, 2, 3, 6, 7, 1, 8], 0);
    for transport in &mut lines {
        while transport.read(1000) | gateway.shards[0].wake() {}
        let text = String::from_utf8_lossy(&transport.read).into_owned();
        let shown = ["<1>", "<2>", "<3>", "event: gap", "<6>", "<7>", "<8>"];
        let views = shown.map(|what| text.find(what).unwrap_or_else(|| panic!("{what}: {text}")));
        assert!(views.is_sorted(), "{text}");
        for what in shown {
            assert_eq!(text.matches(what).count(), 1, "{what}: {text}");
        }
    }
}

#[test]
fn stops_a_batch_that_removes_the_last_subscriber() {
    let clock = paused();
    let _entered = clock.enter();
    let (mut gateway, _lines) = streams::<1>(1000, Slow::Disconnect);
    // The stream accepts eight chunks and is too slow for the next one; the rest follows a gap.
    deliver(&mut gateway, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14], 100_000);
    let shard = &gateway.shards[0].shard;
    assert!(shard.state.channels().find(&ChannelName::parse(CHANNEL).unwrap()).is_none());
}

#[test]
fn does_not_disconnect_for_a_batch_larger_than_the_queue() {
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
fn flushes_a_blocked_client_before_it_is_slow() {
    let clock = paused();
    let _entered = clock.enter();
    for slow in [Slow::Disconnect, Slow::DropOldest] {
        let (mut gateway, mut lines) = streams::<1>(20_000, slow);
        let mut blocked = 0;
        for _ in 0..40 {
            deliver(&mut gateway, &(1..=12).collect::<Vec<_>>(), 1000);
            // The client reads while it is blocked, and the shard is not notified.
            if gateway.shards[0].shard.state.connections().iter().any(|connection| connection.blocked) {
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

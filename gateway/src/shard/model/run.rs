//! Publications that come in one batch: what follows goes out together, and a hole among them is told in its place.

use std::sync::Arc;

use earshot_protocol::{ChannelName, Payload, StreamPosition};
use fastrand::Rng;

use super::gateway::Gateway;
use super::line::Line;
use super::rules::{Rules, Weather};
use crate::node::port::Delivery;
use crate::node::publication::Publication;
use crate::shard::{ArrivalKind, Resume};

#[test]
fn a_hole_in_a_batch_is_told_in_its_place_and_what_was_had_is_left_out() {
    let clock =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = clock.enter();
    let mut rules = Rules::draw(&mut Rng::with_seed(7), Weather::Calm);
    (rules.asks, rules.lane, rules.outbox_bytes) = (100, 100, 1 << 20);
    let mut gateway = Gateway::new(&rules);
    let name = ChannelName::parse("a").unwrap();
    let stream = || ArrivalKind::Sse {
        channels: vec![name.clone()],
        named: false,
        resume: Resume::Fresh,
        refusal: None,
    };
    // Two, so that the shard encodes for itself.
    let mut lines = [0; 2].map(|_| Line::open(&mut gateway, 0, stream()));
    while gateway.shards[0].ask_one() | gateway.shards[0].deliver_all() {}
    let shard = &mut gateway.shards[0].shard;
    let id = shard.channels.find(&name).unwrap();
    let stands = shard.channels.at(id).position;
    let publication = |step: u64| {
        let position = StreamPosition { offset: stands.offset + step, ..stands };
        let payload = Payload::new(format!("<{step}>").into());
        Arc::new(Publication::new(name.clone(), position, payload))
    };
    shard.deliver(Delivery::Publications([1, 2, 2, 3, 6, 7, 1, 8].map(publication).to_vec()));
    shard.flush_some();
    for line in &mut lines {
        while line.read(1000) | gateway.shards[0].wake() {}
        let text = String::from_utf8_lossy(&line.read).into_owned();
        let told: Vec<&str> = ["<1>", "<2>", "<3>", "event: gap", "<6>", "<7>", "<8>"].into_iter().collect();
        let places: Vec<_> =
            told.iter().map(|what| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"))).collect();
        assert!(places.is_sorted(), "{text}");
        for what in told {
            assert_eq!(text.matches(what).count(), 1, "{what}: {text}");
        }
    }
}

//! A connection that was ended is gone soon, whatever else was about to happen with it.

use std::time::Duration;

use earshot_protocol::{ChannelName, Encoding};
use fastrand::Rng;

use super::gateway::Gateway;
use super::line::Line;
use super::rules::{Rules, Slow, Weather};
use super::truth::payload;
use crate::broker::{BrokerEventHandler, BrokerMessage};
use crate::shard::wheel::TICK;
use crate::shard::{ArrivalKind, Resume};

#[test]
fn a_stream_that_a_heartbeat_finds_too_slow_is_let_go() {
    let clock =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = clock.enter();
    let mut rules = Rules::draw(&mut Rng::with_seed(7), Weather::Crowded);
    (rules.client_queue_bytes, rules.asks, rules.lane) = (150, 100, 100);
    let mut gateway = Gateway::new(&rules);
    gateway.shards[0].shard.limits.sse_max_age = None;
    let channels = vec![ChannelName::parse("a").unwrap()];
    let kind = ArrivalKind::Sse { channels, named: false, ping: false, resume: Resume::Fresh, refusal: None };
    // Its client reads nothing, ever.
    let _line = Line::open(&mut gateway, 0, kind);
    let shard = &mut gateway.shards[0];
    while shard.ask_one() | shard.deliver_all() {}
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes).as_millis() / TICK.as_millis();
    for _ in 0..minutes(40) {
        clock.block_on(tokio::time::advance(TICK));
        shard.tick();
    }
    assert_eq!(shard.shard.connections.len(), 0, "{:?}", shard.shard.connections.iter().next());
}

#[test]
fn nothing_comes_after_the_close_that_what_gave_way_led_to() {
    let clock =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = clock.enter();
    let mut rules = Rules::draw(&mut Rng::with_seed(7), Weather::Calm);
    (rules.channels, rules.last, rules.slow) = (1, None, vec![Slow::DropOldest]);
    let mut gateway = Gateway::new(&rules);
    let kind = ArrivalKind::WebSocket { encoding: Encoding::Json, refusal: None };
    let mut line = Line::open(&mut gateway, 0, kind);
    // Its channel comes with the connect command, so that a gap in it ends the connection.
    line.sent = client_frame(0x81, br#"{"id":1,"connect":{"subs":{"a":{}}}}"#);
    line.arrive(&mut gateway);
    while gateway.shards[0].ask_one() | gateway.shards[0].deliver_all() {}
    // It reads nothing.
    let backlog = |gateway: &Gateway| {
        let connection = gateway.shards[0].shard.connections.iter().next().unwrap().1;
        (connection.backlog_bytes(), connection.weight())
    };
    for number in 1.. {
        let message = BrokerMessage { channel: "a".to_owned(), data: payload(number, 0) };
        gateway.registry.on_messages(&mut vec![message]);
        gateway.shards[0].deliver_all();
        if backlog(&gateway).0 > 0 {
            break;
        }
    }
    // Almost as much waits as may: the answer to this finds no room.
    gateway.shards[0].shard.limits.client_queue_bytes = backlog(&gateway).1 + 100;
    line.sent = client_frame(0x89, &[b'x'; 120]);
    line.arrive(&mut gateway);
    while line.read(100) | gateway.shards[0].wake() {}
    let closing = line.read.windows(2).rposition(|bytes| bytes == 3010u16.to_be_bytes()).expect("closed");
    let reason = usize::from(line.read[closing - 1]) - 2;
    assert_eq!(line.read.len(), closing + 2 + reason, "{:?}", String::from_utf8_lossy(&line.read[closing..]));
}

/// A frame of a client, with a mask of zeros.
fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = 0x80 | u8::try_from(payload.len()).unwrap();
    [&[first, length, 0, 0, 0, 0], payload].concat()
}

//! A closed connection is removed in time, whatever other timers are pending.

use std::time::Duration;

use earshot_protocol::{ChannelName, Encoding};
use fastrand::Rng;

use super::gateway::Gateway;
use super::parameters::{Parameters, Scenario, Slow};
use super::transport::Transport;
use super::truth::payload;
use crate::auth::Identity;
use crate::broker::{BrokerEventHandler, BrokerMessage};
use crate::shard::timer_wheel::TICK;
use crate::shard::{NewConnectionKind, Resume};

#[test]
fn removes_a_stream_that_a_heartbeat_finds_too_slow() {
    let clock =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = clock.enter();
    let mut parameters = Parameters::draw(&mut Rng::with_seed(7), Scenario::Constrained);
    (parameters.client_queue_bytes, parameters.pending_requests, parameters.inflight_requests) =
        (150, 100, 100);
    let mut gateway = Gateway::new(&parameters);
    gateway.shards[0].shard.state.change_limits(|limits| limits.sse_max_age = None);
    let channels = vec![gateway.resolve(ChannelName::parse("a").unwrap())];
    let kind = NewConnectionKind::Sse {
        channels,
        identity: Identity::anonymous(),
        named: false,
        ping: false,
        resume: Resume::New,
        rejection: None,
    };
    // Its client never reads.
    let _line = Transport::open(&mut gateway, 0, kind);
    let shard = &mut gateway.shards[0];
    while shard.forward_request() | shard.deliver_all() {}
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes).as_millis() / TICK.as_millis();
    for _ in 0..minutes(40) {
        clock.block_on(tokio::time::advance(TICK));
        shard.on_tick();
    }
    assert_eq!(
        shard.shard.state.connections().iter().count(),
        0,
        "{:?}",
        shard.shard.state.connections().iter().next()
    );
}

#[test]
fn sends_nothing_after_a_close_that_a_dropped_publication_causes() {
    let clock =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = clock.enter();
    let mut parameters = Parameters::draw(&mut Rng::with_seed(7), Scenario::Unlimited);
    (parameters.channels, parameters.last, parameters.slow) = (1, None, vec![Slow::DropOldest]);
    let mut gateway = Gateway::new(&parameters);
    let kind = NewConnectionKind::WebSocket { encoding: Encoding::Json, client: None, rejection: None };
    let mut transport = Transport::open(&mut gateway, 0, kind);
    // The channel is part of the connect command, so a gap in it closes the connection.
    transport.sent = client_frame(0x81, br#"{"id":1,"connect":{"subs":{"a":{}}}}"#);
    transport.deliver_sent(&mut gateway);
    while gateway.shards[0].forward_request() | gateway.shards[0].deliver_all() {}
    // It reads nothing.
    let backlog = |gateway: &Gateway| {
        let connection = gateway.shards[0].shard.state.connections().iter().next().unwrap();
        (connection.send_queue.backlog_bytes(), connection.send_queue.queued_bytes())
    };
    for number in 1.. {
        let message = BrokerMessage { channel: "a".to_owned(), data: payload(number, 0) };
        gateway.registry.on_messages(&mut vec![message]);
        gateway.shards[0].deliver_all();
        if backlog(&gateway).0 > 0 {
            break;
        }
    }
    // The queue is almost full: there is no room for the reply to this ping.
    let limit = backlog(&gateway).1 + 100;
    gateway.shards[0].shard.state.change_limits(|limits| limits.client_queue_bytes = limit);
    transport.sent = client_frame(0x89, &[b'x'; 120]);
    transport.deliver_sent(&mut gateway);
    while transport.read(100) | gateway.shards[0].wake() {}
    let closing =
        transport.read.windows(2).rposition(|bytes| bytes == 3010u16.to_be_bytes()).expect("closed");
    let reason = usize::from(transport.read[closing - 1]) - 2;
    assert_eq!(
        transport.read.len(),
        closing + 2 + reason,
        "{:?}",
        String::from_utf8_lossy(&transport.read[closing..])
    );
}

/// A frame of a client, with a mask of zeros.
pub(super) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = 0x80 | u8::try_from(payload.len()).unwrap();
    [&[first, length, 0, 0, 0, 0], payload].concat()
}

//! From a message of a broker into outboxes, and from outboxes to sockets, compared with the minimum for both.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use bytes::Bytes;
use earshot::broker::BrokerMessage;
use earshot::shard::NewConnectionKind;
use earshot::shard::bench::BenchShard;
use earshot_protocol::Encoding;

use crate::encode::payload;
use crate::race::{Race, measured};

/// Subscribers of the channel in the two cases: not every machine allows thousands of sockets.
const SUBSCRIBERS: usize = 5000;
const SOCKETS: usize = 200;

/// Channels with one subscriber each.
const CHANNELS: usize = 1000;

pub(crate) fn run(race: &Race) {
    if race.wants("dispatch") {
        dispatch(race);
    }
    if race.wants("flush") {
        for burst in [1, 10] {
            flush(race, burst);
        }
    }
}

fn dispatch(race: &Race) {
    let mut one = BenchShard::new().unwrap();
    for _ in 0..SUBSCRIBERS {
        one.accept_idle(websocket(), connect_and_subscribe("c0"));
    }
    race.run(
        "dispatch: one channel, each of 5000 subscribers",
        measured(SUBSCRIBERS, || dispatch_once(&mut one, 1)),
        "a frame into a queue",
        queues(SUBSCRIBERS),
    );

    let mut many = BenchShard::new().unwrap();
    for n in 0..CHANNELS {
        many.accept_idle(websocket(), connect_and_subscribe(&format!("c{n}")));
    }
    race.run(
        "dispatch: each of 1000 channels, encoding included",
        measured(CHANNELS, || dispatch_once(&mut many, CHANNELS)),
        "a frame into a queue",
        queues(CHANNELS),
    );
}

/// One message on each channel, as far as the outboxes.
fn dispatch_once(stage: &mut BenchShard, channels: usize) -> std::time::Duration {
    let mut messages: Vec<BrokerMessage> = (0..channels).map(message).collect();
    let begun = Instant::now();
    stage.receive(&mut messages);
    stage.dispatch();
    let took = begun.elapsed();
    assert!(stage.discard() >= channels);
    took
}

/// The minimum for a queue of frames: one slot and one reference count each.
fn queues<'a>(count: usize) -> crate::race::Runner<'a> {
    let frame = Bytes::from(vec![b'x'; 200]);
    let mut queues: Vec<VecDeque<Bytes>> = vec![VecDeque::new(); count];
    measured(count, move || {
        let begun = Instant::now();
        for queue in &mut queues {
            queue.push_back(frame.clone());
        }
        let took = begun.elapsed();
        for queue in &mut queues {
            // An idle connection holds no memory, as in the gateway.
            *black_box(queue) = VecDeque::new();
        }
        took
    })
}

fn flush(race: &Race, burst: usize) {
    let mut stage = BenchShard::new().unwrap();
    let mut peers = Vec::new();
    let mut writers = Vec::new();
    for _ in 0..SOCKETS {
        let (ours, peer) = pair();
        writers.push(ours.try_clone().unwrap());
        stage.accept(mio::net::TcpStream::from_std(ours), websocket(), connect_and_subscribe("c0"));
        peers.push(peer);
    }
    drain(&mut peers);
    stage.receive(&mut vec![message(0)]);
    stage.settle();
    let frame = vec![b'x'; drain(&mut peers) / SOCKETS * burst];
    let mut readers: Vec<TcpStream> = peers.iter().map(|peer| peer.try_clone().unwrap()).collect();
    race.run(
        &format!("flush: {burst} to each of {SOCKETS} sockets"),
        measured(SOCKETS, || {
            let mut messages: Vec<BrokerMessage> = (0..burst).map(|_| message(0)).collect();
            stage.receive(&mut messages);
            stage.dispatch();
            let begun = Instant::now();
            stage.flush();
            let took = begun.elapsed();
            drain(&mut peers);
            took
        }),
        "a bare write of as many bytes",
        measured(SOCKETS, || {
            let begun = Instant::now();
            for writer in &mut writers {
                assert_eq!(writer.write(&frame).unwrap(), frame.len());
            }
            let took = begun.elapsed();
            drain(&mut readers);
            took
        }),
    );
}

fn message(channel: usize) -> BrokerMessage {
    BrokerMessage { channel: format!("c{channel}"), data: payload(128) }
}

fn websocket() -> NewConnectionKind {
    NewConnectionKind::WebSocket { encoding: Encoding::Json, client: None, rejection: None }
}

/// The first frames of a client, with a mask of zeros.
fn connect_and_subscribe(channel: &str) -> Bytes {
    let commands =
        format!("{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}");
    let mut frame = vec![0x81, 0x80 | u8::try_from(commands.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(commands.as_bytes());
    frame.into()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nodelay(true).unwrap();
    ours.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    (ours, peer)
}

/// Reads what is available and returns the number of bytes.
fn drain(peers: &mut [TcpStream]) -> usize {
    let mut buffer = [0; 16 * 1024];
    let mut bytes = 0;
    for peer in peers {
        while let Ok(length) = peer.read(&mut buffer) {
            bytes += length;
            if length < buffer.len() {
                break;
            }
        }
    }
    bytes
}

//! Dispatches broker messages to client queues and flushes queues to sockets, compared with a lower bound for each.

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

use crate::comparison::{Comparison, self_timed};
use crate::encode::payload;

/// Subscribers of the channel, without and with sockets: not every machine allows thousands of sockets.
const SUBSCRIBERS: usize = 5000;
const SOCKETS: usize = 200;

/// Channels with one subscriber each.
const CHANNELS: usize = 1000;

pub(crate) fn run(comparison: &Comparison) {
    if comparison.is_selected("dispatch") {
        dispatch(comparison);
    }
    if comparison.is_selected("flush") {
        for burst in [1, 10] {
            flush(comparison, burst);
        }
    }
}

fn dispatch(comparison: &Comparison) {
    let mut one = BenchShard::new().unwrap();
    for _ in 0..SUBSCRIBERS {
        one.accept_idle(websocket(), connect_and_subscribe("c0"));
    }
    comparison.run(
        "dispatch: one channel, each of 5000 subscribers",
        self_timed(SUBSCRIBERS, || dispatch_once(&mut one, 1)),
        "a frame into a queue",
        queues(SUBSCRIBERS),
    );

    let mut many = BenchShard::new().unwrap();
    for n in 0..CHANNELS {
        many.accept_idle(websocket(), connect_and_subscribe(&format!("c{n}")));
    }
    comparison.run(
        "dispatch: each of 1000 channels, encoding included",
        self_timed(CHANNELS, || dispatch_once(&mut many, CHANNELS)),
        "a frame into a queue",
        queues(CHANNELS),
    );
}

/// Dispatches one message on each channel to the client queues.
fn dispatch_once(shard: &mut BenchShard, channels: usize) -> std::time::Duration {
    let mut messages: Vec<BrokerMessage> = (0..channels).map(message).collect();
    let started = Instant::now();
    shard.receive(&mut messages);
    shard.dispatch();
    let took = started.elapsed();
    assert!(shard.discard() >= channels);
    took
}

/// The lower bound for a queue of frames: one slot and one reference count each.
fn queues<'a>(count: usize) -> crate::comparison::Workload<'a> {
    let frame = Bytes::from(vec![b'x'; 200]);
    let mut queues: Vec<VecDeque<Bytes>> = vec![VecDeque::new(); count];
    self_timed(count, move || {
        let started = Instant::now();
        for queue in &mut queues {
            queue.push_back(frame.clone());
        }
        let took = started.elapsed();
        for queue in &mut queues {
            // An idle connection holds no memory, as in the gateway.
            *black_box(queue) = VecDeque::new();
        }
        took
    })
}

fn flush(comparison: &Comparison, burst: usize) {
    let mut shard = BenchShard::new().unwrap();
    let mut peers = Vec::new();
    let mut writers = Vec::new();
    for _ in 0..SOCKETS {
        let (accepted, peer) = pair();
        writers.push(accepted.try_clone().unwrap());
        shard.accept(mio::net::TcpStream::from_std(accepted), websocket(), connect_and_subscribe("c0"));
        peers.push(peer);
    }
    drain(&mut peers);
    shard.receive(&mut vec![message(0)]);
    shard.settle();
    let frame = vec![b'x'; drain(&mut peers) / SOCKETS * burst];
    let mut readers: Vec<TcpStream> = peers.iter().map(|peer| peer.try_clone().unwrap()).collect();
    comparison.run(
        &format!("flush: {burst} to each of {SOCKETS} sockets"),
        self_timed(SOCKETS, || {
            let mut messages: Vec<BrokerMessage> = (0..burst).map(|_| message(0)).collect();
            shard.receive(&mut messages);
            shard.dispatch();
            let started = Instant::now();
            shard.flush();
            let took = started.elapsed();
            drain(&mut peers);
            took
        }),
        "a plain write of the same number of bytes",
        self_timed(SOCKETS, || {
            let started = Instant::now();
            for writer in &mut writers {
                assert_eq!(writer.write(&frame).unwrap(), frame.len());
            }
            let took = started.elapsed();
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
    let (accepted, _) = listener.accept().unwrap();
    accepted.set_nodelay(true).unwrap();
    accepted.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    (accepted, peer)
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

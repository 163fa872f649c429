//! What a slow client costs when publications have next to no payload: the queue must count what an entry occupies
//! beside its bytes.
//!
//! Each slow client has a channel of its own, so no other connection shares what waits for it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;

use super::heap::{Running, allocated};
use super::wire::{HANDSHAKE, connect, frame, read_until};
use super::{KIB, namespace, settled};

const LIMITS: &str = r#"
[limits]
client_queue_bytes = "1MiB"
publication_bytes = "64KiB"
"#;

/// The policies of the namespaces, which are named after them.
const POLICIES: [&str; 3] = ["disconnect", "latest", "drop-oldest"];

/// `limits.client_queue_bytes` above.
const QUEUE: usize = 1024 * KIB;

/// What a client may cost beside its queue here: a channel, a subscription, and buffers that grow by doubling.
const OTHER: usize = 128 * KIB;

const CLIENTS: usize = 4;

/// The channel of the publication that ends a round. The shard delivers in the order of publication, so when the
/// publisher receives it, nothing of the round is still on its way to the clients.
const BARRIER: &str = "disconnect:barrier";

/// Publications on each channel in one round, and the rounds after which the heap has stopped growing.
const ROUND: usize = 100;
const QUIET_ROUNDS: usize = 40;

#[test]
fn bounds_the_memory_of_a_slow_client_for_payloads_of_one_byte() {
    let running = Running::start(&format!("{LIMITS}{}", POLICIES.map(policy_namespace).concat()));
    let mut publisher = connect(running.address, 64 * KIB);
    open_websocket(&mut publisher, &format!(r#"{{"subs":{{"{BARRIER}":{{}}}}}}"#));
    let mut id = 1;
    for policy in POLICIES {
        for transport in ["WebSocket", "SSE single", "SSE named"] {
            let before = settled();
            let clients: Vec<TcpStream> =
                (0..CLIENTS).map(|n| slow_client(&running, transport, &format!("{policy}:{n}"))).collect();
            let (mut peak, mut quiet, mut rounds) = (allocated(), 0, 0);
            while quiet < QUIET_ROUNDS {
                publish_round(&mut publisher, policy, &mut id);
                let now = allocated();
                quiet = if now > peak + 4 * KIB { 0 } else { quiet + 1 };
                (peak, rounds) = (peak.max(now), rounds + 1);
            }
            let cost = peak.saturating_sub(before) / CLIENTS;
            println!("{policy}, {transport}: {} KiB a client after {rounds} rounds", cost / KIB);
            assert!(cost <= QUEUE + OTHER, "{policy}, {transport}: {cost} bytes for each client");
            drop(clients);
        }
    }
    drop(publisher);
    running.stop();
}

/// The namespace of a policy, without history.
fn policy_namespace(policy: &str) -> String {
    let conflation_key = if policy == "latest" { "slow_consumer.conflation_key = \"/k\"" } else { "" };
    let keys = format!("history = {{ size = 0 }}\nslow_consumer.policy = \"{policy}\"\n{conflation_key}");
    namespace(policy, &keys)
}

/// A client that is subscribed to `channel` and reads nothing from then on.
fn slow_client(running: &Running, transport: &str, channel: &str) -> TcpStream {
    let mut socket = connect(running.address, 4 * KIB);
    if transport == "WebSocket" {
        open_websocket(&mut socket, &format!(r#"{{"subs":{{"{channel}":{{}}}}}}"#));
        return socket;
    }
    let path = match transport {
        "SSE single" => format!("/sse/{channel}"),
        _ => format!("/sse?channel={channel}&channel={channel}:other"),
    };
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    read_until(&mut socket, b"\n\n\r\n", b"event: subscribed");
    socket
}

fn open_websocket(socket: &mut TcpStream, connect: &str) {
    socket.write_all(HANDSHAKE.as_bytes()).unwrap();
    read_until(socket, b"\r\n\r\n", b"101");
    socket.write_all(&frame(&format!(r#"{{"id":1,"connect":{connect}}}"#))).unwrap();
    read_until(socket, b"}", br#"{"id":1,"#);
}

/// Publishes on the channel of each client and waits until everything is queued for the clients. With `latest` each payload names another key.
fn publish_round(publisher: &mut TcpStream, policy: &str, id: &mut usize) {
    let mut commands = String::new();
    for _ in 0..ROUND {
        for client in 0..CLIENTS {
            *id += 1;
            let data = if policy == "latest" { format!(r#"{{"k":{id}}}"#) } else { "1".to_owned() };
            let _ = writeln!(
                commands,
                r#"{{"id":{id},"publish":{{"channel":"{policy}:{client}","data":{data}}}}}"#
            );
        }
    }
    *id += 1;
    let _ = write!(commands, r#"{{"id":{id},"publish":{{"channel":"{BARRIER}","data":"end of {id}"}}}}"#);
    publisher.write_all(&frame(&commands)).unwrap();
    read_until(publisher, b"}", format!("end of {id}").as_bytes());
}

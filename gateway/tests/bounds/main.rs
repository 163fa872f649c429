//! The memory of one connection at worst, counted by the allocator: clients that send as much as they may and read
//! nothing, over WebSocket and SSE, with a Redis that answers and with one that hangs.
//!
//! The bound is the formula of `docs/operations.md`. A seed can be repeated: `EARSHOT_SEED=… cargo test -p earshot-gateway
//! --test bounds`. Clients never read what the gateway sends.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, read the clock and start processes of its own"
)]

#[path = "../heap/mod.rs"]
mod heap;
mod tiny;
mod wire;

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fastrand::Rng;

use heap::{Running, TIMEOUT, allocated};
use wire::{HANDSHAKE, connect, frame, read_until};

const LIMITS: &str = r#"
[limits]
client_queue_bytes = "256KiB"
publication_bytes = "64KiB"
pending_command_bytes = "256KiB"
message_bytes = "64KiB"
"#;

/// Namespaces on Redis.
const ON_REDIS: &str = r#"
[redis.default]
url = "REDIS"
command_timeout = "20s"
[[namespace]]
name = "away"
channels = ["away:*"]
subscribe = "anyone"
publish = "anyone"
history = { size = 0 }
when_redis_down = "reject"
[[namespace]]
name = "logs"
channels = ["log:*"]
source = "stream"
subscribe = "anyone"
publish = "anyone"
"#;

const KIB: usize = 1024;

/// The formula of `docs/operations.md`, with the limits above.
const CONNECTION: usize = (256 + 256 + 4 * 64 + 64 + 256 + 512) * KIB;

/// Memory that does not belong to a connection: the runtimes, the links to Redis, the test itself.
const OTHER: usize = 2 * KIB * KIB;

/// Connections at a time, and the messages that each of them sends.
const CONNECTIONS: usize = 8;
const MESSAGES: usize = 300;

/// Channels with a history, and the publications that fill each of them: more than it keeps.
const CHANNELS: usize = 24;
const FILL: usize = 40;
const FILL_BYTES: usize = 8 * KIB;

/// Cases in one run.
const CASES: u64 = 8;

/// A case is over when no client could send anything for this long.
const QUIET_INTERVAL: Duration = Duration::from_millis(300);

#[test]
fn bounds_the_memory_of_a_connection() {
    let redis = Redis::start();
    let kept = namespace("kept", r#"history = { size = 64, bytes = "256KiB", ttl = "1h" }"#);
    let plain = namespace("plain", "history = { size = 0 }");
    let on_redis = ON_REDIS.replace("REDIS", &redis.url);
    let running = Running::start(&format!("{LIMITS}{kept}{plain}{on_redis}"));
    let cursor = fill(running.address);
    let given = std::env::var("EARSHOT_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let first = given.unwrap_or_else(|| fastrand::u64(..u64::MAX / 2));
    let mut most = 0;
    for seed in first..first + if given.is_some() { 1 } else { CASES } {
        let mut rng = Rng::with_seed(seed);
        let hangs = seed % 2 == 0;
        if hangs {
            redis.signal("STOP");
        }
        let before = settled();
        let mut clients: Vec<Client> =
            (0..CONNECTIONS).map(|_| Client::open(running.address, &cursor, &mut rng)).collect();
        let height = flood(&mut clients, &mut rng).saturating_sub(before);
        println!(
            "EARSHOT_SEED={seed}, Redis hangs: {hangs}: {} KiB a connection",
            height / CONNECTIONS / KIB
        );
        most = most.max(height);
        assert!(
            height <= CONNECTIONS * CONNECTION + OTHER,
            "EARSHOT_SEED={seed}: {height} bytes, {} for each connection",
            height / CONNECTIONS
        );
        drop(clients);
        if hangs {
            redis.signal("CONT");
        }
        let deadline = Instant::now() + TIMEOUT;
        while allocated() > before + OTHER {
            assert!(
                Instant::now() < deadline,
                "EARSHOT_SEED={seed}: {} bytes are kept",
                allocated() - before
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    println!("peak: {most} bytes; limit: {} KiB for each connection", CONNECTION / KIB);
    running.stop();
}

/// A namespace in memory that is open for clients; its channels begin with its name and a colon.
fn namespace(name: &str, keys: &str) -> String {
    let access = "subscribe = \"anyone\"\npublish = \"anyone\"";
    format!(
        "[[namespace]]\nname = \"{name}\"\nchannels = [\"{name}:*\"]\nredis = \"memory\"\n{access}\n{keys}\n"
    )
}

/// Lets every client send as much as the gateway accepts. Returns the peak of bytes on the heap.
fn flood(clients: &mut [Client], rng: &mut Rng) -> usize {
    let (mut most, mut progress) = (allocated(), Instant::now());
    let deadline = Instant::now() + TIMEOUT;
    while progress.elapsed() < QUIET_INTERVAL {
        assert!(Instant::now() < deadline, "the clients keep sending");
        for client in &mut *clients {
            if client.send(rng) {
                progress = Instant::now();
            }
        }
        most = most.max(allocated());
        std::thread::sleep(Duration::from_millis(1));
    }
    most
}

/// Bytes on the heap once they no longer change by much.
fn settled() -> usize {
    heap::settled_allocation(64 * KIB)
}

struct Redis {
    child: Child,
    url: String,
}

impl Redis {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not accept connections");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, url: format!("redis://127.0.0.1:{port}/0") }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.unwrap().success(), "kill -{name}");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Fills the histories. Returns the cursor of a stream of all of them that has missed everything.
fn fill(address: SocketAddr) -> String {
    let mut stream = connect(address, 64 * KIB);
    write!(stream, "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", stream_path()).unwrap();
    let begun = read_until(&mut stream, b"\n\n\r\n", b"event: subscribed");
    let cursor = begun.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    let mut publisher = connect(address, 64 * KIB);
    publisher.write_all(HANDSHAKE.as_bytes()).unwrap();
    read_until(&mut publisher, b"\r\n\r\n", b"101");
    publisher.write_all(&frame(r#"{"id":1,"connect":{}}"#)).unwrap();
    let data = "x".repeat(FILL_BYTES);
    for number in 0..FILL {
        for channel in 0..CHANNELS {
            let id = 2 + number * CHANNELS + channel;
            let publish =
                format!(r#"{{"id":{id},"publish":{{"channel":"kept:{channel}","data":"{data}"}}}}"#);
            publisher.write_all(&frame(&publish)).unwrap();
            read_until(&mut publisher, b"}", format!(r#"{{"id":{id},"#).as_bytes());
        }
    }
    cursor
}

/// A client that reads only the response to its handshake.
struct Client {
    socket: TcpStream,
    /// The rest of the message that is being sent.
    message: Vec<u8>,
    /// Messages that are left to send.
    left: usize,
    id: usize,
    /// It only publishes, on a channel whose subscription is not confirmed.
    floods: bool,
}

impl Client {
    fn open(address: SocketAddr, cursor: &str, rng: &mut Rng) -> Self {
        let mut socket = connect(address, 8 * KIB);
        let client = if rng.u8(..3) == 0 {
            let path = stream_path();
            write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {cursor}\r\n\r\n")
                .unwrap();
            Self { socket, message: Vec::new(), left: 0, id: 1, floods: false }
        } else {
            socket.write_all(HANDSHAKE.as_bytes()).unwrap();
            read_until(&mut socket, b"\r\n\r\n", b"101");
            let subs: Vec<String> =
                (0..CHANNELS).map(|channel| format!(r#""kept:{channel}":{{"recover":true}}"#)).collect();
            let subs = if rng.bool() { subs.join(",") } else { String::new() };
            let message = frame(&format!(r#"{{"id":1,"connect":{{"subs":{{{subs}}}}}}}"#));
            Self { socket, message, left: MESSAGES, id: 1, floods: rng.bool() }
        };
        client.socket.set_nonblocking(true).unwrap();
        client
    }

    /// Sends what the gateway accepts. Returns whether it accepted anything.
    fn send(&mut self, rng: &mut Rng) -> bool {
        let mut some = false;
        loop {
            if self.message.is_empty() {
                if self.left == 0 {
                    return some;
                }
                self.left -= 1;
                self.id += 1;
                self.message = frame(&if self.floods { flooding(self.id) } else { command(self.id, rng) });
            }
            match self.socket.write(&self.message) {
                Ok(0) => return some,
                Ok(written) => {
                    self.message.drain(..written);
                    some = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return some,
                // The gateway has closed it.
                Err(_) => {
                    (self.message, self.left) = (Vec::new(), 0);
                    return some;
                }
            }
        }
    }
}

/// A subscribe command that waits for Redis, then large publications on the same channel.
fn flooding(id: usize) -> String {
    if id == 2 {
        return r#"{"id":2,"subscribe":{"channel":"away:flood"}}"#.to_owned();
    }
    format!(r#"{{"id":{id},"publish":{{"channel":"away:flood","data":"{}"}}}}"#, "x".repeat(60_000))
}

/// A random command on a random channel.
fn command(id: usize, rng: &mut Rng) -> String {
    let channel = match rng.u8(..8) {
        0..4 => format!("kept:{}", rng.usize(..CHANNELS)),
        4 | 5 => format!("plain:{}", rng.u8(..4)),
        6 => format!("away:{}", rng.u8(..40)),
        _ => format!("log:{}", rng.u8(..4)),
    };
    let text = |rng: &mut Rng| "x".repeat(rng.usize(1..60_000));
    let (method, rest) = match rng.u8(..16) {
        0..4 => ("subscribe", r#","recover":true"#.to_owned()),
        4 => ("subscribe", format!(r#","token":"{}""#, text(rng))),
        5 | 6 => ("unsubscribe", String::new()),
        7..11 => ("publish", format!(r#","data":"{}""#, text(rng))),
        11..14 => ("history", r#","limit":-1"#.to_owned()),
        14 => return format!(r#"{{"id":{id},"rpc":{{"method":"m","data":"{}"}}}}"#, text(rng)),
        _ => return format!(r#"{{"id":{id},"ping":{{}}}}"#),
    };
    format!(r#"{{"id":{id},"{method}":{{"channel":"{channel}"{rest}}}}}"#)
}

fn stream_path() -> String {
    let channels: Vec<String> = (0..CHANNELS).map(|channel| format!("channel=kept:{channel}")).collect();
    format!("/sse?{}", channels.join("&"))
}

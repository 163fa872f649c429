//! `earshot check` of a Redis server that is hard to reach: wrong ports, other protocols, firewalls, latency, Unix sockets.
//! Each problem is created for real and must be reported with its cause.

use std::net::IpAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

use crate::harness::check::check;
use crate::harness::process::free_port;
use crate::harness::{Gateway, Redis};

#[tokio::test]
async fn unreachable_servers_are_distinguished() {
    let unreachable = format!("redis://127.0.0.1:{}", free_port());
    check(&[&unreachable]).await.expect("tcp", "failed", &["refused", "bind"]);
    check(&["redis://nobody.invalid"]).await.expect("dns", "failed", &["nobody.invalid", "getent hosts"]);

    let hole = BlackHole::dig();
    let checked = check(&[&hole.url(), "--timeout", "1"]).await;
    checked.expect("tcp", "failed", &["did not respond within 1s", "security group"]);

    let redis = Redis::start().await;
    redis.signal("STOP");
    let checked = check(&[&redis.url(), "--timeout", "1"]).await;
    redis.signal("CONT");
    checked.expect("tcp", "ok", &[]);
    checked.expect("protocol", "failed", &["no reply within 1s", "hangs"]);
    assert_eq!(check(&[&redis.url()]).await.code, 0);
}

#[tokio::test]
async fn other_protocols_are_recognised() {
    let gateway = Gateway::start().await;
    let checked = check(&[&format!("redis://{}", gateway.address())]).await;
    checked.expect("protocol", "failed", &["not a Redis server", "HTTP/1.1 400", "a web server"]);
}

#[tokio::test]
async fn disconnecting_server_is_reported() {
    let redis = Redis::start().await;
    let url = redis.url();
    let arguments = [url.as_str(), "--timeout", "2"];
    let mut running = std::pin::pin!(check(&arguments));
    let checked = loop {
        tokio::select! {
            checked = &mut running => break checked,
            () = redis.disconnect_all() => {}
        }
    };
    assert_eq!(checked.code, 1, "{}", checked.text);
    assert!(!checked.failed().is_empty(), "{}", checked.text);
}

#[tokio::test]
async fn protected_mode_is_reported() {
    // The address by which other machines reach this one, if there is one.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let Ok(IpAddr::V4(own)) =
        probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map(|at| at.ip())
    else {
        return;
    };
    let own = own.to_string();
    let redis = Redis::start_with_arguments(&["--bind", "127.0.0.1", &own, "--protected-mode", "yes"]).await;
    let checked = check(&[&format!("redis://{own}:{}", redis.address().port())]).await;
    checked.expect("protocol", "failed", &["DENIED", "protected mode", "requirepass"]);
}

#[tokio::test]
async fn unix_socket_is_checked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("redis.sock");
    let shown = path.to_str().unwrap();
    let mut redis = Redis::start_with_arguments(&["--unixsocket", shown]).await;
    let url = format!("unix://{shown}");
    let good = check(&[&url]).await;
    assert_eq!((good.code, good.warned()), (0, vec![]), "{}", good.text);
    good.expect("socket", "ok", &[shown]);
    good.expect("pubsub", "ok", &[]);
    redis.kill();
    check(&[&url]).await.expect("socket", "failed", &["refused", "has exited"]);
    std::fs::remove_file(&path).unwrap();
    check(&[&url]).await.expect("socket", "failed", &["No such file", "unixsocket"]);
}

#[tokio::test]
async fn high_latency_is_reported() {
    let redis = Redis::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = tokio::spawn(delay(listener, redis.address(), Duration::from_millis(60)));
    let checked = check(&[&format!("redis://{address}"), "--timeout", "4"]).await;
    proxy.abort();
    assert_eq!(checked.code, 0, "{}", checked.text);
    checked.expect("latency", "warning", &["p99", "SLOWLOG"]);
}

/// A port that drops packets, like a firewall.
struct BlackHole {
    socket: Socket,
    /// Connections that fill the accept queue.
    _waiting: Vec<Socket>,
}

impl BlackHole {
    fn dig() -> Self {
        let new = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        let socket = new();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap();
        let wait = |_| {
            let one = new();
            one.set_nonblocking(true).unwrap();
            drop(one.connect(&address));
            one
        };
        Self { _waiting: (0..4).map(wait).collect(), socket }
    }

    fn url(&self) -> String {
        format!("redis://{}", self.socket.local_addr().unwrap().as_socket().unwrap())
    }
}

/// Forwards connections and delays every reply.
async fn delay(listener: TcpListener, server: std::net::SocketAddr, late: Duration) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(async move {
            let server = TcpStream::connect(server).await?;
            let ((mut from, mut back), (mut answers, mut to)) = (client.into_split(), server.into_split());
            let there = tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            let mut bytes = [0; 16 * 1024];
            loop {
                let read = answers.read(&mut bytes).await?;
                if read == 0 {
                    there.abort();
                    return Ok::<_, std::io::Error>(());
                }
                sleep_until(Instant::now() + late).await;
                back.write_all(&bytes[..read]).await?;
            }
        });
    }
}

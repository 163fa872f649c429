//! Detects which protocol a port speaks: Redis, TLS, another one, or none.
//!
//! Owns an inline PING without the client library, which hides unexpected replies. Must never authenticate.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use super::super::network::open;
use super::super::report::Finding;
use super::super::tls::{self, Insecure, Secured, Trust};

/// Result of the PING.
enum Answer {
    /// Redis, with the first line of its reply.
    Redis(String),
    /// Another protocol.
    Foreign(String),
    /// The connection was closed, possibly with a TLS alert.
    Closed(io::Error),
    /// No reply within the time limit.
    Silence,
}

/// Tests without TLS; `None` if Redis replies without an error.
pub(super) async fn plain(
    address: SocketAddr,
    name: &str,
    trust: &Trust,
    limit: Duration,
) -> Option<Finding> {
    let answer = match open(address, limit).await {
        Ok(mut stream) => ping(&mut stream, limit).await,
        Err(error) => Answer::Closed(error),
    };
    match answer {
        Answer::Redis(line) => said_no(&line),
        Answer::Foreign(text) => Some(foreign(&text)),
        Answer::Closed(error) if speaks_tls(address, trust, limit).await => Some(
            Finding::failed("tls", format!("the server expects TLS, but the URL does not use it ({error})"))
                .cause("the server accepts only TLS on this port, like most managed services")
                .fix(format!("use rediss:// instead of redis:// in the URL of `{name}`, or set tls = true (REDIS_TLS=true)")),
        ),
        Answer::Closed(error) => Some(closed(&error)),
        Answer::Silence => Some(silence(limit)),
    }
}

/// Tests over a Unix socket.
pub(super) async fn over_socket(path: &Path, limit: Duration) -> Vec<Finding> {
    let shown = path.display();
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => return vec![no_socket(path, &error)],
    };
    let answered = match ping(&mut stream, limit).await {
        Answer::Redis(line) => said_no(&line),
        Answer::Foreign(text) => Some(foreign(&text)),
        Answer::Closed(error) => Some(closed(&error)),
        Answer::Silence => Some(silence(limit)),
    };
    let there = Finding::ok("socket", format!("{shown} responds"));
    vec![answered.unwrap_or(there)]
}

fn no_socket(path: &Path, error: &io::Error) -> Finding {
    let finding = Finding::failed("socket", format!("{}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::NotFound => finding
            .cause("the server does not create a socket (`unixsocket`), uses another path, or is not running")
            .fix("check `unixsocket`; in containers, the directory must be shared"),
        io::ErrorKind::PermissionDenied => finding
            .cause("this user has no permission for the socket")
            .fix("set `unixsocketperm 770` and add this user to the server's group"),
        io::ErrorKind::ConnectionRefused => {
            finding.cause("the server that created it has exited").fix("start the server")
        }
        _ => finding.cause("the file is not a socket with a listener").fix("check the path"),
    }
}

fn closed(error: &io::Error) -> Finding {
    Finding::failed("protocol", format!("the connection was closed after the first command: {error}"))
        .cause("a proxy or load balancer without a backend, or a server that is shutting down")
        .fix("check the server's log")
}

/// Tests over TLS, where a client certificate is rejected only after the handshake.
pub(super) async fn over_tls(secured: &mut Secured, limit: Duration) -> Option<Finding> {
    match ping(&mut secured.stream, limit).await {
        Answer::Redis(line) => said_no(&line),
        Answer::Foreign(text) => Some(foreign(&text)),
        Answer::Closed(_) if secured.wants_identity => Some(tls::no_identity()),
        Answer::Closed(error) => Some(
            Finding::failed(
                "tls",
                format!("the server closed the connection after the TLS handshake: {error}"),
            )
            .cause("the server does not accept the client certificate, or is not Redis")
            .fix("check the server's log"),
        ),
        Answer::Silence => Some(silence(limit)),
    }
}

/// Checks after a failed handshake whether the server speaks Redis without TLS.
pub(super) async fn instead_of_tls(address: SocketAddr, insecure: Insecure, limit: Duration) -> Finding {
    if insecure.may_be_plain
        && let Ok(mut stream) = open(address, limit).await
        && let Answer::Redis(_) = ping(&mut stream, limit).await
    {
        return Finding::failed("tls", "the URL uses TLS, but the server does not on this port")
            .cause("encryption in transit is disabled, or TLS uses another port (`tls-port`)")
            .fix("use redis:// instead of rediss://, or the TLS port of the server");
    }
    insecure.finding
}

async fn speaks_tls(address: SocketAddr, trust: &Trust, limit: Duration) -> bool {
    Box::pin(tls::inspect(address, trust, limit)).await.is_ok()
}

async fn ping(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), limit: Duration) -> Answer {
    let exchange = async {
        stream.write_all(b"PING\r\n").await?;
        stream.flush().await?;
        let mut bytes = vec![0; 512];
        let mut length = 0;
        while length < bytes.len() && !bytes[..length].contains(&b'\n') {
            match stream.read(&mut bytes[length..]).await? {
                0 if length == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                0 => break,
                read => length += read,
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    };
    match tokio::time::timeout(limit, exchange).await {
        Err(_) => Answer::Silence,
        Ok(Err(error)) => Answer::Closed(error),
        // Record type of a TLS alert.
        Ok(Ok(bytes)) if bytes.first() == Some(&0x15) => {
            Answer::Closed(io::Error::new(io::ErrorKind::InvalidData, "a TLS alert"))
        }
        Ok(Ok(bytes)) => {
            let line = String::from_utf8_lossy(&bytes);
            let line = line.lines().next().unwrap_or_default().to_owned();
            if line.starts_with(['+', '-']) { Answer::Redis(line) } else { Answer::Foreign(line) }
        }
    }
}

/// Errors that a server sends before authentication. A request for a password is not an error.
fn said_no(line: &str) -> Option<Finding> {
    let failed = || Finding::failed("protocol", line.trim_start_matches('-').to_owned());
    if line.starts_with("-DENIED") {
        return Some(
            failed()
                .cause(
                    "protected mode: without a password the server accepts only connections from its own machine",
                )
                .fix("set a password on the server (requirepass or ACLs) and in the gateway's configuration"),
        );
    }
    if line.contains("max number of clients") {
        return Some(
            failed()
                .cause("the limit `maxclients` is reached, or the server is out of file descriptors")
                .fix("find the clients with CLIENT LIST, fix connection leaks, then raise maxclients"),
        );
    }
    None
}

fn foreign(text: &str) -> Finding {
    let shown: String = text.chars().filter(|letter| !letter.is_control()).take(60).collect();
    let finding = Finding::failed("protocol", format!("not a Redis server; it replied {shown:?}"));
    let cause = if shown.starts_with("HTTP/") {
        "a web server listens on this port (the REST URL of Upstash, for example, is not its Redis URL)"
    } else {
        "another kind of server listens on this port"
    };
    finding.cause(cause).fix("check host and port of the URL")
}

fn silence(limit: Duration) -> Finding {
    Finding::failed("protocol", format!("connected, but no reply within {limit:?}"))
        .cause("the server hangs (slow script, swapping, stopped), or a proxy or NAT accepts connections for a server that is down")
        .fix("run `redis-cli PING` on the server's own machine")
}

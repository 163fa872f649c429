//! Who answers on a port at all: Redis, TLS, something else, or nobody.
//!
//! Owns one inline PING, by hand, because the client hides what it does not understand. Must never sign in.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use super::super::network::open;
use super::super::report::Finding;
use super::super::tls::{self, Insecure, Secured, Trust};

/// What came back.
enum Answer {
    /// Redis: the first line of its answer.
    Redis(String),
    /// Something that is no Redis.
    Foreign(String),
    /// The connection was closed instead, or TLS ended it.
    Closed(io::Error),
    /// Nothing within the time.
    Silence,
}

/// Speaks plain, as the URL says; `None` when a Redis answers that will have us.
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
            Finding::failed("tls", format!("the server speaks TLS, the URL does not ({error})"))
                .because("the server takes TLS alone on this port, as managed services do")
                .advise(format!("write rediss:// in the place of redis:// in the URL of `{name}`, or set tls = true (REDIS_TLS=true)")),
        ),
        Answer::Closed(error) => Some(closed(&error)),
        Answer::Silence => Some(silence(limit)),
    }
}

/// Speaks over a socket of this machine.
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
    let there = Finding::ok("socket", format!("{shown} answers"));
    vec![answered.unwrap_or(there)]
}

fn no_socket(path: &Path, error: &io::Error) -> Finding {
    let finding = Finding::failed("socket", format!("{}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::NotFound => finding
            .because("the server makes no socket (`unixsocket`), makes it elsewhere, or is not running")
            .advise("look at `unixsocket`; in containers, the directory has to be shared"),
        io::ErrorKind::PermissionDenied => finding
            .because("this user may not use the socket")
            .advise("`unixsocketperm 770`, and this user in the server's group"),
        io::ErrorKind::ConnectionRefused => {
            finding.because("the server that made it is gone").advise("start the server")
        }
        _ => finding.because("what is there is no socket that anybody listens on").advise("look at the path"),
    }
}

fn closed(error: &io::Error) -> Finding {
    Finding::failed("protocol", format!("the connection is closed at the first word: {error}"))
        .because("a proxy or balancer without a server behind it, or a server that is about to stop")
        .advise("look at the server's log")
}

/// Speaks over TLS, where a refusal of our certificate comes only after the handshake.
pub(super) async fn over_tls(secured: &mut Secured, limit: Duration) -> Option<Finding> {
    match ping(&mut secured.stream, limit).await {
        Answer::Redis(line) => said_no(&line),
        Answer::Foreign(text) => Some(foreign(&text)),
        Answer::Closed(_) if secured.wants_identity => Some(tls::no_identity()),
        Answer::Closed(error) => Some(
            Finding::failed("tls", format!("the server ends the connection after the handshake: {error}"))
                .because(
                    "it does not accept our client certificate, or stands behind something that is no Redis",
                )
                .advise("look at the server's log"),
        ),
        Answer::Silence => Some(silence(limit)),
    }
}

/// A handshake has failed: perhaps because the server speaks plain.
pub(super) async fn instead_of_tls(address: SocketAddr, insecure: Insecure, limit: Duration) -> Finding {
    if insecure.may_be_plain
        && let Ok(mut stream) = open(address, limit).await
        && let Answer::Redis(_) = ping(&mut stream, limit).await
    {
        return Finding::failed("tls", "the URL says TLS, but the server speaks plain on this port")
            .because("encryption in transit is off, or TLS has a port of its own (`tls-port`)")
            .advise(
                "write redis:// in the place of rediss://, or dial the port on which the server speaks TLS",
            );
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
        // The record of an alert: TLS says no to what is no TLS.
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

/// What a server says to whoever comes, before anybody signs in. To be asked for a password is no refusal.
fn said_no(line: &str) -> Option<Finding> {
    let failed = || Finding::failed("protocol", line.trim_start_matches('-').to_owned());
    if line.starts_with("-DENIED") {
        return Some(
            failed()
                .because(
                    "protected mode: the server has no password, and so answers to its own machine alone",
                )
                .advise("give the server a password (requirepass, or ACLs) and the gateway the same"),
        );
    }
    if line.contains("max number of clients") {
        return Some(
            failed()
                .because("`maxclients` connections are open, or the server has run out of open files")
                .advise("see who holds them (CLIENT LIST), close what leaks, then raise maxclients"),
        );
    }
    None
}

fn foreign(text: &str) -> Finding {
    let shown: String = text.chars().filter(|letter| !letter.is_control()).take(60).collect();
    let finding = Finding::failed("protocol", format!("what answers is no Redis: {shown:?}"));
    let cause = if shown.starts_with("HTTP/") {
        "a web server listens on this port; Upstash's REST address, for one, is not its Redis address"
    } else {
        "another kind of server listens on this port"
    };
    finding.because(cause).advise("look at host and port of the URL")
}

fn silence(limit: Duration) -> Finding {
    Finding::failed("protocol", format!("the connection stands, but nothing is answered within {limit:?}"))
        .because("the server hangs (a slow script, swapping, stopped), or a proxy or NAT takes connections for a server that is gone")
        .advise("look at the server itself: `redis-cli PING` on its own machine")
}

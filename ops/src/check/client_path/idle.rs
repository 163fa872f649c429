//! Checks how long an idle stream and an idle WebSocket stay open with heartbeats and pings only.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::super::report::Finding;
use super::stream::{CheckedStream, Next};
use super::websocket::{CheckedSocket, keep_alive};

/// Keeps both idle at the same time.
pub(super) async fn inspect(
    stream: Option<CheckedStream>,
    socket: Option<CheckedSocket>,
    idle: Duration,
) -> Vec<Finding> {
    if idle.is_zero() {
        return vec![Finding::skipped("idle", "skipped (--idle 0)")];
    }
    let (of_stream, of_socket) = tokio::join!(async { Some(hold_stream(stream?, idle).await) }, async {
        Some(hold_socket(socket?, idle).await)
    },);
    let held: Vec<Finding> = of_stream.into_iter().chain(of_socket).collect();
    if held.is_empty() {
        return vec![Finding::skipped("idle", "skipped: neither a stream nor a WebSocket is open")];
    }
    held
}

async fn hold_stream(mut stream: CheckedStream, idle: Duration) -> Finding {
    let began = Instant::now();
    let before = stream.heartbeats();
    let end = loop {
        tokio::select! {
            () = sleep_until(began + idle) => break None,
            next = stream.next() => match next {
                Next::End(why) => break Some(why.unwrap_or_else(|| "the response ended".to_owned())),
                Next::StreamEvent(event) if event.name == "error" => break Some(format!("error from the gateway: {}", event.data)),
                Next::StreamEvent(_) | Next::Comment => {}
            },
        }
    };
    evaluate("the stream", "heartbeats", stream.heartbeats() - before, end, began.elapsed(), idle)
}

async fn hold_socket(mut socket: CheckedSocket, idle: Duration) -> Finding {
    let began = Instant::now();
    let before = socket.session().pings();
    let end = tokio::time::timeout(idle, keep_alive(&mut socket)).await.ok();
    evaluate("the WebSocket", "pings", socket.session().pings() - before, end, began.elapsed(), idle)
}

fn evaluate(
    what: &str,
    signs: &str,
    seen: u64,
    end: Option<String>,
    lived: Duration,
    idle: Duration,
) -> Finding {
    let seconds = lived.as_secs_f64();
    let finding = match end {
        None if seen == 0 && idle > Duration::from_secs(60) => {
            Finding::warning("idle", format!("{what} is still open after {seconds:.0} s, but without {signs}"))
                .cause("their interval is longer, or a proxy buffers them")
                .fix("set `heartbeat` and `ping_interval` well below a minute")
        }
        None => Finding::ok("idle", format!("{what} is still open after {seconds:.0} s, with {seen} {signs}")),
        Some(why) if seen == 0 => Finding::failed("idle", format!("{what} was closed after {seconds:.1} s of inactivity: {why}"))
            .cause("the idle timeout of a proxy is shorter than the keep-alive interval (heartbeat 15 s, ping_interval 25 s)")
            .fix("raise it (nginx: proxy_read_timeout; idle timeout of a load balancer), or lower `heartbeat` and `ping_interval`"),
        Some(why) => Finding::failed("idle", format!("{what} was closed after {seconds:.1} s, despite {seen} {signs}: {why}"))
            .cause("a proxy limits the duration of requests, the gateway was stopped (3001), or `max_age` is set")
            .fix("raise the limit; clients reconnect automatically, but at every expiry"),
    };
    finding.with("seconds", seconds).with("signs_of_life", seen)
}

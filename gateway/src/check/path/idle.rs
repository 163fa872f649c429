//! Silence: how long a stream and a WebSocket are left alone on heartbeats and pings.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::super::report::Finding;
use super::stream::{Next, Stream};
use super::websocket::{Said, Socket};

/// Stays silent on both for so long, at the same time.
pub(super) async fn inspect(stream: Option<Stream>, socket: Option<Socket>, idle: Duration) -> Vec<Finding> {
    if idle.is_zero() {
        return vec![Finding::skipped("idle", "not looked at (--idle 0)")];
    }
    let (of_stream, of_socket) = tokio::join!(async { Some(hold_stream(stream?, idle).await) }, async {
        Some(hold_socket(socket?, idle).await)
    },);
    let held: Vec<Finding> = of_stream.into_iter().chain(of_socket).collect();
    if held.is_empty() {
        return vec![Finding::skipped("idle", "not looked at: neither a stream nor a WebSocket is open")];
    }
    held
}

async fn hold_stream(mut stream: Stream, idle: Duration) -> Finding {
    let began = Instant::now();
    let before = stream.heartbeats();
    let end = loop {
        tokio::select! {
            () = sleep_until(began + idle) => break None,
            next = stream.next() => match next {
                Next::End(why) => break Some(why.unwrap_or_else(|| "an orderly end".to_owned())),
                Next::Event(event) if event.name == "error" => break Some(format!("the gateway says {}", event.data)),
                Next::Event(_) | Next::Comment => {}
            },
        }
    };
    judge("the stream", "heartbeats", stream.heartbeats() - before, end, began.elapsed(), idle)
}

async fn hold_socket(mut socket: Socket, idle: Duration) -> Finding {
    let began = Instant::now();
    let before = socket.pings;
    let end = loop {
        tokio::select! {
            () = sleep_until(began + idle) => break None,
            said = socket.next() => if let Said::End(why) = said { break Some(why) },
        }
    };
    judge("the WebSocket", "pings", socket.pings - before, end, began.elapsed(), idle)
}

fn judge(
    what: &str,
    signs: &str,
    seen: usize,
    end: Option<String>,
    lived: Duration,
    idle: Duration,
) -> Finding {
    let seconds = lived.as_secs_f64();
    let finding = match end {
        None if seen == 0 && idle > Duration::from_secs(60) => {
            Finding::warning("idle", format!("{what} lives on after {seconds:.0} s, but without {signs}"))
                .because("they are rarer than that, or a proxy holds them back")
                .advise("keep `heartbeat` and `ping_interval` well below a minute")
        }
        None => Finding::ok("idle", format!("{what} lives on after {seconds:.0} s, with {seen} {signs}")),
        Some(why) if seen == 0 => Finding::failed("idle", format!("{what} is cut after {seconds:.1} s of silence: {why}"))
            .because("something on the way bears less silence than lies between two signs of life (heartbeat 15 s, ping_interval 25 s)")
            .advise("raise it (nginx: proxy_read_timeout; a balancer's idle time-out), or lower `heartbeat` and `ping_interval`"),
        Some(why) => Finding::failed("idle", format!("{what} is cut after {seconds:.1} s, although {seen} {signs} came: {why}"))
            .because("something on the way bounds the age of a request, or the gateway was stopped (3001), or `max_age` is set")
            .advise("raise that bound; clients come back by themselves, but all of them, again and again"),
    };
    finding.with("seconds", seconds).with("signs_of_life", seen)
}

//! Something published through the gateway comes back over both transports, at once.
//!
//! Must never publish on a name that somebody else may have.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::super::network::{micros, millis};
use super::super::report::Finding;
use super::super::sample::{Sample, random};
use super::stream::{Next, Stream};
use super::websocket::Socket;

/// Publishes by WebSocket, if clients may, and waits for it on the stream.
pub(super) async fn inspect(
    sample: &Sample,
    stream: Option<&mut Stream>,
    socket: Option<&mut Socket>,
    limit: Duration,
) -> Finding {
    let (Some(stream), Some(socket)) = (stream, socket) else {
        return Finding::skipped("delivery", "not tried: it needs both a stream and a WebSocket");
    };
    if !sample.is_own {
        return Finding::skipped(
            "delivery",
            "not tried: others may hear this channel (a glob by --channel has it tried)",
        );
    }
    let channel = sample.name.as_str();
    if let Err(why) = socket.ask("subscribe", json!({ "channel": channel }), limit).await {
        return Finding::failed("delivery", format!("a WebSocket cannot subscribe: {why}"))
            .because("the connection was cut");
    }
    let word = random();
    let began = Instant::now();
    match socket.ask("publish", json!({ "channel": channel, "data": word }), limit).await {
        Ok(reply) if reply["error"].is_null() => {}
        Ok(reply) if reply["error"]["code"] == 103 => {
            return Finding::skipped("delivery", "not tried: clients may not publish here");
        }
        Ok(reply) => {
            return Finding::failed("delivery", format!("a publication is refused: {}", reply["error"]))
                .because("Redis is away, or the gateway's own limits")
                .advise("see /health");
        }
        Err(why) => {
            return Finding::failed("delivery", format!("a publication is not answered: {why}"))
                .because("the connection was cut");
        }
    }
    match tokio::time::timeout(limit, hear(stream, &word)).await {
        Ok(Ok(())) => {
            let took = began.elapsed();
            Finding::ok("delivery", format!("what is published is on the stream after {}", millis(took)))
                .with("microseconds", micros(took))
        }
        Ok(Err(why)) => {
            Finding::failed("delivery", format!("the stream ends before it brings what was published: {why}"))
                .because("a proxy cuts streams")
        }
        Err(_) => {
            Finding::failed("delivery", format!("what was published is not on the stream within {limit:?}"))
                .because("a proxy holds back small pieces of the stream")
                .advise("switch response buffering off for /sse")
        }
    }
}

async fn hear(stream: &mut Stream, word: &str) -> Result<(), String> {
    loop {
        match stream.next().await {
            Next::Event(event) if event.data.contains(word) => return Ok(()),
            Next::Event(_) | Next::Comment => {}
            Next::End(why) => return Err(why.unwrap_or_else(|| "without a word".to_owned())),
        }
    }
}

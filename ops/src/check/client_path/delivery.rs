//! Checks that a publication through the gateway arrives over both transports without delay.
//!
//! Must never publish on a name that others may use.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::super::network::{micros, millis};
use super::super::report::Finding;
use super::super::test_names::{TestName, random_name};
use super::stream::{Next, Stream};
use super::websocket::Socket;

/// Publishes over WebSocket, if permitted, and waits for the publication on the stream.
pub(super) async fn inspect(
    sample: &TestName,
    stream: Option<&mut Stream>,
    socket: Option<&mut Socket>,
    limit: Duration,
) -> Finding {
    let (Some(stream), Some(socket)) = (stream, socket) else {
        return Finding::skipped("delivery", "not tested: needs both a stream and a WebSocket");
    };
    if !sample.is_unique {
        return Finding::skipped(
            "delivery",
            "not tested: others may receive messages of this channel (use a glob with --channel)",
        );
    }
    let channel = sample.name.as_str();
    if let Err(why) = socket.request("subscribe", json!({ "channel": channel }), limit).await {
        return Finding::failed("delivery", format!("subscribing over WebSocket failed: {why}"))
            .cause("the connection was closed");
    }
    let word = random_name();
    let began = Instant::now();
    match socket.request("publish", json!({ "channel": channel, "data": word }), limit).await {
        Ok(reply) if reply["error"].is_null() => {}
        Ok(reply) if reply["error"]["code"] == 103 => {
            return Finding::skipped("delivery", "not tested: clients may not publish here");
        }
        Ok(reply) => {
            return Finding::failed("delivery", format!("publishing failed: {}", reply["error"]))
                .cause("Redis is down, or a limit of the gateway was exceeded")
                .fix("see /health");
        }
        Err(why) => {
            return Finding::failed("delivery", format!("no reply to a publication: {why}"))
                .cause("the connection was closed");
        }
    }
    match tokio::time::timeout(limit, receive(stream, &word)).await {
        Ok(Ok(())) => {
            let took = began.elapsed();
            Finding::ok("delivery", format!("a publication arrived on the stream after {}", millis(took)))
                .with("microseconds", micros(took))
        }
        Ok(Err(why)) => {
            Finding::failed("delivery", format!("the stream ended before the publication arrived: {why}"))
                .cause("a proxy closes streams")
        }
        Err(_) => Finding::failed(
            "delivery",
            format!("the publication did not arrive on the stream within {limit:?}"),
        )
        .cause("a proxy buffers small chunks of the stream")
        .fix("disable response buffering for /sse"),
    }
}

async fn receive(stream: &mut Stream, word: &str) -> Result<(), String> {
    loop {
        match stream.next().await {
            Next::Event(event) if event.data.contains(word) => return Ok(()),
            Next::Event(_) | Next::Comment => {}
            Next::End(why) => return Err(why.unwrap_or_else(|| "without a word".to_owned())),
        }
    }
}

//! Checks that a publication through the gateway arrives over both transports without delay.
//!
//! Must never publish on a name that others may use.

use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::{PublishRequest, ReplyBody, Request, SubscribeRequest};
use tokio::time::Instant;

use super::super::network::{micros, millis};
use super::super::report::Finding;
use super::super::test_names::{TestName, random_name};
use super::stream::{CheckedStream, Next};
use super::websocket::{CheckedSocket, error_text};

/// Publishes over WebSocket, if permitted, and waits for the publication on the stream.
pub(super) async fn inspect(
    sample: &TestName,
    stream: Option<&mut CheckedStream>,
    socket: Option<&mut CheckedSocket>,
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
    let channel = sample.name.clone();
    let subscribe = SubscribeRequest { channel: channel.clone(), ..SubscribeRequest::default() };
    if let Err(why) = socket.call(Request::Subscribe(subscribe), limit).await {
        return Finding::failed("delivery", format!("subscribing over WebSocket failed: {why}"))
            .cause("the connection was closed");
    }
    let word = random_name();
    let data = Bytes::from(serde_json::Value::from(word.as_str()).to_string());
    let began = Instant::now();
    match socket
        .call(Request::Publish(PublishRequest { channel, data, ..PublishRequest::default() }), limit)
        .await
    {
        Ok(ReplyBody::Publish(_)) => {}
        Ok(ReplyBody::Error(error)) if error.code == 103 => {
            return Finding::skipped("delivery", "not tested: clients may not publish here");
        }
        Ok(reply) => {
            return Finding::failed("delivery", format!("publishing failed: {}", error_text(&reply)))
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

async fn receive(stream: &mut CheckedStream, word: &str) -> Result<(), String> {
    loop {
        match stream.next().await {
            Next::StreamEvent(event) if event.data.contains(word) => return Ok(()),
            Next::StreamEvent(_) | Next::Comment => {}
            Next::End(why) => return Err(why.unwrap_or_else(|| "without an error".to_owned())),
        }
    }
}

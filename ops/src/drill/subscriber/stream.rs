//! SSE subscriber: reconnects with the id of the last event, after the reconnection time, as an `EventSource` does.

use std::time::Duration;

use earshot_client::http::RequestBody;
use earshot_client::sse::{SseEvent, SseParser};
use hyper::Method;
use serde::Deserialize;

use super::{Disconnection, DrillSubscriber};
use crate::drill::http::HttpTarget;

/// Reconnection time if the gateway sent none.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Data of a `gap` event.
#[derive(Deserialize)]
struct StreamGap {
    channel: String,
}

/// State that survives a connection.
pub(super) struct StreamSubscriber<'a> {
    subscriber: &'a DrillSubscriber,
    target: &'a HttpTarget,
    path: String,
    parser: SseParser,
}

impl<'a> StreamSubscriber<'a> {
    pub(super) fn new(subscriber: &'a DrillSubscriber, target: &'a HttpTarget) -> Self {
        let mut query = form_urlencoded::Serializer::new(String::new());
        subscriber.channels.iter().for_each(|channel| {
            query.append_pair("channel", channel);
        });
        let path = format!("/sse?{}", query.finish());
        Self { subscriber, target, path, parser: SseParser::default() }
    }

    /// Opens a stream, and reads it to its end.
    pub(super) async fn follow(&mut self) -> Disconnection {
        self.parser.begin_connection();
        let reason = match self.read().await {
            Ok(()) => "the stream was closed".to_owned(),
            Err(reason) => reason,
        };
        Disconnection { reason, delay: self.parser.retry_millis().map_or(RETRY_DELAY, Duration::from_millis) }
    }

    async fn read(&mut self) -> Result<(), String> {
        let last_id = String::from_utf8_lossy(self.parser.last_id()).into_owned();
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend((!last_id.is_empty()).then_some(("last-event-id", last_id.as_str())));
        let request = self.target.request(Method::GET, &self.path, &headers, RequestBody::default())?;
        let mut connection = self.target.open().await?;
        let mut response = connection.send(request).await?;
        if response.status != 200 {
            return Err(format!("the stream was rejected with {}", response.status));
        }
        while let Some(bytes) = response.chunk().await {
            let subscriber = self.subscriber;
            self.parser.feed(&bytes?, |event| handle(subscriber, event));
        }
        Ok(())
    }
}

fn handle(subscriber: &DrillSubscriber, event: SseEvent<'_>) {
    match event.name {
        b"subscribed" => subscriber.subscribed_all(),
        b"gap" => {
            let gap = serde_json::from_slice::<StreamGap>(event.data).ok();
            if let Some(channel_index) = gap.and_then(|gap| subscriber.channel_index(&gap.channel)) {
                subscriber.gap(channel_index);
            }
        }
        // The stream of a single channel does not name it; the drill's streams have several.
        name => {
            let channel = std::str::from_utf8(name).ok();
            if let Some(channel_index) = channel.and_then(|channel| subscriber.channel_index(channel)) {
                subscriber.received(channel_index, event.data);
            }
        }
    }
}

//! SSE subscriber: reconnects with the id of the last event, after the reconnection time, as an `EventSource` does.

use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use hyper::Method;
use serde::Deserialize;

use super::events::{Event, Events};
use super::{Disconnect, Subscriber};
use crate::drill::http::Target;

/// Reconnection time if the gateway sent none.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Data of a `gap` event.
#[derive(Deserialize)]
struct Gap {
    channel: String,
}

/// State that survives a connection.
pub(super) struct Stream<'a> {
    subscriber: &'a Subscriber,
    target: &'a Target,
    path: String,
    events: Events,
}

impl<'a> Stream<'a> {
    pub(super) fn new(subscriber: &'a Subscriber, target: &'a Target) -> Self {
        let mut query = form_urlencoded::Serializer::new(String::new());
        subscriber.channels.iter().for_each(|channel| {
            query.append_pair("channel", channel);
        });
        let path = format!("/sse?{}", query.finish());
        Self { subscriber, target, path, events: Events::default() }
    }

    /// Opens a stream, and reads it to its end.
    pub(super) async fn follow(&mut self) -> Disconnect {
        self.events.begin_connection();
        let reason = match self.read().await {
            Ok(()) => "the stream was closed".to_owned(),
            Err(reason) => reason,
        };
        Disconnect { reason, delay: self.events.retry_delay.map_or(RETRY_DELAY, Duration::from_millis) }
    }

    async fn read(&mut self) -> Result<(), String> {
        let last_id = self.events.last_id.clone();
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last_id.as_deref().map(|id| ("last-event-id", id)));
        let request = self.target.request(Method::GET, &self.path, &headers, Body::empty())?;
        let mut sender = self.target.open().await?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if response.status() != 200 {
            return Err(format!("the stream was rejected with {}", response.status()));
        }
        let mut body = Body::new(response.into_body()).into_data_stream();
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|error| error.to_string())?;
            let subscriber = self.subscriber;
            self.events.push_bytes(&bytes, |event| handle(subscriber, &event));
        }
        Ok(())
    }
}

fn handle(subscriber: &Subscriber, event: &Event) {
    match event.name.as_str() {
        "subscribed" => subscriber.subscribed_all(),
        "gap" => {
            let gap = serde_json::from_str::<Gap>(&event.data).ok();
            if let Some(channel_index) = gap.and_then(|gap| subscriber.channel_index(&gap.channel)) {
                subscriber.gap(channel_index);
            }
        }
        // The stream of a single channel does not name it; the drill's streams have several.
        name => {
            if let Some(channel_index) = subscriber.channel_index(name) {
                subscriber.received(channel_index, event.data.as_bytes());
            }
        }
    }
}

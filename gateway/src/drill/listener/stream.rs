//! A client over SSE: it comes back with the id of the last event, after the time that it was told, as an
//! `EventSource` does.

use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use hyper::Method;
use serde::Deserialize;

use super::events::{Event, Events};
use super::{End, Listener};
use crate::drill::http::Target;

/// How long before coming back where nobody has said.
const RETRY: Duration = Duration::from_secs(2);

/// What `gap` tells.
#[derive(Deserialize)]
struct Gap {
    channel: String,
}

/// The state that outlives a connection.
pub(super) struct Stream<'a> {
    listener: &'a Listener,
    target: &'a Target,
    path: String,
    events: Events,
}

impl<'a> Stream<'a> {
    pub(super) fn new(listener: &'a Listener, target: &'a Target) -> Self {
        let mut query = form_urlencoded::Serializer::new(String::new());
        listener.channels.iter().for_each(|channel| {
            query.append_pair("channel", channel);
        });
        let path = format!("/sse?{}", query.finish());
        Self { listener, target, path, events: Events::default() }
    }

    /// Opens a stream and follows it to its end.
    pub(super) async fn follow(&mut self) -> End {
        self.events.begin_anew();
        let why = match self.read().await {
            Ok(()) => "the stream ended".to_owned(),
            Err(why) => why,
        };
        End { why, wait: self.events.retry.map_or(RETRY, Duration::from_millis) }
    }

    async fn read(&mut self) -> Result<(), String> {
        let last_id = self.events.last_id.clone();
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last_id.as_deref().map(|id| ("last-event-id", id)));
        let request = self.target.request(Method::GET, &self.path, &headers, Body::empty())?;
        let mut sender = self.target.open().await?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if response.status() != 200 {
            return Err(format!("the stream is refused with {}", response.status()));
        }
        let mut body = Body::new(response.into_body()).into_data_stream();
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|error| error.to_string())?;
            let listener = self.listener;
            self.events.take(&bytes, |event| take(listener, &event));
        }
        Ok(())
    }
}

fn take(listener: &Listener, event: &Event) {
    match event.name.as_str() {
        "subscribed" => listener.arrived(),
        "gap" => {
            let gap = serde_json::from_str::<Gap>(&event.data).ok();
            if let Some(place) = gap.and_then(|gap| listener.place(&gap.channel)) {
                listener.gap(place);
            }
        }
        // The stream of one channel would not name it; the drill's name theirs.
        name => {
            if let Some(place) = listener.place(name) {
                listener.heard(place, event.data.as_bytes());
            }
        }
    }
}

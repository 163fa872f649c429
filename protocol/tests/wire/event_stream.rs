//! Parses the stream with an `EventSource` parser written from the WHATWG specification.

use std::borrow::Cow;

use bytes::Bytes;
use earshot_protocol::{ChannelName, ChannelTag, Cursor, Epoch, Payload, StreamPosition, sse};
use proptest::{collection::vec, option, prelude::*};

use crate::strategies;

#[derive(Debug, Default, PartialEq)]
struct Event {
    name: String,
    data: String,
    last_id: String,
}

/// The state of one `EventSource`.
#[derive(Default)]
struct EventSource {
    data: String,
    name: String,
    last_id: String,
    retry: Option<u64>,
    events: Vec<Event>,
}

impl EventSource {
    fn read(stream: &[u8]) -> Self {
        let mut source = Self::default();
        let text = String::from_utf8_lossy(stream);
        // There are three line breaks; bytes after the last one are not a line.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let lines = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        for line in lines.split('\n') {
            source.line(line);
        }
        source
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.last_id),
            "retry" => self.retry = value.parse().ok(),
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        let Some(data) = data.strip_suffix('\n') else {
            return;
        };
        let name = if name.is_empty() { "message".to_owned() } else { name };
        self.events.push(Event { name, data: data.to_owned(), last_id: self.last_id.clone() });
    }
}

/// The data with every line break as `\n`: the only change on the way.
fn normalised(data: &[u8]) -> String {
    std::str::from_utf8(data).expect("UTF-8").replace("\r\n", "\n").replace('\r', "\n")
}

fn name() -> impl Strategy<Value = Option<String>> {
    option::of(strategies::channel_name().prop_map(|name| name.to_string()))
}

fn id() -> impl Strategy<Value = Option<String>> {
    option::of("[A-Za-z0-9_-]{1,40}")
}

proptest! {
    #[test]
    fn an_event_source_receives_each_payload_unchanged(
        events in vec((name(), id(), strategies::any_payload()), 1..6),
    ) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        let mut last_id = String::new();
        for (name, id, payload) in &events {
            let data = sse::payload(payload);
            sse::event(name.as_deref(), id.as_deref(), &data, &mut stream);
            sse::heartbeat(&mut stream);
            last_id = id.clone().unwrap_or(last_id);
            let name = name.clone().unwrap_or_else(|| "message".to_owned());
            expected.push(Event { name, data: normalised(&data), last_id: last_id.clone() });
        }
        prop_assert_eq!(EventSource::read(&stream).events, expected);
    }

    #[test]
    fn open_and_close_append_the_whole_event(
        name in name(),
        id in id(),
        payload in strategies::any_payload(),
    ) {
        let data = sse::payload(&payload);
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        sse::event(name.as_deref(), id.as_deref(), &data, &mut whole);
        sse::event_open(name.as_deref(), &data, &mut parts);
        sse::event_close(id.as_deref(), &mut parts);
        prop_assert_eq!(parts, whole);
    }

    #[test]
    fn closing_at_positions_is_closing_with_their_cursor(
        positions in vec((any::<u8>(), any::<u64>(), any::<u64>()), 0..40),
    ) {
        let positions: Vec<_> = positions
            .into_iter()
            .map(|(channel, epoch, offset)| {
                let tag = ChannelTag::of(&ChannelName::parse(&format!("channel:{channel}")).unwrap());
                // Numbers of each length in a varint.
                let (epoch, offset) = (epoch >> (epoch % 64), offset >> (offset % 64));
                (tag, StreamPosition { epoch: Epoch::from_u64(epoch), offset })
            })
            .collect();
        let mut id = Vec::new();
        Cursor::write(positions.iter().copied(), &mut id);
        let (mut with_id, mut at) = (Vec::new(), Vec::new());
        sse::event_close(std::str::from_utf8(&id).ok(), &mut with_id);
        sse::event_close_at(positions, "", &mut at);
        prop_assert_eq!(at, with_id);
    }

    #[test]
    fn each_event_has_non_empty_data(payload in strategies::any_payload()) {
        let mut stream = Vec::new();
        sse::event(None, Some("AQ"), &sse::payload(&payload), &mut stream);
        let received = EventSource::read(&stream).events;
        prop_assert_eq!(received.len(), 1);
        prop_assert!(!received[0].data.is_empty());
    }
}

#[test]
fn keeps_a_leading_space() {
    let mut stream = Vec::new();
    sse::event(None, None, b" a\n  b", &mut stream);
    assert_eq!(EventSource::read(&stream).events[0].data, " a\n  b");
}

#[test]
fn only_empty_and_binary_payloads_are_rewritten() {
    let carried = |bytes: &'static [u8]| {
        let payload = Payload::new(Bytes::from_static(bytes));
        sse::payload(&payload).into_owned()
    };
    assert_eq!(carried(b"{\"a\":\n1}"), b"{\"a\":\n1}");
    assert_eq!(carried(b"hello"), b"hello");
    assert_eq!(carried(b""), b"\"\"");
    assert_eq!(carried(&[255, 0, 1, 128]), b"/wABgA==");
    let payload = Payload::new(Bytes::from_static(b"hello"));
    assert!(matches!(sse::payload(&payload), Cow::Borrowed(_)), "nothing is copied");
}

#[test]
fn retry_and_heartbeat_dispatch_no_event() {
    let mut stream = Vec::new();
    sse::heartbeat(&mut stream);
    sse::retry(2750, &mut stream);
    assert!(!stream.windows(2).any(|pair| pair == b"\n\n"), "{}", stream.escape_ascii());
    sse::event(Some("subscribed"), None, b"{}", &mut stream);
    sse::heartbeat(&mut stream);
    let source = EventSource::read(&stream);
    assert_eq!(source.retry, Some(2750));
    assert_eq!(source.events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["subscribed"]);
}

#[test]
#[cfg(debug_assertions)]
fn ambiguous_input_is_a_debug_assertion() {
    let panics = |write: fn(&mut Vec<u8>)| std::panic::catch_unwind(|| write(&mut Vec::new())).is_err();
    assert!(panics(|out| sse::event(None, Some("a\0b"), b"x", out)));
    assert!(panics(|out| sse::event(None, Some("a\nb"), b"x", out)));
    assert!(panics(|out| sse::event(None, Some(""), b"x", out)));
    assert!(panics(|out| sse::event(Some("a\rb"), None, b"x", out)));
    assert!(panics(|out| sse::event(None, None, b"", out)));
}

#[test]
#[cfg(not(debug_assertions))]
fn ambiguous_input_is_omitted() {
    let mut stream = Vec::new();
    sse::event(Some("a\nb"), Some("a\0b"), b"", &mut stream);
    assert_eq!(stream, b"data: \"\"\n\n");
}

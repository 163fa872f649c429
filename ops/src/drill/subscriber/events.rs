//! Parser of event streams.
//!
//! Owns the fields of an event: name, data, id, and the reconnection time. Must never hold more than one incomplete
//! event.

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Empty without a name.
    pub(super) name: String,
    pub(super) data: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    next: Event,
    /// The id of the last complete event, as an `EventSource` keeps it.
    pub(super) last_id: Option<String>,
    id: Option<String>,
    /// Milliseconds.
    pub(super) retry_delay: Option<u64>,
}

impl Events {
    /// Resets the state for a new connection: keeps the id and drops an incomplete event.
    pub(super) fn begin_connection(&mut self) {
        *self = Self { last_id: self.last_id.take(), retry_delay: self.retry_delay, ..Self::default() };
    }

    /// Parses bytes, and passes each complete event to `dispatch`.
    pub(super) fn push_bytes(&mut self, mut bytes: &[u8], mut dispatch: impl FnMut(Event)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            let text = String::from_utf8_lossy(&line);
            if let Some(event) = self.push_line(text.trim_end_matches('\r')) {
                dispatch(event);
            }
        }
        self.line.extend_from_slice(bytes);
    }

    fn push_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            if let Some(id) = self.id.take() {
                self.last_id = Some(id);
            }
            let mut event = std::mem::take(&mut self.next);
            // Every data line ends in a line break, except the last.
            return event.data.pop().map(|_| event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.next.name),
            "data" => {
                self.next.data.push_str(value);
                self.next.data.push('\n');
            }
            "id" => self.id = Some(value.to_owned()),
            "retry" => self.retry_delay = value.parse().ok().or(self.retry_delay),
            // Comments are heartbeats.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"retry: 2296\n\n:\n\nevent: subscribed\ndata: {}\nid: x\n\ndata: a\ndata: b\r\nid: y\r\n\r\ndata: half\nid: z\n";

    #[test]
    fn events_are_independent_of_chunks() {
        let event = |name: &str, data: &str| Event { name: name.to_owned(), data: data.to_owned() };
        for size in [1, 7, TEXT.len()] {
            let (mut reader, mut events) = (Events::default(), Vec::new());
            TEXT.chunks(size).for_each(|piece| reader.push_bytes(piece, |event| events.push(event)));
            assert_eq!(events, [event("subscribed", "{}"), event("", "a\nb")]);
            assert_eq!((reader.last_id.as_deref(), reader.retry_delay), (Some("y"), Some(2296)));
        }
    }

    #[test]
    fn incomplete_event_is_dropped_with_its_id() {
        let mut reader = Events::default();
        reader.push_bytes(TEXT, |_| ());
        reader.begin_connection();
        let mut events = Vec::new();
        reader.push_bytes(b"data: 1\n\n", |event| events.push(event.data));
        assert_eq!((events, reader.last_id.as_deref()), (vec!["1".to_owned()], Some("y")));
    }
}

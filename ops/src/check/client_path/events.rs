//! Event stream parser.
//!
//! Owns events with name and data; comments are counted, since they are heartbeats. Must never hold more than one
//! unfinished event of limited size.

/// Maximum size of an event.
const EVENT_BYTES_MAX: usize = 256 * 1024;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// `message` if the event has no name.
    pub(super) name: String,
    pub(super) data: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Events {
    buffer: Vec<u8>,
    name: String,
    data: String,
    /// Comments so far.
    pub(super) comments: usize,
    /// Lines that no event stream has.
    pub(super) foreign: usize,
}

impl Events {
    /// Takes what came; the events that are whole with it.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = memchr::memchr(b'\n', &self.buffer) {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            events.extend(self.line(line.trim_end_matches(['\r', '\n'])));
        }
        if self.buffer.len() > EVENT_BYTES_MAX {
            self.foreign += 1;
            self.buffer.clear();
        }
        events
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return (!data.is_empty()).then(|| Event { name, data: data.trim_end_matches('\n').to_owned() });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" | "retry" => {}
            _ => self.foreign += 1,
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_independent_of_chunks() {
        let text =
            "retry: 2296\n\n:\n\nevent: subscribed\ndata: {}\nid: x\n\ndata: a\ndata: b\r\n\r\n<html>\n";
        let whole = Events::default().take(text.as_bytes());
        let event = |name: &str, data: &str| Event { name: name.to_owned(), data: data.to_owned() };
        assert_eq!(whole, [event("subscribed", "{}"), event("message", "a\nb")]);
        let mut cut = Events::default();
        let pieces: Vec<Event> = text.as_bytes().chunks(1).flat_map(|byte| cut.take(byte)).collect();
        assert_eq!((pieces, cut.comments, cut.foreign), (whole, 1, 1));
    }
}

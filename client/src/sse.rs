//! Incremental parser for event streams, according to the HTML standard.
//!
//! Pure: owns no socket, and buffers at most one event of limited size.

use std::mem;

use memchr::memchr2;

/// Maximum size of the buffered part of an event. The rest of a larger event is dropped.
pub const EVENT_BYTES_MAX: usize = 16 << 20;

/// An event as `EventSource` dispatches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The name; empty without one.
    pub name: &'a [u8],
    /// The data lines, joined by line feeds.
    pub data: &'a [u8],
    /// The last event id, including that of this event; empty without one.
    pub id: &'a [u8],
}

/// Parser of one stream, and of the streams that resume it.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    after_carriage_return: bool,
    name: Vec<u8>,
    data: Vec<u8>,
    /// The id that the next dispatch commits.
    pending_id: Vec<u8>,
    last_id: Vec<u8>,
    retry_millis: Option<u64>,
    comments: u64,
    unknown_lines: u64,
}

impl SseParser {
    /// A parser that starts with the last event id of an earlier stream.
    pub fn resuming_from(id: &[u8]) -> Self {
        Self { pending_id: id.to_vec(), last_id: id.to_vec(), ..Self::default() }
    }

    /// Prepares for a new connection: keeps the last event id and the reconnection time, drops an incomplete event.
    pub fn begin_connection(&mut self) {
        *self = Self {
            pending_id: self.last_id.clone(),
            last_id: mem::take(&mut self.last_id),
            retry_millis: self.retry_millis,
            ..Self::default()
        };
    }

    /// The id of the last complete event; empty without one.
    pub fn last_id(&self) -> &[u8] {
        &self.last_id
    }

    /// The reconnection time, if the server sent one.
    pub fn retry_millis(&self) -> Option<u64> {
        self.retry_millis
    }

    /// The number of comments, which the gateway sends as heartbeats.
    pub fn comments(&self) -> u64 {
        self.comments
    }

    /// The number of lines that an event stream does not contain, such as injected HTML.
    pub fn unknown_lines(&self) -> u64 {
        self.unknown_lines
    }

    /// Parses the next bytes, and calls `dispatch` for each complete event.
    pub fn feed(&mut self, mut input: &[u8], mut dispatch: impl FnMut(SseEvent<'_>)) {
        if !input.is_empty() && mem::take(&mut self.after_carriage_return) {
            input = input.strip_prefix(b"\n").unwrap_or(input);
        }
        while let Some(end) = memchr2(b'\n', b'\r', input) {
            self.end_line(&input[..end], &mut dispatch);
            let ending = if input[end..].starts_with(b"\r\n") { 2 } else { 1 };
            self.after_carriage_return = &input[end..] == b"\r";
            input = &input[end + ending..];
        }
        if self.line.len() + input.len() > EVENT_BYTES_MAX {
            self.unknown_lines += 1;
            self.line.clear();
        } else {
            self.line.extend_from_slice(input);
        }
    }

    /// Processes a line whose start may be buffered.
    fn end_line(&mut self, end: &[u8], dispatch: &mut impl FnMut(SseEvent<'_>)) {
        if self.line.is_empty() {
            return self.process_line(end, dispatch);
        }
        let mut line = mem::take(&mut self.line);
        line.extend_from_slice(end);
        self.process_line(&line, dispatch);
        line.clear();
        self.line = line;
    }

    fn process_line(&mut self, line: &[u8], dispatch: &mut impl FnMut(SseEvent<'_>)) {
        if line.is_empty() {
            return self.dispatch_event(dispatch);
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"" => self.comments += 1,
            b"event" => value.clone_into(&mut self.name),
            b"data" if self.data.len() + value.len() < EVENT_BYTES_MAX => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"id" if !value.contains(&0) => value.clone_into(&mut self.pending_id),
            b"retry" => self.retry_millis = parse_number(value).or(self.retry_millis),
            b"data" | b"id" => {}
            _ => self.unknown_lines += 1,
        }
    }

    /// Commits the id, and dispatches the event unless it has no data.
    fn dispatch_event(&mut self, dispatch: &mut impl FnMut(SseEvent<'_>)) {
        if self.last_id != self.pending_id {
            self.pending_id.clone_into(&mut self.last_id);
        }
        if let Some((_, data)) = self.data.split_last() {
            dispatch(SseEvent { name: &self.name, data, id: &self.last_id });
        }
        self.data.clear();
        self.name.clear();
    }
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(parts: &[&[u8]]) -> Vec<(String, String)> {
        let (mut parser, mut events) = (SseParser::default(), Vec::new());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for part in parts {
            parser.feed(part, |event| events.push((text(event.name), text(event.data))));
        }
        events
    }

    fn event(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    const STREAM: &[u8] = b"retry: 2000\n\nevent: subscribed\ndata: {}\nid: a\n\n:\n\ndata: one\ndata:two\r\ndata\rid: b\r\rdata:  three\r\n\r\nevent: gap\ndata: x\n\ndata: unfinished\nid: z\n";

    #[test]
    fn parses_a_stream_as_browsers_do() {
        let expected =
            [event("subscribed", "{}"), event("", "one\ntwo\n"), event("", " three"), event("gap", "x")];
        assert_eq!(read(&[STREAM]), expected);
    }

    #[test]
    fn an_event_without_data_is_not_dispatched() {
        assert_eq!(read(&[b"event: x\n\ndata: 1\n\n"]), [event("", "1")]);
    }

    #[test]
    fn a_line_ending_may_be_split() {
        assert_eq!(
            read(&[b"data: 1\r", b"", b"\ndata: 2\r", b"\r", b"\ndata: 3\n", b"\n"]),
            [event("", "1\n2"), event("", "3")]
        );
    }

    #[test]
    fn the_last_id_is_that_of_the_last_complete_event() {
        let (mut parser, mut ids) = (SseParser::resuming_from(b"z"), Vec::new());
        let stream = b"data: 0\n\ndata: 1\nid: a\n\ndata: 2\n\nid: b\n\ndata: 3\nid: c\n";
        parser.feed(stream, |event| ids.push(event.id.to_vec()));
        assert_eq!(ids, [b"z", b"a", b"a"]);
        assert_eq!(parser.last_id(), b"b");
    }

    #[test]
    fn a_new_connection_drops_an_incomplete_event_and_keeps_id_and_retry() {
        let mut parser = SseParser::default();
        parser.feed(STREAM, |_| ());
        assert_eq!((parser.last_id(), parser.retry_millis()), (&b"b"[..], Some(2000)));
        parser.begin_connection();
        let mut events = Vec::new();
        parser.feed(b"data: 1\n\n", |event| events.push(event.data.to_vec()));
        assert_eq!((events, parser.last_id()), (vec![b"1".to_vec()], &b"b"[..]));
        assert_eq!(parser.retry_millis(), Some(2000));
    }

    #[test]
    fn comments_and_unknown_lines_are_counted() {
        let mut parser = SseParser::default();
        parser.feed(b":\n\n: x\n<html>\ndata: 1\n\n", |_| ());
        assert_eq!((parser.comments(), parser.unknown_lines()), (2, 1));
    }

    proptest! {
        #[test]
        fn any_split_parses_the_same(cuts in prop::collection::vec(0..STREAM.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &STREAM[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&parts), read(&[STREAM]));
        }

        #[test]
        fn parses_what_a_server_writes(events in prop::collection::vec(("[a-z]{0,8}", "[^\r]{1,40}"), 0..8)) {
            let mut stream = String::new();
            for (name, data) in &events {
                if !name.is_empty() {
                    stream += &format!("event: {name}\n");
                }
                data.split('\n').for_each(|line| stream += &format!("data: {line}\n"));
                stream.push('\n');
            }
            prop_assert_eq!(read(&[stream.as_bytes()]), events);
        }

        #[test]
        fn no_input_panics(input: Vec<u8>) {
            let _ = read(&[&input]);
        }
    }
}

//! Incremental parser for event streams according to the HTML standard. Pure: owns no socket and buffers at most one
//! event.

use std::mem;

/// An event as `EventSource` would dispatch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    /// Event name; empty if there is none.
    pub(crate) name: &'a [u8],
    /// Data lines, joined by line feeds.
    pub(crate) data: &'a [u8],
    /// Last event id so far; empty if there is none.
    pub(crate) id: &'a [u8],
}

/// Parser of one stream.
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    line: Vec<u8>,
    after_carriage_return: bool,
    name: Vec<u8>,
    data: Vec<u8>,
    id: Vec<u8>,
}

impl EventReader {
    /// Starts with the last event id of an earlier stream.
    pub(crate) fn resuming_from(id: &[u8]) -> Self {
        Self { id: id.to_vec(), ..Self::default() }
    }

    /// Last event id; empty if the server sent none.
    pub(crate) fn last_id(&self) -> &[u8] {
        &self.id
    }

    /// Processes the next bytes and calls `dispatch` for each complete event.
    pub(crate) fn feed(&mut self, mut input: &[u8], mut dispatch: impl FnMut(Event<'_>)) {
        if !input.is_empty() && mem::take(&mut self.after_carriage_return) {
            input = input.strip_prefix(b"\n").unwrap_or(input);
        }
        while let Some(end) = input.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.end_line(&input[..end], &mut dispatch);
            let ending = if input[end..].starts_with(b"\r\n") { 2 } else { 1 };
            self.after_carriage_return = &input[end..] == b"\r";
            input = &input[end + ending..];
        }
        self.line.extend_from_slice(input);
    }

    /// Processes a line whose start may have arrived earlier.
    fn end_line(&mut self, end: &[u8], dispatch: &mut impl FnMut(Event<'_>)) {
        if self.line.is_empty() {
            return self.process_line(end, dispatch);
        }
        let mut line = mem::take(&mut self.line);
        line.extend_from_slice(end);
        self.process_line(&line, dispatch);
        line.clear();
        self.line = line;
    }

    fn process_line(&mut self, line: &[u8], dispatch: &mut impl FnMut(Event<'_>)) {
        if line.is_empty() {
            return self.dispatch_event(dispatch);
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => value.clone_into(&mut self.name),
            b"id" if !value.contains(&0) => value.clone_into(&mut self.id),
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            _ => {}
        }
    }

    /// Dispatches the event, unless it has no data.
    fn dispatch_event(&mut self, dispatch: &mut impl FnMut(Event<'_>)) {
        if let Some((_, data)) = self.data.split_last() {
            dispatch(Event { name: &self.name, data, id: &self.id });
        }
        self.data.clear();
        self.name.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let (mut reader, mut events) = (EventReader::default(), Vec::new());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for piece in pieces {
            reader.feed(piece, |event| events.push((text(event.name), text(event.data))));
        }
        events
    }

    fn event(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    const STREAM: &[u8] = b"retry: 2000\n\nevent: subscribed\ndata: {}\nid: a\n\n:\n\ndata: one\ndata:two\r\ndata\rid: b\r\rdata:  three\r\n\r\nevent: gap\ndata: x\n\ndata: unfinished\n";

    #[test]
    fn stream_is_parsed_like_in_browsers() {
        let expected =
            [event("subscribed", "{}"), event("", "one\ntwo\n"), event("", " three"), event("gap", "x")];
        assert_eq!(read(&[STREAM]), expected);
    }

    #[test]
    fn event_without_data_is_not_dispatched() {
        assert_eq!(read(&[b"event: x\n\ndata: 1\n\n"]), [event("", "1")]);
    }

    #[test]
    fn line_ending_may_be_split() {
        assert_eq!(
            read(&[b"data: 1\r", b"", b"\ndata: 2\r", b"\r", b"\ndata: 3\n", b"\n"]),
            [event("", "1\n2"), event("", "3")]
        );
    }

    #[test]
    fn last_id_persists() {
        let (mut reader, mut ids) = (EventReader::resuming_from(b"z"), Vec::new());
        reader
            .feed(b"data: 0\n\ndata: 1\nid: a\n\ndata: 2\n\nid: b\n\n", |event| ids.push(event.id.to_vec()));
        assert_eq!(ids, [b"z", b"a", b"a"]);
        assert_eq!(reader.last_id(), b"b");
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(cuts in prop::collection::vec(0..STREAM.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &STREAM[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[STREAM]));
        }

        #[test]
        fn no_input_panics(input: Vec<u8>) {
            let _ = read(&[&input]);
        }
    }
}

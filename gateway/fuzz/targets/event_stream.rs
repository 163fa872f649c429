//! Event streams, as a client parses them: the events do not depend on how the bytes are split into reads.
#![no_main]

use earshot_client::sse::SseParser;
use libfuzzer_sys::fuzz_target;

fn events<'a>(reads: impl Iterator<Item = &'a [u8]>) -> Vec<[Vec<u8>; 3]> {
    let (mut parser, mut events) = (SseParser::default(), Vec::new());
    for bytes in reads {
        parser.feed(bytes, |event| {
            events.push([event.name.to_vec(), event.data.to_vec(), event.id.to_vec()]);
        });
    }
    events
}

fuzz_target!(|input: (u8, &[u8])| {
    let (read_bytes, stream) = input;
    let split = events(stream.chunks(usize::from(read_bytes).max(1)));
    assert_eq!(split, events(std::iter::once(stream)));
});

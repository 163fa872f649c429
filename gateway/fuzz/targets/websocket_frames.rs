//! WebSocket frames of a client: the messages do not depend on how the bytes are split into reads.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (read_bytes, frames) = input;
    earshot::shard::fuzz::websocket_frames(frames, usize::from(read_bytes).max(1));
});

//! Commands and replies in JSON and Protobuf.
//!
//! A command that is decoded and encoded is decoded as the same again. A reply is encoded as the same again: a publication
//! without data is text, which JSON carries as a string.
#![no_main]

use earshot_protocol::Encoding;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        for command in encoding.decode_commands(frame).flatten() {
            let mut encoded = Vec::new();
            encoding.encode_command(&command, &mut encoded);
            assert_eq!(encoding.decode_commands(&encoded).next(), Some(Ok(command)));
        }
        for reply in encoding.decode_replies(frame).flatten() {
            let mut encoded = Vec::new();
            encoding.encode_reply(&reply, &mut encoded);
            let again = encoding.decode_replies(&encoded).next().map(|reply| {
                let mut encoded = Vec::new();
                reply.map(|reply| encoding.encode_reply(&reply, &mut encoded)).map(|()| encoded)
            });
            assert_eq!(again, Some(Ok(encoded)));
        }
    }
});

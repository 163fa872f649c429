//! Messages of a log, as Redis pushes them.
#![no_main]

use bytes::Bytes;
use earshot::broker::log::LoggedMessage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    if let Some(message) = LoggedMessage::decode(&Bytes::copy_from_slice(message)) {
        assert_eq!(LoggedMessage::decode(&message.encode()), Some(message));
    }
});

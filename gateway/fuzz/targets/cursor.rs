//! Cursors of event streams.
#![no_main]

use earshot_protocol::{ChannelName, ChannelTag, Cursor};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(cursor) = Cursor::parse(text) else { return };
    let tag = |name: &str| ChannelName::parse(name).map(|name| ChannelTag::of(&name));
    let tags: Vec<ChannelTag> = ["a", "b", "a"].into_iter().flat_map(tag).collect();
    assert_eq!(cursor.positions(&tags).len(), tags.len());
});

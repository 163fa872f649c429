//! The bytes of each frame, in both encodings and both directions, as clients in the field know them.
//!
//! `*.json` holds the text of a message, `*.hex` its Protobuf with the length before it; the latter were
//! made by another implementation of the protocol. Changing a file here breaks deployed clients.

use std::{collections::BTreeSet, fs, path::PathBuf};

use earshot_protocol::{
    ChannelName, ChannelTag, Cursor, Encoding, Epoch, Push, Reply, ReplyBody, StreamPosition, sse,
};

use crate::values;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden(folder_name: &str, name: &str, encoding: Encoding) -> Vec<u8> {
    let extension = match encoding {
        Encoding::Json => "json",
        Encoding::Protobuf => "hex",
    };
    let path = folder(folder_name).join(format!("{name}.{extension}"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    match encoding {
        Encoding::Json => text.trim_end().as_bytes().to_vec(),
        Encoding::Protobuf => from_hex(&text),
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte =
        |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex digits");
    digits.chunks(2).map(byte).collect()
}

/// A push, and nothing else, is what a push reply holds.
fn reply(push: Push) -> Reply {
    Reply { id: 0, body: ReplyBody::Push(push) }
}

fn replies() -> Vec<(&'static str, &'static str, Reply)> {
    let answers = values::replies().into_iter().map(|(name, value)| ("replies", name, value));
    let pushes = values::pushes().into_iter().map(|(name, push)| ("pushes", name, reply(push)));
    answers.chain(pushes).collect()
}

#[track_caller]
fn assert_bytes(folder: &str, name: &str, encoding: Encoding, written: &[u8]) {
    let expected = golden(folder, name, encoding);
    let same = written == expected;
    assert!(
        same,
        "{folder}/{name} in {encoding:?}\n written {}\nexpected {}",
        written.escape_ascii(),
        expected.escape_ascii()
    );
}

#[test]
fn commands_are_written_as_ever() {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        for (name, command) in values::commands() {
            let mut out = Vec::new();
            encoding.encode_command(&command, &mut out);
            assert_bytes("commands", name, encoding, &out);
        }
    }
}

#[test]
fn commands_are_read_as_ever() {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        for (name, command) in values::commands() {
            let frame = golden("commands", name, encoding);
            let read: Vec<_> = encoding.decode_commands(&frame).collect();
            assert_eq!(read, [Ok(command)], "{name} in {encoding:?}");
        }
    }
}

#[test]
fn replies_and_pushes_are_written_as_ever() {
    let rewritten = values::rewritten_pushes().into_iter().map(|(name, push)| ("pushes", name, reply(push)));
    let all: Vec<_> = replies().into_iter().chain(rewritten).collect();
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        for (folder, name, reply) in &all {
            let mut out = Vec::new();
            encoding.encode_reply(reply, &mut out);
            assert_bytes(folder, name, encoding, &out);
        }
    }
}

#[test]
fn replies_and_pushes_are_read_as_ever() {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        for (folder, name, reply) in replies() {
            let frame = golden(folder, name, encoding);
            let read: Vec<_> = encoding.decode_replies(&frame).collect();
            assert_eq!(read, [Ok(reply)], "{folder}/{name} in {encoding:?}");
        }
    }
}

#[test]
fn protobuf_carries_any_payload_untouched() {
    for (name, push) in values::rewritten_pushes() {
        let frame = golden("pushes", name, Encoding::Protobuf);
        let read: Vec<_> = Encoding::Protobuf.decode_replies(&frame).collect();
        assert_eq!(read, [Ok(reply(push))], "{name}");
    }
}

#[test]
fn event_streams_are_written_as_ever() {
    for (name, written) in event_streams() {
        let expected = fs::read(folder("sse").join(format!("{name}.txt"))).unwrap();
        assert_eq!(written.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{name}");
    }
}

fn event_streams() -> Vec<(&'static str, Vec<u8>)> {
    let event = |name: Option<&str>, id: Option<&str>, data: &str| {
        let mut out = Vec::new();
        sse::event(name, id, data.as_bytes(), &mut out);
        out
    };
    let made = |write: fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    vec![
        ("message", event(None, Some("Ab-c"), r#"{"type":"offer"}"#)),
        ("named", event(Some("web-signals"), Some("Ab-c"), r#"{"type":"offer"}"#)),
        ("lines", event(None, None, "one\ntwo\r\nthree\rfour\n\n five")),
        (
            "subscribed",
            made(|out| {
                sse::retry(1500, out);
                sse::event(Some("subscribed"), Some("Ag"), br#"{"channels":{"web-signals":{}}}"#, out);
            }),
        ),
        ("cursor", made(cursor)),
        ("heartbeat", made(sse::heartbeat)),
    ]
}

/// The cursor of three channels, two of which share their epoch.
fn cursor(out: &mut Vec<u8>) {
    let positions =
        [("web-signals", 0xa1b2_c3d4_e5f6, 41), ("nest-signals", 0xa1b2_c3d4_e5f6, 0), ("☃", 1, 300)];
    let positions = positions.map(|(name, epoch, offset)| {
        let channel = ChannelName::parse(name).expect("a channel name");
        (ChannelTag::of(&channel), StreamPosition { epoch: Epoch::from_u64(epoch), offset })
    });
    Cursor::write(positions, out);
}

/// A file that no test reads would promise something that nobody keeps.
#[test]
fn no_golden_file_is_left_over() {
    let mut known: BTreeSet<PathBuf> = BTreeSet::new();
    let pushes =
        values::pushes().into_iter().chain(values::rewritten_pushes()).map(|(name, _)| ("pushes", name));
    let commands = values::commands().into_iter().map(|(name, _)| ("commands", name));
    let answers = values::replies().into_iter().map(|(name, _)| ("replies", name));
    for (folder_name, name) in commands.chain(answers).chain(pushes) {
        known
            .extend(["json", "hex"].map(|extension| folder(folder_name).join(format!("{name}.{extension}"))));
    }
    known.extend(event_streams().iter().map(|(name, _)| folder("sse").join(format!("{name}.txt"))));
    let folders = ["commands", "replies", "pushes", "sse"];
    let files = folders.iter().flat_map(|name| fs::read_dir(folder(name)).unwrap());
    let found: BTreeSet<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    assert_eq!(found, known);
}

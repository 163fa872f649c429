//! The bytes of each frame, in both encodings and both directions.
//!
//! `*.json` contains the text of a message, `*.hex` its Protobuf with its length; another implementation of the protocol
//! produced the latter. Changing one of these files breaks deployed clients.

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

/// A reply that contains only this push.
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
fn encodes_commands_as_in_the_golden_files() {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        for (name, command) in values::commands() {
            let mut out = Vec::new();
            encoding.encode_command(&command, &mut out);
            assert_bytes("commands", name, encoding, &out);
        }
    }
}

#[test]
fn decodes_commands_from_the_golden_files() {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        for (name, command) in values::commands() {
            let frame = golden("commands", name, encoding);
            let read: Vec<_> = encoding.decode_commands(&frame).collect();
            assert_eq!(read, [Ok(command)], "{name} in {encoding:?}");
        }
    }
}

#[test]
fn encodes_replies_and_pushes_as_in_the_golden_files() {
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
fn decodes_replies_and_pushes_from_the_golden_files() {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        for (folder, name, reply) in replies() {
            let frame = golden(folder, name, encoding);
            let read: Vec<_> = encoding.decode_replies(&frame).collect();
            assert_eq!(read, [Ok(reply)], "{folder}/{name} in {encoding:?}");
        }
    }
}

#[test]
fn protobuf_keeps_any_payload_unchanged() {
    for (name, push) in values::rewritten_pushes() {
        let frame = golden("pushes", name, Encoding::Protobuf);
        let read: Vec<_> = Encoding::Protobuf.decode_replies(&frame).collect();
        assert_eq!(read, [Ok(reply(push))], "{name}");
    }
}

#[test]
fn encodes_event_streams_as_in_the_golden_files() {
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

/// The cursor of three channels, two of which have the same epoch.
fn cursor(out: &mut Vec<u8>) {
    let positions =
        [("web-signals", 0xa1b2_c3d4_e5f6, 41), ("nest-signals", 0xa1b2_c3d4_e5f6, 0), ("☃", 1, 300)];
    let positions = positions.map(|(name, epoch, offset)| {
        let channel = ChannelName::parse(name).expect("a channel name");
        (ChannelTag::of(&channel), StreamPosition { epoch: Epoch::from_u64(epoch), offset })
    });
    Cursor::write(positions, out);
}

/// A golden file without a test would not be checked.
#[test]
fn every_golden_file_is_tested() {
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

//! Property tests: every message round-trips, and no input panics.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use bytes::Bytes;
use earshot_protocol::{
    ChannelName, ChannelTag, Command, ConnectResult, Cursor, CursorPosition, Encoding, Epoch, HistoryResult,
    NESTING_MAX, Payload, PayloadKind, Publication, Push, PushBody, Reply, ReplyBody, StreamPosition,
    SubscribeResult,
};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::strategies;

fn encoding() -> impl Strategy<Value = Encoding> {
    prop_oneof![Just(Encoding::Json), Just(Encoding::Protobuf)]
}

fn frame_of_commands(encoding: Encoding, commands: &[Command]) -> Vec<u8> {
    let mut frame = Vec::new();
    for (index, command) in commands.iter().enumerate() {
        if index > 0 {
            encoding.write_separator(&mut frame);
        }
        encoding.encode_command(command, &mut frame);
    }
    frame
}

fn frame_of_replies(encoding: Encoding, replies: &[Reply]) -> Vec<u8> {
    let mut frame = Vec::new();
    for (index, reply) in replies.iter().enumerate() {
        if index > 0 {
            encoding.write_separator(&mut frame);
        }
        encoding.encode_reply(reply, &mut frame);
    }
    frame
}

/// Decodes a frame in every way, and checks that decoding terminates.
fn read(frame: &[u8]) {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let commands = encoding.decode_commands(frame).count();
        let replies = encoding.decode_replies(frame).count();
        // Each message takes at least one byte; an error may follow.
        assert!(commands <= frame.len() + 1 && replies <= frame.len() + 1);
    }
}

fn written_push(encoding: Encoding, channel: &str, publication: &Publication) -> Vec<u8> {
    let push = Push { channel: channel.to_owned(), body: PushBody::Publication(publication.clone()) };
    frame_of_replies(encoding, &[Reply { id: 0, body: ReplyBody::Push(push) }])
}

fn read_push(encoding: Encoding, frame: &[u8]) -> Publication {
    let reply = encoding.decode_replies(frame).next().expect("a reply").expect("a valid one");
    let ReplyBody::Push(Push { body: PushBody::Publication(publication), .. }) = reply.body else {
        panic!("a publication");
    };
    publication
}

/// The JSON value of a payload, computed independently of the encoder.
fn as_json(payload: &Payload) -> serde_json::Value {
    match payload.kind() {
        PayloadKind::Json => serde_json::from_slice(payload.bytes()).expect("JSON"),
        PayloadKind::Text => std::str::from_utf8(payload.bytes()).expect("UTF-8").into(),
        PayloadKind::Binary => {
            use base64::Engine;
            base64::prelude::BASE64_STANDARD.encode(payload.bytes()).into()
        }
    }
}

proptest! {
    #[test]
    fn commands_round_trip_in_order(encoding in encoding(), commands in vec(strategies::command(), 1..5)) {
        let frame = frame_of_commands(encoding, &commands);
        let read: Vec<_> = encoding.decode_commands(&frame).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read, commands);
    }

    #[test]
    fn replies_round_trip_in_order(encoding in encoding(), replies in vec(strategies::reply(), 1..5)) {
        let frame = frame_of_replies(encoding, &replies);
        let read: Vec<_> = encoding.decode_replies(&frame).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read, replies);
    }

    #[test]
    fn a_json_message_is_one_line_of_json(reply in strategies::reply(), command in strategies::command()) {
        for frame in [
            frame_of_replies(Encoding::Json, std::slice::from_ref(&reply)),
            frame_of_commands(Encoding::Json, std::slice::from_ref(&command)),
        ] {
            prop_assert!(!frame.iter().any(|byte| b"\r\n".contains(byte)));
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&frame).is_ok());
        }
    }

    #[test]
    fn encode_publication_equals_encode_reply(
        encoding in encoding(),
        channel in strategies::any_channel(),
        publication in strategies::any_publication(),
    ) {
        let mut frame = b"before".to_vec();
        encoding.encode_publication(&channel, &publication, &mut frame);
        prop_assert_eq!(&frame[6..], written_push(encoding, &channel, &publication));
    }

    #[test]
    fn protobuf_round_trips_any_publication(publication in strategies::any_publication()) {
        let frame = written_push(Encoding::Protobuf, "c", &publication);
        prop_assert_eq!(read_push(Encoding::Protobuf, &frame), publication);
    }

    #[test]
    fn json_encodes_any_payload_on_one_line(publication in strategies::any_publication()) {
        let frame = written_push(Encoding::Json, "c", &publication);
        prop_assert!(!frame.iter().any(|byte| b"\r\n".contains(byte)));
        let read = read_push(Encoding::Json, &frame);
        prop_assert_eq!(as_json(&read.data), as_json(&publication.data));
        if publication.data.kind() == PayloadKind::Binary {
            let labels = read.tags.iter().filter(|(key, _)| key == "encoding").map(|(_, value)| value);
            prop_assert!(labels.eq(["base64"]));
        } else {
            prop_assert_eq!(read.tags, publication.tags);
        }
    }

    #[test]
    fn json_without_line_breaks_round_trips_byte_for_byte(publication in strategies::publication()) {
        let read = read_push(Encoding::Json, &written_push(Encoding::Json, "c", &publication));
        prop_assert_eq!(read, publication);
    }

    #[test]
    fn a_strict_parser_accepts_each_json_frame(publication in strategies::any_publication()) {
        let publications = vec![publication.clone()];
        let sub = SubscribeResult { publications: publications.clone(), ..SubscribeResult::default() };
        let subs = vec![("c".to_owned(), sub.clone())];
        let push = Push { channel: "c".to_owned(), body: PushBody::Publication(publication) };
        for body in [
            ReplyBody::Push(push),
            ReplyBody::Subscribe(sub),
            ReplyBody::History(HistoryResult { publications, ..HistoryResult::default() }),
            ReplyBody::Connect(ConnectResult { subs, ..ConnectResult::default() }),
        ] {
            let frame = frame_of_replies(Encoding::Json, &[Reply { id: 1, body }]);
            let read = serde_json::from_slice::<serde_json::Value>(&frame);
            prop_assert!(read.is_ok(), "{}: {:?}", frame.escape_ascii(), read);
        }
    }

    #[test]
    fn other_data_keeps_a_json_frame_valid(bytes in vec(any::<u8>(), 1..60)) {
        let data = Bytes::from(bytes);
        let rpc = earshot_protocol::RpcResult { data };
        let frame = frame_of_replies(Encoding::Json, &[Reply { id: 1, body: ReplyBody::Rpc(rpc) }]);
        prop_assert!(!frame.iter().any(|byte| b"\r\n".contains(byte)));
        let read: Vec<_> = Encoding::Json.decode_replies(&frame).collect();
        prop_assert!(matches!(&read[..], [Ok(Reply { id: 1, body: ReplyBody::Rpc(_) })]), "{:?}", read);
    }

    #[test]
    fn decoding_any_bytes_does_not_panic(frame in vec(any::<u8>(), 0..200)) {
        read(&frame);
    }

    #[test]
    fn a_truncated_frame_yields_the_commands_before_the_cut(
        encoding in encoding(),
        commands in vec(strategies::command(), 1..4),
        cut in any::<Index>(),
    ) {
        let frame = frame_of_commands(encoding, &commands);
        let cut = cut.index(frame.len());
        read(&frame[..cut]);
        read(&frame[cut..]);
        let read = encoding.decode_commands(&frame[..cut]).map_while(Result::ok);
        prop_assert!(read.zip(&commands).all(|(read, sent)| read == *sent));
    }

    #[test]
    fn decoding_a_corrupted_frame_does_not_panic(
        encoding in encoding(),
        commands in vec(strategies::command(), 1..4),
        replies in vec(strategies::reply(), 1..4),
        damages in vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        for mut frame in [frame_of_commands(encoding, &commands), frame_of_replies(encoding, &replies)] {
            for (index, byte) in &damages {
                let index = index.index(frame.len());
                frame[index] = *byte;
            }
            read(&frame);
        }
    }

    #[test]
    fn a_payload_is_json_exactly_if_a_strict_parser_accepts_it(payload in strategies::any_payload()) {
        let is_json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).is_ok();
        // serde_json accepts 127 levels.
        let around = 127 - NESTING_MAX;
        let inside = [&b"[".repeat(around)[..], payload.bytes(), &b"]".repeat(around)].concat();
        prop_assert_eq!(payload.kind() == PayloadKind::Json, is_json(payload.bytes()) && is_json(&inside));
        let text = std::str::from_utf8(payload.bytes());
        prop_assert_eq!(payload.kind() == PayloadKind::Binary, text.is_err());
    }

    #[test]
    fn an_epoch_round_trips(number in any::<u64>()) {
        let epoch = Epoch::from_u64(number);
        prop_assert_eq!(epoch.to_string().parse(), Ok(epoch));
    }

    #[test]
    fn any_text_is_a_cursor_or_an_error(text in any::<String>(), similar in "[A-Za-z0-9_-]{0,60}") {
        for text in [text, similar.clone(), format!("Ag{similar}")] {
            if let Ok(cursor) = Cursor::parse(&text) {
                let _ = cursor.positions(&[tag("web-signals"), tag("a"), tag("web-signals")]);
            }
        }
    }

    #[test]
    fn any_bytes_after_the_version_are_a_cursor_or_an_error(bytes in vec(any::<u8>(), 0..80)) {
        let text = BASE64_URL_SAFE_NO_PAD.encode([&[2][..], &bytes].concat());
        if let Ok(cursor) = Cursor::parse(&text) {
            prop_assert_eq!(cursor.positions(&[tag("web-signals")]).len(), 1);
        }
    }

    #[test]
    fn a_cursor_returns_the_position_of_each_channel(
        written in vec((0..24_u8, strategies::position()), 0..20),
        asked in vec(0..24_u8, 0..20),
    ) {
        let tags = |number: u8| tag(&format!("channel-{number}"));
        let mut text = Vec::new();
        Cursor::write(written.iter().map(|(channel, position)| (tags(*channel), *position)), &mut text);
        let text = String::from_utf8(text).unwrap();
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        prop_assert!(text.len() <= Cursor::max_bytes(written.len()));
        let cursor = Cursor::parse(&text).unwrap();
        let found = cursor.positions(&asked.iter().map(|channel| tags(*channel)).collect::<Vec<_>>());
        for (channel, found) in asked.iter().zip(found) {
            let own: Vec<StreamPosition> =
                written.iter().filter(|(other, _)| other == channel).map(|(_, position)| *position).collect();
            let expected = match own[..] {
                [] => CursorPosition::Absent,
                [position] if asked.iter().filter(|other| *other == channel).count() == 1 => {
                    CursorPosition::At(position)
                }
                _ => CursorPosition::Ambiguous,
            };
            prop_assert_eq!(found, expected);
        }
    }
}

fn tag(name: &str) -> ChannelTag {
    ChannelTag::of(&ChannelName::parse(name).expect("a channel name"))
}

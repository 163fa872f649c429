//! Decoding of frames beyond the golden files: variations of SDKs are accepted, everything else is a specific error.

use earshot_protocol::{
    Command, ConnectRequest, DecodeError, Encoding, PublishRequest, Request, SubscribeRequest, TagsFilter,
};

fn json(frame: &str) -> Vec<Result<Command, DecodeError>> {
    Encoding::Json.decode_commands(frame.as_bytes()).collect()
}

fn protobuf(frame: &[u8]) -> Vec<Result<Command, DecodeError>> {
    Encoding::Protobuf.decode_commands(frame).collect()
}

fn ping(id: u32) -> Result<Command, DecodeError> {
    Ok(Command { id, request: Request::Ping })
}

fn pong() -> Result<Command, DecodeError> {
    Ok(Command { id: 0, request: Request::Pong })
}

#[track_caller]
fn assert_malformed(read: &[Result<Command, DecodeError>], frame: &str) {
    assert!(matches!(read, [Err(DecodeError::Malformed(_))]), "{frame}: {read:?}");
}

#[test]
fn accepts_either_line_break_also_after_the_last_line() {
    let two = [ping(1), ping(2)];
    for frame in [
        "{\"id\":1,\"ping\":{}}\n{\"id\":2,\"ping\":{}}",
        "{\"id\":1,\"ping\":{}}\n{\"id\":2,\"ping\":{}}\n",
        "{\"id\":1,\"ping\":{}}\r\n{\"id\":2,\"ping\":{}}\r\n",
        " { \"id\" : 1 , \"ping\" : { } } \n\t{\"id\":2,\"ping\":{}}",
    ] {
        assert_eq!(json(frame), two, "{frame:?}");
    }
}

#[test]
fn null_is_an_unset_field() {
    assert_eq!(json(r#"{"id":1,"ping":null}"#), [ping(1)]);
    let connect = Command { id: 1, request: Request::Connect(ConnectRequest::default()) };
    for frame in [
        r#"{"id":1,"connect":null}"#,
        r#"{"id":1,"connect":{"token":null,"data":null,"subs":null,"name":null,"version":null,"headers":null}}"#,
    ] {
        assert_eq!(json(frame), [Ok(connect.clone())], "{frame}");
    }
}

#[test]
fn empty_bytes_are_no_data() {
    let connect = Command { id: 1, request: Request::Connect(ConnectRequest::default()) };
    assert_eq!(protobuf(b"\x06\x08\x01\x22\x02\x12\x00"), [Ok(connect)]);
}

#[test]
fn accepts_escaped_names() {
    assert_eq!(json(r#"{"\u0069d":1,"p\u0069ng":{}}"#), [ping(1)]);
}

#[test]
fn ignores_unknown_fields_of_any_depth() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let frame = format!(
        r#"{{"id":2,"new":{deep},"subscribe":{{"channel":"room","tf":{{"op":"and","nodes":{deep}}},"type":3}}}}"#
    );
    let (channel, tf) = ("room".to_owned(), Some(TagsFilter {}));
    let subscribe = SubscribeRequest { channel, tf, kind: 3, ..SubscribeRequest::default() };
    assert_eq!(json(&frame), [Ok(Command { id: 2, request: Request::Subscribe(subscribe) })]);
}

#[test]
fn keeps_payloads_unchanged() {
    for data in ["{ \"a\" : 1.0 ,\t\"a\":1e2}", "\"\\u0041\\/\"", "12345678901234567890.5", "null"] {
        let frame = format!("{{\"id\":1,\"publish\":{{\"channel\":\"c\\u0041\",\"data\": {data} }}}}");
        let request = PublishRequest { channel: "cA".to_owned(), data: data.to_owned().into(), kind: 0 };
        assert_eq!(json(&frame), [Ok(Command { id: 1, request: Request::Publish(request) })], "{frame}");
    }
}

#[test]
fn rejects_an_empty_frame() {
    for frame in ["", "\n", " \r\n\t"] {
        assert_eq!(json(frame), [Err(DecodeError::Empty)], "{frame:?}");
    }
    assert_eq!(protobuf(b""), [Err(DecodeError::Empty)]);
}

#[test]
fn an_empty_command_is_a_pong() {
    for frame in ["{}", "{}\n", "{\"id\":0}"] {
        assert_eq!(json(frame), [pong()], "{frame:?}");
    }
    assert_eq!(protobuf(b"\0"), [pong()]);
    assert_eq!(protobuf(b"\0\0"), [pong(), pong()]);
}

#[test]
fn rejects_a_command_without_a_known_method() {
    for frame in [r#"{"id":1}"#, r#"{"shout":{}}"#, r#"{"id":1,"shout":{}}"#, r#"{"id":1,"PING":{}}"#] {
        assert_eq!(json(frame), [Err(DecodeError::UnknownCommand)], "{frame}");
    }
    // An id alone; a field of number 200; the two fields of the protocol's first version.
    for frame in [&b"\x02\x08\x01"[..], b"\x03\xc2\x0c\x00", b"\x04\x08\x01\x10\x07"] {
        assert_eq!(protobuf(frame), [Err(DecodeError::UnknownCommand)], "{}", frame.escape_ascii());
    }
}

#[test]
fn rejects_two_methods_in_one_command() {
    for frame in [
        r#"{"id":1,"ping":{},"connect":{}}"#,
        r#"{"id":1,"ping":{},"ping":{}}"#,
        r#"{"id":1,"ping":null,"send":null}"#,
    ] {
        assert_eq!(json(frame), [Err(DecodeError::DuplicateMethod)], "{frame}");
    }
    assert_eq!(protobuf(b"\x06\x08\x01\x5a\x00\x22\x00"), [Err(DecodeError::DuplicateMethod)]);
}

#[test]
fn rejects_malformed_json_commands() {
    for frame in [
        "null",
        "[]",
        "1",
        "{",
        "{}}",
        "{} {}",
        "{}x",
        "connect",
        "{\"id\":1,}",
        "\u{feff}{}",
        "{\"id\":\"1\",\"ping\":{}}",
        "{\"id\":-1,\"ping\":{}}",
        "{\"id\":4294967296,\"ping\":{}}",
        "{\"id\":1.5,\"ping\":{}}",
        "{\"id\":1,\"ping\":1}",
        "{\"id\":1,\"ping\":[]}",
        "{\"id\":1,\"subscribe\":{\"channel\":1}}",
        "{\"id\":1,\"subscribe\":{\"channel\":\"\\ud800\"}}",
        "{\"id\":1,\"subscribe\":{\"recover\":\"true\"}}",
        "{\"id\":1,\"subscribe\":{\"offset\":-1}}",
        "{\"id\":1,\"publish\":{\"channel\":\"a\",\"data\":}}",
        "{\"id\":1,\"connect\":{\"headers\":{\"a\":1}}}",
    ] {
        assert_malformed(&json(frame), frame);
    }
}

#[test]
fn rejects_truncated_or_mistyped_protobuf() {
    for frame in [
        &b"\x80"[..],                                // half a length
        b"\x02\x08",                                 // shorter than its length
        b"\xff\xff\xff\xff\x0f",                     // a length of 4 GiB
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // the maximum length
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", // a length out of range
        b"\x02\x08\x80",                             // half an id
        b"\x02\x58\x00",                             // a number instead of a message
        b"\x04\x2a\x7f\x0a\x00",                     // a message longer than its command
        b"\x06\x2a\x04\x0a\x02\xff\xfe",             // a channel that is not UTF-8
        b"\x01\x0c",                                 // the end of a group without its start
        b"\x01\x07",                                 // an unknown wire type
        b"\x01\x00",                                 // field number 0
    ] {
        assert_malformed(&protobuf(frame), &frame.escape_ascii().to_string());
    }
}

#[test]
fn rejects_json_that_is_not_utf8() {
    for frame in [&b"\xff"[..], b"{\"id\":1,\"send\":{\"data\":\"\xff\"}}", b"{\"x\":\"\xc3\",\"ping\":{}}"] {
        let read: Vec<_> = Encoding::Json.decode_commands(frame).collect();
        assert_malformed(&read, &frame.escape_ascii().to_string());
    }
}

#[test]
fn decodes_commands_before_an_error_and_none_after_it() {
    let frame = "{\"id\":1,\"ping\":{}}\nx\n{\"id\":2,\"ping\":{}}";
    let mut commands = Encoding::Json.decode_commands(frame.as_bytes());
    assert_eq!(commands.next(), Some(ping(1)));
    assert!(matches!(commands.next(), Some(Err(DecodeError::Malformed(_)))));
    assert_eq!((commands.next(), commands.next()), (None, None));

    let frame = b"\x04\x08\x01\x5a\x00\x01\x08\x04\x08\x02\x5a\x00";
    let mut commands = Encoding::Protobuf.decode_commands(frame);
    assert_eq!(commands.next(), Some(ping(1)));
    assert!(matches!(commands.next(), Some(Err(DecodeError::Malformed(_)))));
    assert_eq!((commands.next(), commands.next()), (None, None));
}

#[test]
fn rejects_a_blank_line_between_commands() {
    let read = json("{}\n\n{}");
    assert_eq!(read[0], pong());
    assert_malformed(&read[1..], "a blank line");
}

/// An entry takes a few bytes on the wire and a few hundred in memory.
#[test]
fn rejects_a_connect_with_too_many_entries() {
    let subs = |count: usize| {
        let entries: Vec<String> = (0..count).map(|index| format!("\"{index}\":{{}}")).collect();
        format!("{{\"id\":1,\"connect\":{{\"subs\":{{{}}}}}}}", entries.join(","))
    };
    let Ok(Command { request: Request::Connect(connect), .. }) = json(&subs(1024)).remove(0) else {
        panic!("a connect");
    };
    assert_eq!(connect.subs.len(), 1024);
    assert_malformed(&json(&subs(1025)), "1025 subscriptions");

    let mut content = b"\x1a\x00".repeat(1025);
    content.splice(0..0, [0x22, 0x82, 0x10]);
    content.splice(0..0, [0x85, 0x10]);
    assert_malformed(&protobuf(&content), "1025 subscriptions in Protobuf");
}

#[test]
fn errors_never_contain_client_data() {
    for frame in [
        r#"{"id":1,"connect":"s3cret"}"#,
        r#"{"id":1,"connect":{"headers":"s3cret"}}"#,
        r#"{"id":"s3cret"}"#,
        "s3cret",
    ] {
        let Err(error) = json(frame).remove(0) else { panic!("{frame} is an error") };
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
}

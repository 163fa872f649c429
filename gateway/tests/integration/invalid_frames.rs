//! WebSocket frames that violate RFC 6455: each is closed with its code, and other clients are unaffected.

use crate::harness::Gateway;
use crate::harness::control_clients::ControlClients;
use crate::harness::ws_frames::{
    BINARY, CLOSE, LAST, PING, PONG, RawWebSocket, TEXT, frame, head, unfinished, unmasked,
};

const CONFIG: &str = "[limits]\nmessage_bytes = \"64KiB\"\n";
const LIMIT: usize = 64 * 1024;

/// Bytes sent after a valid connect command, and the expected close code.
type Row = (&'static str, Vec<u8>, u16);

#[tokio::test]
async fn each_invalid_frame_has_its_close_code() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut control = ControlClients::connect(&gateway).await;
    for (what, bytes, code) in invalid_frames() {
        let mut socket = RawWebSocket::connected(gateway.address()).await;
        socket.send(bytes).await;
        let (closed_with, reason) = socket.close().await.unwrap_or_else(|| panic!("{what}: no close frame"));
        assert_eq!(closed_with, code, "{what}: {reason}");
        assert!(socket.is_closed().await, "{what}: the connection stays open");
        control.assert_unaffected(&mut gateway, what).await;
    }
}

fn invalid_frames() -> Vec<Row> {
    let command = br#"{"id":2,"ping":{}}"#;
    let half = frame(unfinished(TEXT), &[b' '; LIMIT / 2]);
    let too_many_halves = [half.clone(), frame(0, &[b' '; LIMIT / 2]), frame(LAST, b"  ")].concat();
    let mut rows = vec![
        ("an unmasked frame", unmasked(TEXT, command), 1002),
        ("an unmasked close", unmasked(CLOSE, &1000u16.to_be_bytes()), 1002),
        ("a message that is too long", frame(TEXT, &vec![b' '; LIMIT + 1]), 1009),
        ("the header of a message that is too long", [head(TEXT, 1 << 30, true), vec![0; 4]].concat(), 1009),
        ("fragments that are too long together", too_many_halves, 1009),
        ("the first reserved bit", frame(TEXT | 0x40, command), 1002),
        ("the second reserved bit", frame(TEXT | 0x20, command), 1002),
        ("the third reserved bit", frame(TEXT | 0x10, command), 1002),
        ("a reserved opcode", frame(0x83, command), 1002),
        ("a reserved control opcode", frame(0x8B, b""), 1002),
        ("text that is not UTF-8", frame(TEXT, b"{\"id\":2,\"\xff\":{}}"), 1007),
        ("text that ends inside a character", frame(TEXT, b"\xe2\x82"), 1007),
        ("a continuation without a message", frame(LAST, command), 1002),
        ("a second first frame", [half.clone(), frame(TEXT, command)].concat(), 1002),
    ];
    rows.extend(invalid_control_frames(half));
    rows
}

fn invalid_control_frames(half: Vec<u8>) -> Vec<Row> {
    let code = |code: u16| frame(CLOSE, &code.to_be_bytes());
    vec![
        ("a close code that must not be sent", code(1005), 1002),
        ("an undefined close code", code(999), 1002),
        ("a close code out of range", code(5000), 1002),
        ("half a close code", frame(CLOSE, &[3]), 1002),
        ("a close reason that is not UTF-8", frame(CLOSE, b"\x03\xe8\xff\xfe"), 1007),
        ("a ping that is too long", frame(PING, &[0; 126]), 1002),
        ("a close that is too long", frame(CLOSE, &[b'a'; 126]), 1002),
        ("a fragmented ping", frame(unfinished(PING), b"a"), 1002),
        ("a fragmented close inside a message", [half, frame(unfinished(CLOSE), b"")].concat(), 1002),
    ]
}

#[tokio::test]
async fn unusual_but_valid_frames_are_accepted() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut socket = RawWebSocket::connected(gateway.address()).await;
    let in_three = [
        frame(unfinished(TEXT), br#"{"id":2,"su"#),
        frame(PING, b"inside a message"),
        frame(0, "bscribe\":{\"channel\":\"\u{fc}".as_bytes().split_last().unwrap().1),
        frame(PONG, b"unsolicited"),
        frame(LAST, b"\xbc\"}}"),
    ];
    socket.send(in_three.concat()).await;
    let pong = socket.frame().await.unwrap();
    assert_eq!((pong.first, &pong.payload[..]), (PONG, &b"inside a message"[..]));
    let reply = socket.frame().await.unwrap();
    assert!(reply.payload.starts_with(br#"{"id":2,"subscribe":{"#), "{reply:?}");

    socket.send(frame(BINARY, b"")).await; // React Native's ping
    for byte in frame(TEXT, br#"{"id":3,"ping":{}}"#) {
        socket.send([byte]).await;
    }
    assert_eq!(socket.frame().await.unwrap().payload, br#"{"id":3,"ping":{}}"#);
    gateway.assert_alive();
}

#[tokio::test]
async fn largest_valid_message_is_accepted() {
    let gateway = Gateway::settings().config(CONFIG).start().await;
    let mut socket = RawWebSocket::connected(gateway.address()).await;
    let mut text = br#"{"id":2,"ping":{}}"#.to_vec();
    text.resize(LIMIT, b' ');
    socket.send(frame(TEXT, &text)).await;
    assert_eq!(socket.frame().await.unwrap().payload, br#"{"id":2,"ping":{}}"#);
}

#[tokio::test]
async fn close_frame_is_echoed_and_the_connection_closed() {
    let gateway = Gateway::start().await;
    for payload in [&b""[..], b"\x03\xe8", b"\x03\xe8done", b"\x0b\xb8", b"\x0f\xa0own"] {
        let mut socket = RawWebSocket::connected(gateway.address()).await;
        socket.send(frame(CLOSE, payload)).await;
        let answer = socket.frame().await.unwrap();
        assert_eq!(answer.first, CLOSE, "{payload:?}");
        assert_eq!(answer.payload.get(..2), payload.get(..2), "the code is echoed");
        assert!(socket.is_closed().await, "{payload:?}");
    }
}

#[tokio::test]
async fn subprotocol_is_negotiated_without_extensions() {
    let gateway = Gateway::start().await;
    let offers = [
        ("Sec-WebSocket-Protocol: centrifuge-json", Some("centrifuge-json")),
        ("Sec-WebSocket-Protocol: centrifuge-protobuf", Some("centrifuge-protobuf")),
        ("Sec-WebSocket-Protocol: other, centrifuge-protobuf", Some("centrifuge-protobuf")),
        ("Sec-WebSocket-Protocol:", None),
        ("Sec-WebSocket-Extensions: permessage-deflate", None),
    ];
    for (line, chosen) in offers {
        let socket = RawWebSocket::open_with(gateway.address(), "/connection/websocket", &[line]).await;
        assert_eq!(socket.head.header("sec-websocket-protocol"), chosen, "{line}");
        assert_eq!(socket.head.header("sec-websocket-extensions"), None, "{line}");
    }
    let mut socket = RawWebSocket::open_with(gateway.address(), "/ws?cf_protocol=protobuf", &[]).await;
    socket.send(frame(BINARY, &[4, 0x08, 1, 0x22, 0])).await; // id 1, an empty connect request
    let reply = socket.frame().await.unwrap();
    assert_eq!((reply.first, &reply.payload[1..3]), (BINARY, &[0x08, 1][..]), "{reply:?}");
}

#[tokio::test]
async fn foreign_origin_is_rejected_and_same_origin_accepted() {
    let gateway = Gateway::start().await;
    let same = format!("Origin: http://{}", gateway.address());
    let host = format!("Host: {}", gateway.address());
    for (origin, accepted) in [(same.as_str(), true), ("Origin: https://evil.example", false)] {
        let request = handshake_with_origin(&host, origin);
        let answer = is_accepted(&gateway, &request).await;
        assert_eq!(answer, accepted, "{origin}");
    }
}

/// Whether a connect command succeeds after this opening request.
async fn is_accepted(gateway: &Gateway, request: &str) -> bool {
    let mut raw = crate::harness::http::Raw::connect(gateway.address()).await;
    raw.send(request).await;
    raw.send(frame(TEXT, br#"{"id":1,"connect":{}}"#)).await;
    while raw.fill().await.unwrap_or(false) {
        let seen = String::from_utf8_lossy(raw.buffered()).into_owned();
        if seen.contains(r#"{"id":1,"connect":{"client":"#) {
            return true;
        }
    }
    false
}

fn handshake_with_origin(host: &str, origin: &str) -> String {
    use crate::harness::ws_frames::{KEY, VERSION};
    format!(
        "GET /ws HTTP/1.1\r\n{host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{KEY}\r\n{VERSION}\r\n{origin}\r\n\r\n"
    )
}

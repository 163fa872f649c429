//! The values whose encodings are in `tests/golden`, by file name.

use bytes::Bytes;
use earshot_protocol::{
    ClientInfo, Command, ConnectPush, ConnectRequest, ConnectResult, Disconnect, ErrorCode, HistoryRequest,
    HistoryResult, JoinLeavePush, MessagePush, Payload, PresenceRequest, PresenceResult,
    PresenceStatsRequest, PresenceStatsResult, Publication, PublishRequest, PublishResult, Push, PushBody,
    RefreshPush, RefreshRequest, RefreshResult, Reply, ReplyBody, Request, RpcRequest, RpcResult,
    SendRequest, Since, SubRefreshRequest, SubRefreshResult, SubscribePush, SubscribeRequest,
    SubscribeResult, TagsFilter, UnsubscribeCode, UnsubscribeRequest,
};

fn raw(json: &'static str) -> Bytes {
    Bytes::from_static(json.as_bytes())
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn payload(bytes: &'static [u8]) -> Payload {
    Payload::new(Bytes::from_static(bytes))
}

fn ann() -> ClientInfo {
    ClientInfo { user: text("ann"), client: text("c1"), ..ClientInfo::default() }
}

pub(crate) fn commands() -> Vec<(&'static str, Command)> {
    let command = |id, request| Command { id, request };
    vec![
        ("pong", command(0, Request::Pong)),
        ("connect", command(1, Request::Connect(connect_request()))),
        ("connect-empty", command(1, Request::Connect(ConnectRequest::default()))),
        ("subscribe", command(2, Request::Subscribe(subscribe_request()))),
        ("subscribe-map", command(2, Request::Subscribe(map_subscription()))),
        ("unsubscribe", command(3, Request::Unsubscribe(UnsubscribeRequest { channel: text("комната ☃") }))),
        ("publish", command(4, publish(r#"{"type":"offer","payload":{"sdp":"v=0\r\n"}}"#))),
        ("publish-null", command(4, publish("null"))),
        ("presence", command(5, Request::Presence(PresenceRequest { channel: text("room") }))),
        (
            "presence_stats",
            command(6, Request::PresenceStats(PresenceStatsRequest { channel: text("room") })),
        ),
        ("history", command(7, Request::History(history_request()))),
        (
            "history-top",
            command(
                8,
                Request::History(HistoryRequest { channel: text("room"), ..HistoryRequest::default() }),
            ),
        ),
        ("ping", command(9, Request::Ping)),
        ("send", command(0, Request::Send(SendRequest { data: raw("\"hello\"") }))),
        (
            "rpc",
            command(u32::MAX, Request::Rpc(RpcRequest { data: raw(r#"{"a":1.50}"#), method: text("sum") })),
        ),
        ("refresh", command(11, Request::Refresh(RefreshRequest { token: text("new") }))),
        (
            "sub_refresh",
            command(12, Request::SubRefresh(SubRefreshRequest { channel: text("room"), token: text("new") })),
        ),
    ]
}

fn connect_request() -> ConnectRequest {
    let recovering =
        SubscribeRequest { recover: true, epoch: text("x1"), offset: 7, ..SubscribeRequest::default() };
    ConnectRequest {
        token: text("t0k"),
        data: Some(raw(r#"{"device": "phone"}"#)),
        subs: vec![(text("web-signals"), recovering), (text("nest-signals"), SubscribeRequest::default())],
        name: text("js"),
        version: text("5.8.0"),
        headers: vec![(text("X-Trace"), text("a b")), (text("Accept-Language"), text("it"))],
    }
}

fn subscribe_request() -> SubscribeRequest {
    SubscribeRequest {
        channel: text("web-signals"),
        token: text("s\"t"),
        recover: true,
        epoch: text("3w5e11264sgsf"),
        offset: u64::MAX,
        data: Some(raw("[1,2]")),
        positioned: true,
        recoverable: true,
        join_leave: true,
        delta: text("fossil"),
        flag: -3,
        ..SubscribeRequest::default()
    }
}

fn map_subscription() -> SubscribeRequest {
    let filter = Some(TagsFilter {});
    SubscribeRequest { channel: text("room"), tf: filter, kind: 1, ..SubscribeRequest::default() }
}

fn publish(data: &'static str) -> Request {
    Request::Publish(PublishRequest { channel: text("web-signals"), data: raw(data), kind: 0 })
}

fn history_request() -> HistoryRequest {
    let since = Since { offset: 300, epoch: text("z") };
    HistoryRequest { channel: text("room"), limit: -1, since: Some(since), reverse: true }
}

pub(crate) fn replies() -> Vec<(&'static str, Reply)> {
    let reply = |id, body| Reply { id, body };
    let stats = PresenceStatsResult { num_clients: 3, num_users: 2 };
    vec![
        ("ping", reply(0, ReplyBody::Ping)),
        ("error", reply(1, ReplyBody::Error(ErrorCode::Internal.into()))),
        ("error-final", reply(2, ReplyBody::Error(ErrorCode::PermissionDenied.into()))),
        ("connect", reply(1, ReplyBody::Connect(connect_result()))),
        ("subscribe", reply(2, ReplyBody::Subscribe(subscribe_result()))),
        ("subscribe-plain", reply(2, ReplyBody::Subscribe(SubscribeResult::default()))),
        ("unsubscribe", reply(3, ReplyBody::Unsubscribe)),
        ("publish", reply(4, ReplyBody::Publish(PublishResult::default()))),
        ("publish-local", reply(4, ReplyBody::Publish(PublishResult { local: true }))),
        ("presence", reply(5, ReplyBody::Presence(presence_result()))),
        ("presence_stats", reply(6, ReplyBody::PresenceStats(stats))),
        ("history", reply(7, ReplyBody::History(history_result()))),
        ("history-empty", reply(7, ReplyBody::History(HistoryResult::default()))),
        ("pong", reply(9, ReplyBody::Pong)),
        ("rpc", reply(10, ReplyBody::Rpc(RpcResult { data: raw(r#"{"sum":3}"#) }))),
        ("refresh", reply(11, ReplyBody::Refresh(refresh_result()))),
        ("sub_refresh", reply(12, ReplyBody::SubRefresh(SubRefreshResult { expires: true, ttl: 300 }))),
    ]
}

fn connect_result() -> ConnectResult {
    let news = SubscribeResult {
        recoverable: true,
        epoch: text("x1"),
        offset: 7,
        positioned: true,
        ..SubscribeResult::default()
    };
    ConnectResult {
        client: text("0f2c"),
        version: text("0.1.0"),
        expires: true,
        ttl: 3600,
        data: Some(raw(r#"{"hello": "you"}"#)),
        subs: vec![(text("news"), news)],
        ping: 25,
        pong: true,
        session: text("s"),
        node: text("n"),
        time: 1_700_000_000_000,
    }
}

fn subscribe_result() -> SubscribeResult {
    let first = Publication { data: payload(br#"{"n":8}"#), offset: 8, ..Publication::default() };
    let tags = vec![(text("k"), text("v"))];
    let second = Publication { data: payload(b"9"), offset: 9, tags, ..Publication::default() };
    SubscribeResult {
        expires: true,
        ttl: 60,
        recoverable: true,
        epoch: text("x1"),
        publications: vec![first, second],
        recovered: true,
        offset: 7,
        positioned: true,
        data: Some(raw("\"d\"")),
        was_recovering: true,
        delta: true,
    }
}

fn presence_result() -> PresenceResult {
    let first = ClientInfo { conn_info: Some(raw(r#"{"n":1}"#)), chan_info: Some(raw("[]")), ..ann() };
    let second = ClientInfo { client: text("c2"), ..ClientInfo::default() };
    PresenceResult { presence: vec![(text("c1"), first), (text("c2"), second)] }
}

fn history_result() -> HistoryResult {
    let only = Publication { data: payload(b"{}"), offset: 1, ..Publication::default() };
    HistoryResult { publications: vec![only], epoch: text("x1"), offset: 1 }
}

fn refresh_result() -> RefreshResult {
    RefreshResult { client: text("0f2c"), version: text("0.1.0"), expires: true, ttl: 300 }
}

pub(crate) fn pushes() -> Vec<(&'static str, Push)> {
    let in_room = |body| Push { channel: text("room"), body };
    let to_all = |body| Push { channel: String::new(), body };
    vec![
        ("pub", publication(br#"{"type":"offer"}"#)),
        ("pub-full", full_publication()),
        ("join", in_room(PushBody::Join(JoinLeavePush { info: ann() }))),
        ("leave", in_room(PushBody::Leave(JoinLeavePush { info: ann() }))),
        ("unsubscribe", in_room(PushBody::Unsubscribe(UnsubscribeCode::InsufficientState.into()))),
        ("message", to_all(PushBody::Message(MessagePush { data: raw(r#"{"m":1}"#) }))),
        ("subscribe", in_room(PushBody::Subscribe(subscribe_push()))),
        ("connect", to_all(PushBody::Connect(connect_push()))),
        ("disconnect", to_all(PushBody::Disconnect(Disconnect::Shutdown.into()))),
        ("refresh", to_all(PushBody::Refresh(RefreshPush { expires: true, ttl: 60 }))),
    ]
}

/// Publications that JSON cannot carry unchanged: they do not round-trip.
pub(crate) fn rewritten_pushes() -> Vec<(&'static str, Push)> {
    let mut binary = publication(&[255, 0, 1, 128]);
    if let PushBody::Publication(publication) = &mut binary.body {
        publication.tags = vec![(text("kind"), text("frame"))];
    }
    vec![
        ("pub-pretty", publication(b"{\r\n  \"type\": \"offer\",\n  \"sdp\": \"v=0\\\\r\\\\n\"\r}")),
        ("pub-text", publication("say \"hi\"\n\t☃\u{1}".as_bytes())),
        ("pub-empty", publication(b"")),
        ("pub-binary", binary),
    ]
}

fn publication(data: &'static [u8]) -> Push {
    let publication = Publication { data: payload(data), offset: 8, ..Publication::default() };
    Push { channel: text("web-signals"), body: PushBody::Publication(publication) }
}

fn full_publication() -> Push {
    let publication = Publication {
        data: payload(br#"{"type":"answer"}"#),
        offset: 300,
        tags: vec![(text("kind"), text("answer")), (text("to"), text("bob"))],
        info: Some(ClientInfo { conn_info: Some(raw(r#"{"n":1}"#)), chan_info: Some(raw("\"x\"")), ..ann() }),
        time: 1_700_000_000_123,
    };
    Push { channel: text("web-signals"), body: PushBody::Publication(publication) }
}

fn subscribe_push() -> SubscribePush {
    let data = Some(raw(r#"{"d":1}"#));
    SubscribePush { recoverable: true, epoch: text("x1"), offset: 7, positioned: true, data }
}

fn connect_push() -> ConnectPush {
    ConnectPush {
        client: text("0f2c"),
        version: text("0.1.0"),
        data: Some(raw(r#"{"d":1}"#)),
        subs: vec![(text("news"), SubscribeResult { epoch: text("x1"), ..SubscribeResult::default() })],
        expires: true,
        ttl: 60,
        ping: 25,
        pong: true,
        session: text("s"),
        node: text("n"),
        time: 1_700_000_000_000,
    }
}

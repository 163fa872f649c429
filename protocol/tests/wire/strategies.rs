//! Strategies for arbitrary values, biased towards edge cases: quotes, line breaks, zeros, limits.

use bytes::Bytes;
use earshot_protocol::{
    ChannelName, ClientInfo, Command, ConnectPush, ConnectRequest, ConnectResult, DisconnectPush, Epoch,
    HistoryRequest, HistoryResult, JoinLeavePush, MessagePush, Payload, PresenceRequest, PresenceResult,
    PresenceStatsRequest, PresenceStatsResult, Publication, PublishRequest, PublishResult, Push, PushBody,
    RefreshPush, RefreshRequest, RefreshResult, Reply, ReplyBody, ReplyError, Request, RpcRequest, RpcResult,
    SendRequest, Since, StreamPosition, SubRefreshRequest, SubRefreshResult, SubscribePush, SubscribeRequest,
    SubscribeResult, TagsFilter, UnsubscribePush, UnsubscribeRequest,
};
use proptest::{collection::vec, option, prelude::*};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z:_-]{1,12}", any::<String>(), "[\"\\\\\r\n\t\0\u{2028}☃]{1,6}"]
}

fn map<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<(String, T)>> {
    vec((text(), value), 0..4)
}

/// Any JSON on one line except `null`, which an optional field decodes as `None`.
fn json() -> impl Strategy<Value = Bytes> {
    let scalar = prop_oneof![
        any::<bool>().prop_map(|value| value.to_string()),
        any::<f64>()
            .prop_filter("JSON has finite numbers", |value| value.is_finite())
            .prop_map(|n| format!("{n:?}")),
        text().prop_map(|text| serde_json::to_string(&text).expect("a JSON string")),
    ];
    let value = scalar.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|values| format!("[{}]", values.join(" , "))),
            vec(inner, 0..3).prop_map(|values| {
                let members = values.iter().map(|value| format!("\"k\": {value}"));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }),
        ]
    });
    value.prop_map(Bytes::from)
}

fn payload() -> impl Strategy<Value = Payload> {
    json().prop_map(Payload::new)
}

/// A publication of JSON on one line.
pub(crate) fn publication() -> impl Strategy<Value = Publication> {
    publication_of(payload())
}

/// A payload of JSON on one or several lines, text, or bytes.
pub(crate) fn any_payload() -> impl Strategy<Value = Payload> {
    let spread = json().prop_map(|json| {
        let json = String::from_utf8_lossy(&json).replace(" , ", "\r,\n ");
        Bytes::from(format!("\r\n {json}\n"))
    });
    let texts = text().prop_map(Bytes::from);
    let lines = "[a\r\n ]{0,8}".prop_map(Bytes::from);
    let bytes = vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    prop_oneof![json(), spread, texts, lines, bytes, hostile()].prop_map(Payload::new)
}

/// JSON that only some parsers accept, and similar texts.
fn hostile() -> impl Strategy<Value = Bytes> {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let value = prop_oneof![
        Just(r#""\ud800""#.to_owned()),
        Just(r#"{"\udfff":"\ud83d\ude00"}"#.to_owned()),
        "-?[0-9]{1,3}[eE][+-]?[0-9]{1,4}",
        "[1-9][0-9]{290,330}(e[0-9]{1,3})?",
        prop_oneof![100..140_usize, 5000..40_000_usize].prop_map(nested),
    ];
    (value, "(\\[[ \n]?|\\{\"a\":)?").prop_map(|(value, open)| {
        let close = match open.bytes().next() {
            Some(b'[') => "]",
            Some(_) => "}",
            None => "",
        };
        Bytes::from(format!("{open}{value}{close}"))
    })
}

fn client_info() -> impl Strategy<Value = ClientInfo> {
    (text(), text(), option::of(json()), option::of(json()))
        .prop_map(|(user, client, conn_info, chan_info)| ClientInfo { user, client, conn_info, chan_info })
}

/// Tags, sometimes with the key `encoding`, which the JSON encoding sets itself.
fn tags() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((prop_oneof![4 => text(), 1 => Just("encoding".to_owned())], text()), 0..4)
}

fn publication_of(data: impl Strategy<Value = Payload>) -> impl Strategy<Value = Publication> {
    (data, any::<u64>(), tags(), option::of(client_info()), any::<i64>())
        .prop_map(|(data, offset, tags, info, time)| Publication { data, offset, tags, info, time })
}

pub(crate) fn any_publication() -> impl Strategy<Value = Publication> {
    publication_of(any_payload())
}

pub(crate) fn any_channel() -> impl Strategy<Value = String> {
    text()
}

fn subscribe_request() -> impl Strategy<Value = SubscribeRequest> {
    let texts = (text(), text(), text(), text());
    let flags = any::<[bool; 4]>();
    let kinds = (option::of(Just(TagsFilter {})), any::<i32>());
    (texts, flags, any::<u64>(), option::of(json()), any::<i64>(), kinds).prop_map(
        |((channel, token, epoch, delta), flags, offset, data, flag, (tf, kind))| {
            let [recover, positioned, recoverable, join_leave] = flags;
            SubscribeRequest {
                channel,
                token,
                recover,
                epoch,
                offset,
                data,
                positioned,
                recoverable,
                join_leave,
                delta,
                tf,
                flag,
                kind,
            }
        },
    )
}

fn connect_request() -> impl Strategy<Value = ConnectRequest> {
    (text(), option::of(json()), map(subscribe_request()), text(), text(), map(text())).prop_map(
        |(token, data, subs, name, version, headers)| ConnectRequest {
            token,
            data,
            subs,
            name,
            version,
            headers,
        },
    )
}

fn history_request() -> impl Strategy<Value = HistoryRequest> {
    let since = (any::<u64>(), text()).prop_map(|(offset, epoch)| Since { offset, epoch });
    (text(), any::<i32>(), option::of(since), any::<bool>())
        .prop_map(|(channel, limit, since, reverse)| HistoryRequest { channel, limit, since, reverse })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        connect_request().prop_map(Request::Connect),
        subscribe_request().prop_map(Request::Subscribe),
        text().prop_map(|channel| Request::Unsubscribe(UnsubscribeRequest { channel })),
        (text(), json(), any::<i32>()).prop_map(|(channel, data, kind)| Request::Publish(PublishRequest {
            channel,
            data,
            kind
        })),
        text().prop_map(|channel| Request::Presence(PresenceRequest { channel })),
        text().prop_map(|channel| Request::PresenceStats(PresenceStatsRequest { channel })),
        history_request().prop_map(Request::History),
        Just(Request::Ping),
        json().prop_map(|data| Request::Send(SendRequest { data })),
        (json(), text()).prop_map(|(data, method)| Request::Rpc(RpcRequest { data, method })),
        text().prop_map(|token| Request::Refresh(RefreshRequest { token })),
        (text(), text())
            .prop_map(|(channel, token)| Request::SubRefresh(SubRefreshRequest { channel, token })),
    ]
}

pub(crate) fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        1 => Just(Command { id: 0, request: Request::Pong }),
        12 => (any::<u32>(), request()).prop_map(|(id, request)| Command { id, request }),
    ]
}

fn subscribe_result() -> impl Strategy<Value = SubscribeResult> {
    let numbers = (any::<u32>(), any::<u64>());
    let publications = vec(publication(), 0..3);
    (any::<[bool; 6]>(), numbers, text(), publications, option::of(json())).prop_map(
        |(flags, (ttl, offset), epoch, publications, data)| {
            let [expires, recoverable, recovered, positioned, was_recovering, delta] = flags;
            SubscribeResult {
                expires,
                ttl,
                recoverable,
                epoch,
                publications,
                recovered,
                offset,
                positioned,
                data,
                was_recovering,
                delta,
            }
        },
    )
}

fn connect_result() -> impl Strategy<Value = ConnectResult> {
    let texts = (text(), text(), text(), text());
    let numbers = (any::<[u32; 2]>(), any::<i64>());
    (texts, any::<[bool; 2]>(), numbers, option::of(json()), map(subscribe_result())).prop_map(
        |((client, version, session, node), [expires, pong], ([ttl, ping], time), data, subs)| {
            ConnectResult { client, version, expires, ttl, data, subs, ping, pong, session, node, time }
        },
    )
}

fn connect_push() -> impl Strategy<Value = ConnectPush> {
    connect_result().prop_map(|result| {
        let ConnectResult { client, version, expires, ttl, data, subs, ping, pong, session, node, time } =
            result;
        ConnectPush { client, version, data, subs, expires, ttl, ping, pong, session, node, time }
    })
}

fn reply_error() -> impl Strategy<Value = ReplyError> {
    (any::<u32>(), text(), any::<bool>()).prop_map(|(code, message, temporary)| ReplyError {
        code,
        message: message.into(),
        temporary,
    })
}

fn subscribe_push() -> impl Strategy<Value = SubscribePush> {
    (any::<[bool; 2]>(), text(), any::<u64>(), option::of(json())).prop_map(
        |([recoverable, positioned], epoch, offset, data)| SubscribePush {
            recoverable,
            epoch,
            offset,
            positioned,
            data,
        },
    )
}

fn push_body() -> impl Strategy<Value = PushBody> {
    let member = || client_info().prop_map(|info| JoinLeavePush { info });
    prop_oneof![
        publication().prop_map(PushBody::Publication),
        member().prop_map(PushBody::Join),
        member().prop_map(PushBody::Leave),
        (any::<u32>(), text())
            .prop_map(|(code, reason)| PushBody::Unsubscribe(UnsubscribePush { code, reason })),
        json().prop_map(|data| PushBody::Message(MessagePush { data })),
        subscribe_push().prop_map(PushBody::Subscribe),
        connect_push().prop_map(PushBody::Connect),
        (any::<u32>(), text(), any::<bool>()).prop_map(|(code, reason, reconnect)| {
            PushBody::Disconnect(DisconnectPush { code, reason, reconnect })
        }),
        (any::<bool>(), any::<u32>())
            .prop_map(|(expires, ttl)| PushBody::Refresh(RefreshPush { expires, ttl })),
    ]
}

fn reply_body() -> impl Strategy<Value = ReplyBody> {
    prop_oneof![
        reply_error().prop_map(ReplyBody::Error),
        (text(), push_body()).prop_map(|(channel, body)| ReplyBody::Push(Push { channel, body })),
        connect_result().prop_map(ReplyBody::Connect),
        subscribe_result().prop_map(ReplyBody::Subscribe),
        Just(ReplyBody::Unsubscribe),
        any::<bool>().prop_map(|local| ReplyBody::Publish(PublishResult { local })),
        map(client_info()).prop_map(|presence| ReplyBody::Presence(PresenceResult { presence })),
        any::<[u32; 2]>().prop_map(|[num_clients, num_users]| {
            ReplyBody::PresenceStats(PresenceStatsResult { num_clients, num_users })
        }),
        (vec(publication(), 0..3), text(), any::<u64>()).prop_map(|(publications, epoch, offset)| {
            ReplyBody::History(HistoryResult { publications, epoch, offset })
        }),
        Just(ReplyBody::Pong),
        json().prop_map(|data| ReplyBody::Rpc(RpcResult { data })),
        (text(), text(), any::<bool>(), any::<u32>()).prop_map(|(client, version, expires, ttl)| {
            ReplyBody::Refresh(RefreshResult { client, version, expires, ttl })
        }),
        (any::<bool>(), any::<u32>())
            .prop_map(|(expires, ttl)| ReplyBody::SubRefresh(SubRefreshResult { expires, ttl })),
    ]
}

pub(crate) fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        1 => Just(Reply { id: 0, body: ReplyBody::Ping }),
        12 => (any::<u32>(), reply_body()).prop_map(|(id, body)| Reply { id, body }),
    ]
}

pub(crate) fn channel_name() -> impl Strategy<Value = ChannelName> {
    any::<String>().prop_filter_map("a channel name", |text| ChannelName::parse(&text).ok())
}

pub(crate) fn position() -> impl Strategy<Value = StreamPosition> {
    any::<[u64; 2]>().prop_map(|[epoch, offset]| StreamPosition { epoch: Epoch::from_u64(epoch), offset })
}

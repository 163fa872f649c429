//! The schema of the Centrifuge client protocol: for each field its Protobuf number and its JSON name, which is also the
//! name of the struct field. Both encodings are generated from this table. Numbers and names never change: deployed
//! clients use them.

use crate::{
    ClientInfo, ConnectPush, ConnectRequest, ConnectResult, DisconnectPush, HistoryRequest, HistoryResult,
    JoinLeavePush, MessagePush, PresenceRequest, PresenceResult, PresenceStatsRequest, PresenceStatsResult,
    Publication, PublishRequest, PublishResult, PushBody, RefreshPush, RefreshRequest, RefreshResult,
    ReplyBody, ReplyError, Request, RpcRequest, RpcResult, SendRequest, Since, SubRefreshRequest,
    SubRefreshResult, SubscribePush, SubscribeRequest, SubscribeResult, TagsFilter, UnsubscribePush,
    UnsubscribeRequest, json, protobuf,
};

/// A message without fields.
#[derive(Default)]
pub(crate) struct Empty;

/// The JSON name of a field: the name of the struct field unless another name is given.
macro_rules! json_name {
    ($name:ident) => {
        stringify!($name)
    };
    ($name:ident $json:literal) => {
        $json
    };
}

macro_rules! write_json {
    ($object:ident, $name:expr, $value:expr) => {
        $object.field($name, $value)
    };
    ($object:ident, $name:expr, $value:expr, always) => {
        $object.member($name, $value)
    };
}

/// `= "name"`: the JSON name differs. `(always)`: JSON contains the field even if it is zero.
macro_rules! message {
    ($type:ident { $($number:literal $name:ident $(= $json:literal)? $(($always:ident))?),* }) => {
        impl json::JsonMessage for $type {
            fn write_fields(&self, _object: &mut json::Object<'_>) {
                $(write_json!(_object, json_name!($name $($json)?), &self.$name $(, $always)?);)*
            }

            fn read_field<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                name: &str,
                map: &mut A,
            ) -> Result<(), A::Error> {
                match name {
                    $(json_name!($name $($json)?) => self.$name = json::read_value(map)?,)*
                    _ => json::ignore_value(map)?,
                }
                Ok(())
            }
        }

        protobuf_message!($type { $($number $name),* });
    };
}

macro_rules! protobuf_message {
    ($type:ident { $($number:literal $name:ident),* }) => {
        impl protobuf::ProtobufMessage for $type {
            fn fields_len(&self) -> usize {
                0 $(+ protobuf::ProtobufField::field_len(&self.$name, $number))*
            }

            fn write_fields(&self, _out: &mut Vec<u8>) {
                $(protobuf::ProtobufField::write_field(&self.$name, $number, _out);)*
            }

            fn merge_field(
                &mut self,
                key: protobuf::Key,
                buf: &mut &[u8],
            ) -> Result<(), crate::DecodeError> {
                match key.number {
                    $($number => protobuf::ProtobufField::merge(&mut self.$name, key.wire, buf),)*
                    _ => key.skip(buf),
                }
            }
        }
    };
}

/// Variants with a message; then variants with an empty message; then the variant without a field of its own.
macro_rules! one_of {
    ($type:ident {
        $($number:literal $name:literal $variant:ident),* ;
        $($unit_number:literal $unit_name:literal $unit:ident),* ;
        $($empty:ident)?
    }) => {
        impl json::JsonOneOf for $type {
            fn write_member(&self, object: &mut json::Object<'_>) {
                match self {
                    $(Self::$variant(body) => object.member($name, body),)*
                    $(Self::$unit => object.member($unit_name, &Empty),)*
                    $(Self::$empty => {})?
                }
            }

            fn read_member<'de, A: serde::de::MapAccess<'de>>(
                name: &str,
                map: &mut A,
            ) -> Result<Option<Self>, A::Error> {
                Ok(Some(match name {
                    $($name => Self::$variant(json::read_value(map)?),)*
                    $($unit_name => {
                        let _: Empty = json::read_value(map)?;
                        Self::$unit
                    })*
                    _ => return Ok(None),
                }))
            }
        }

        impl protobuf::ProtobufOneOf for $type {
            fn member_len(&self) -> usize {
                match self {
                    $(Self::$variant(body) => protobuf::body_len($number, body),)*
                    $(Self::$unit => protobuf::body_len($unit_number, &Empty),)*
                    $(Self::$empty => 0)?
                }
            }

            fn write_member(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant(body) => protobuf::write_body($number, body, out),)*
                    $(Self::$unit => protobuf::write_body($unit_number, &Empty, out),)*
                    $(Self::$empty => {})?
                }
            }

            fn read_member(key: protobuf::Key, buf: &mut &[u8]) -> Result<Option<Self>, crate::DecodeError> {
                Ok(Some(match key.number {
                    $($number => Self::$variant(protobuf::read_body(key, buf)?),)*
                    $($unit_number => {
                        let _: Empty = protobuf::read_body(key, buf)?;
                        Self::$unit
                    })*
                    _ => return Ok(None),
                }))
            }
        }
    };
}

one_of!(Request {
    4 "connect" Connect, 5 "subscribe" Subscribe, 6 "unsubscribe" Unsubscribe, 7 "publish" Publish,
    8 "presence" Presence, 9 "presence_stats" PresenceStats, 10 "history" History, 12 "send" Send,
    13 "rpc" Rpc, 14 "refresh" Refresh, 15 "sub_refresh" SubRefresh;
    11 "ping" Ping;
    Pong
});
message!(ConnectRequest { 1 token, 2 data, 3 subs, 4 name, 5 version, 6 headers });
message!(SubscribeRequest {
    1 channel, 2 token, 3 recover, 6 epoch, 7 offset, 8 data, 9 positioned, 10 recoverable, 11 join_leave,
    12 delta, 13 tf, 14 flag, 15 kind = "type"
});
message!(TagsFilter {});
message!(UnsubscribeRequest { 1 channel });
message!(PublishRequest { 1 channel, 2 data, 3 kind = "type" });
message!(PresenceRequest { 1 channel });
message!(PresenceStatsRequest { 1 channel });
message!(HistoryRequest { 1 channel, 7 limit, 8 since, 9 reverse });
message!(Since { 1 offset, 2 epoch });
message!(SendRequest { 1 data });
message!(RpcRequest { 1 data, 2 method });
message!(RefreshRequest { 1 token });
message!(SubRefreshRequest { 1 channel, 2 token });

one_of!(ReplyBody {
    2 "error" Error, 4 "push" Push, 5 "connect" Connect, 6 "subscribe" Subscribe, 9 "presence" Presence,
    8 "publish" Publish, 10 "presence_stats" PresenceStats, 11 "history" History, 13 "rpc" Rpc,
    14 "refresh" Refresh, 15 "sub_refresh" SubRefresh;
    7 "unsubscribe" Unsubscribe, 12 "ping" Pong;
    Ping
});
message!(ReplyError { 1 code, 2 message, 3 temporary });
message!(ConnectResult {
    1 client, 2 version, 3 expires, 4 ttl, 5 data, 6 subs, 7 ping, 8 pong, 9 session, 10 node, 11 time
});
message!(SubscribeResult {
    1 expires, 2 ttl, 3 recoverable, 6 epoch, 7 publications, 8 recovered, 9 offset, 10 positioned, 11 data,
    12 was_recovering, 13 delta
});
// An extension; the number is far above those of the Centrifuge protocol.
message!(PublishResult { 1000 local });
message!(PresenceResult { 1 presence (always) });
message!(PresenceStatsResult { 1 num_clients (always), 2 num_users (always) });
message!(HistoryResult { 1 publications (always), 2 epoch (always), 3 offset (always) });
message!(RpcResult { 1 data });
message!(RefreshResult { 1 client, 2 version, 3 expires, 4 ttl });
message!(SubRefreshResult { 1 expires, 2 ttl });

one_of!(PushBody {
    4 "pub" Publication, 5 "join" Join, 6 "leave" Leave, 7 "unsubscribe" Unsubscribe, 8 "message" Message,
    9 "subscribe" Subscribe, 10 "connect" Connect, 11 "disconnect" Disconnect, 12 "refresh" Refresh;
    ;
});
message!(JoinLeavePush { 1 info });
message!(UnsubscribePush { 2 code, 3 reason });
message!(MessagePush { 1 data });
message!(SubscribePush { 1 recoverable, 4 epoch, 5 offset, 6 positioned, 7 data });
message!(ConnectPush {
    1 client, 2 version, 3 data, 4 subs, 5 expires, 6 ttl, 7 ping, 8 pong, 9 session, 10 node, 11 time
});
message!(DisconnectPush { 1 code, 2 reason, 3 reconnect });
message!(RefreshPush { 1 expires, 2 ttl });

// The JSON of a publication is in `json::publication`: its tags depend on the data.
protobuf_message!(Publication { 4 data, 5 info, 6 offset, 7 tags, 9 time });
message!(ClientInfo { 1 user (always), 2 client (always), 3 conn_info, 4 chan_info });

message!(Empty {});

//! Types and codecs of the wire protocols: the Centrifuge client protocol in JSON and in Protobuf, and Server-Sent
//! Events. Pure: no I/O, no clock, no async, no randomness.
//!
//! [`Encoding::decode_commands`] decodes a frame to [`Command`]s. The session replies with [`Reply`]s, which
//! [`Encoding::encode_reply`] appends to a buffer. [`Encoding::encode_publication`] and [`sse`] encode a
//! [`Publication`], whose [`Payload`] is classified once. [`Cursor`] encodes the ids of SSE events.
//!
//! ```
//! use earshot_protocol::{Encoding, Payload, Publication, Request};
//!
//! let mut commands = Encoding::Json.decode_commands(br#"{"id":1,"ping":{}}"#);
//! assert_eq!(commands.next().unwrap()?.request, Request::Ping);
//!
//! let data = Payload::new(r#"{"type":"offer"}"#.into());
//! let publication = Publication { data, offset: 8, ..Publication::default() };
//! let mut frame = Vec::new();
//! Encoding::Json.encode_publication("web-signals", &publication, &mut frame);
//! assert_eq!(frame, br#"{"push":{"channel":"web-signals","pub":{"data":{"type":"offer"},"offset":8}}}"#);
//! # Ok::<(), earshot_protocol::DecodeError>(())
//! ```
//!
//! Modules:
//! - channel names and positions: `channel`, `position`, `cursor`;
//! - messages: `payload`, `publication`, `command`, `reply`, `results`, `push`;
//! - codes and errors: `decode_error`, `error`, `disconnect`, `unsubscribe`;
//! - encodings: `codec`, `schema` (the table of all fields), `map_value`, `raw_message`, `json`, `protobuf`, `sse`.

mod channel;
mod codec;
mod command;
mod cursor;
mod decode_error;
mod disconnect;
mod error;
mod json;
mod map_value;
mod payload;
mod position;
mod protobuf;
mod publication;
mod push;
mod raw_message;
mod reply;
mod results;
mod schema;
pub mod sse;
mod unsubscribe;

pub use channel::{ChannelName, ChannelNameError};
pub use codec::{Commands, Encoding, Replies};
pub use command::{
    Command, ConnectRequest, HistoryRequest, PresenceRequest, PresenceStatsRequest, PublishRequest,
    RefreshRequest, Request, RpcRequest, SendRequest, Since, SubRefreshRequest, SubscribeRequest, TagsFilter,
    UnsubscribeRequest,
};
pub use cursor::{ChannelTag, Cursor, CursorError, CursorPosition};
pub use decode_error::DecodeError;
pub use disconnect::Disconnect;
pub use error::ErrorCode;
pub use payload::{NESTING_MAX, Payload, PayloadKind};
pub use position::{Epoch, EpochError, StreamPosition};
pub use publication::{ClientInfo, Publication};
pub use push::{
    ConnectPush, DisconnectPush, JoinLeavePush, MessagePush, Push, PushBody, RefreshPush, SubscribePush,
    UnsubscribePush,
};
pub use reply::{Reply, ReplyBody, ReplyError};
pub use results::{
    ConnectResult, HistoryResult, PresenceResult, PresenceStatsResult, PublishResult, RefreshResult,
    RpcResult, SubRefreshResult, SubscribeResult,
};
pub use unsubscribe::UnsubscribeCode;

//! The wire of Earshot as values and codecs: the Centrifuge client protocol, in JSON and in Protobuf,
//! and the text of Server-Sent Events. Pure: no I/O, no clock, no async, no randomness.
//!
//! A frame comes in: [`Encoding::decode_commands`] makes [`Command`]s of it. The session's rules answer
//! with [`Reply`]s, which [`Encoding::encode_reply`] appends to a buffer. A [`Publication`], whose
//! [`Payload`] is looked through once, goes out by [`Encoding::encode_publication`] or by [`sse`], to
//! which a [`Cursor`] lends its ids.
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
//! In the order of that way:
//! - names and places: `channel`, `position`, `cursor`;
//! - what travels: `payload`, `publication`, `command`, `reply`, `push`;
//! - the coded tables: `error`, `disconnect`, `unsubscribe`;
//! - the wire itself: `codec`, above `schema`, which is the table of all fields, `envelope`, `json` and
//!   `protobuf`; and `sse`.

mod channel;
mod codec;
mod command;
mod cursor;
mod disconnect;
mod envelope;
mod error;
mod json;
mod payload;
mod position;
mod protobuf;
mod publication;
mod push;
mod reply;
mod schema;
pub mod sse;
mod unsubscribe;

pub use channel::{ChannelName, ChannelNameError};
pub use codec::{Commands, DecodeError, Encoding, Replies};
pub use command::{
    Command, ConnectRequest, HistoryRequest, PresenceRequest, PresenceStatsRequest, PublishRequest,
    RefreshRequest, Request, RpcRequest, SendRequest, Since, SubRefreshRequest, SubscribeRequest, TagsFilter,
    UnsubscribeRequest,
};
pub use cursor::{ChannelTag, Cursor, CursorError, CursorPosition};
pub use disconnect::Disconnect;
pub use error::ErrorCode;
pub use payload::{NESTING_MAX, Payload, PayloadKind};
pub use position::{Epoch, EpochError, StreamPosition};
pub use publication::{ClientInfo, Publication};
pub use push::{
    ConnectPush, DisconnectPush, MemberPush, MessagePush, Push, PushBody, RefreshPush, SubscribePush,
    UnsubscribePush,
};
pub use reply::{
    ConnectResult, HistoryResult, PresenceResult, PresenceStatsResult, PublishResult, RefreshResult, Reply,
    ReplyBody, ReplyError, RpcResult, SubRefreshResult, SubscribeResult,
};
pub use unsubscribe::UnsubscribeCode;

//! The bodies of requests and answers, in the format of Centrifugo's proxies.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use earshot_protocol::{ChannelName, ErrorCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::is_json;
use super::question::{ChannelQuestion, HookDisconnect, HookFailure, HookReply, HookedClient};
use crate::auth::UnixSeconds;
use crate::auth::identity::{LoginResult, TokenChannels};

/// Maximum size of the text of an error.
const MESSAGE_BYTES_MAX: usize = 256;
/// Maximum size of the reason in a close frame.
const REASON_BYTES_MAX: usize = 123;

/// The facts about the client, in every request.
#[derive(Serialize)]
struct ClientPart<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    client: &'a str,
    transport: &'a str,
    protocol: &'a str,
    encoding: &'a str,
    user: &'a str,
}

#[derive(Serialize)]
struct ConnectBody<'a> {
    transport: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    token: &'a str,
}

#[derive(Serialize)]
struct SubscribeBody<'a> {
    #[serde(flatten)]
    client: ClientPart<'a>,
    channels: Vec<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tokens: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    data: BTreeMap<&'a str, &'a RawValue>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    b64data: BTreeMap<&'a str, String>,
}

#[derive(Serialize)]
struct PublishBody<'a> {
    #[serde(flatten)]
    client: ClientPart<'a>,
    channel: &'a str,
    #[serde(flatten)]
    payload: PayloadPart<'a>,
}

#[derive(Serialize)]
struct RpcBody<'a> {
    #[serde(flatten)]
    client: ClientPart<'a>,
    method: &'a str,
    #[serde(flatten)]
    payload: PayloadPart<'a>,
}

/// A payload: JSON, or other bytes in Base64.
#[derive(Serialize)]
struct PayloadPart<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
}

impl<'a> PayloadPart<'a> {
    fn new(data: &'a Bytes) -> Self {
        match serde_json::from_slice(data) {
            Ok(json) => Self { data: Some(json), b64data: None },
            Err(_) if data.is_empty() => Self { data: None, b64data: None },
            Err(_) => Self { data: None, b64data: Some(STANDARD.encode(data)) },
        }
    }
}

impl<'a> ClientPart<'a> {
    fn new(client: &'a HookedClient) -> Self {
        let (protocol, encoding) = if client.is_binary { ("protobuf", "binary") } else { ("json", "json") };
        let user = client.identity.user();
        Self { client: &client.id, transport: client.transport, protocol, encoding, user }
    }
}

/// The body of the question who a client is.
pub(super) fn connect_body(client: &HookedClient, token: &str) -> String {
    to_json(&ConnectBody { transport: client.transport, token })
}

/// The body of a question about channels.
pub(super) fn subscribe_body(client: &HookedClient, channels: &[ChannelQuestion]) -> String {
    let with_token = channels.iter().filter(|channel| !channel.token.is_empty());
    let mut body = SubscribeBody {
        client: ClientPart::new(client),
        channels: channels.iter().map(|channel| channel.channel.as_str()).collect(),
        tokens: with_token.map(|channel| (channel.channel.as_str(), channel.token.as_str())).collect(),
        data: BTreeMap::new(),
        b64data: BTreeMap::new(),
    };
    for channel in channels {
        let Some(data) = &channel.data else { continue };
        let payload = PayloadPart::new(data);
        body.data.extend(payload.data.map(|data| (channel.channel.as_str(), data)));
        body.b64data.extend(payload.b64data.map(|data| (channel.channel.as_str(), data)));
    }
    to_json(&body)
}

/// The body of a question about a publication.
pub(super) fn publish_body(client: &HookedClient, channel: &ChannelName, data: &Bytes) -> String {
    let (client, channel) = (ClientPart::new(client), channel.as_str());
    to_json(&PublishBody { client, channel, payload: PayloadPart::new(data) })
}

/// The body of a call of a method.
pub(super) fn rpc_body(client: &HookedClient, method: &str, data: &Bytes) -> String {
    to_json(&RpcBody { client: ClientPart::new(client), method, payload: PayloadPart::new(data) })
}

/// Serializing these types cannot fail.
fn to_json(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

/// An answer: exactly one of its members.
#[derive(Deserialize)]
pub(super) struct Envelope<T> {
    result: Option<T>,
    error: Option<FailurePart>,
    disconnect: Option<DisconnectPart>,
}

#[derive(Deserialize)]
struct FailurePart {
    code: u32,
    #[serde(default)]
    message: String,
    #[serde(default)]
    temporary: bool,
}

#[derive(Deserialize)]
struct DisconnectPart {
    code: u16,
    #[serde(default)]
    reason: String,
}

/// A kind of answer.
pub(super) trait Answer {
    /// Its result on the wire.
    type Wire;
    /// Its checked result.
    type Result;

    /// Checks a result.
    fn check(wire: Self::Wire, is_binary: bool) -> Result<Self::Result, String>;
}

/// The decision for each channel.
#[derive(Debug)]
pub(super) enum ChannelsAnswer {}

#[derive(Deserialize)]
pub(super) struct ChannelsPart {
    channels: HashMap<String, ChannelPart>,
}

#[derive(Deserialize)]
struct ChannelPart {
    #[serde(default)]
    allow: bool,
    error: Option<FailurePart>,
}

/// The decision for each channel.
pub(super) type ChannelReplies = HashMap<String, HookReply<()>>;

impl Answer for ChannelsAnswer {
    type Wire = ChannelsPart;
    type Result = ChannelReplies;

    fn check(wire: ChannelsPart, _is_binary: bool) -> Result<ChannelReplies, String> {
        let reply = |part: ChannelPart| match part.error {
            Some(error) => error.check().map(HookReply::Failed),
            None if part.allow => Ok(HookReply::Result(())),
            None => Ok(HookReply::Denied),
        };
        wire.channels.into_iter().map(|(name, part)| Ok((name, reply(part)?))).collect()
    }
}

/// A login.
#[derive(Debug)]
pub(super) enum LoginAnswer {}

#[derive(Deserialize)]
pub(super) struct LoginPart {
    #[serde(default)]
    user: String,
    expire_at: Option<UnixSeconds>,
    info: Option<Box<RawValue>>,
    #[serde(default)]
    channels: Vec<String>,
}

impl Answer for LoginAnswer {
    type Wire = LoginPart;
    type Result = LoginResult;

    fn check(wire: LoginPart, _is_binary: bool) -> Result<LoginResult, String> {
        Ok(LoginResult {
            user: wire.user,
            // As Centrifugo: 0 means never.
            expires_at: wire.expire_at.filter(|at| *at > 0),
            info: wire.info.map(|info| one_line(&info)),
            channels: TokenChannels::new(wire.channels),
            ..LoginResult::default()
        })
    }
}

/// JSON without line breaks, which end a frame of the JSON encoding. Within JSON, they are white space.
fn one_line(json: &RawValue) -> Bytes {
    let is_break = |byte: u8| matches!(byte, b'\n' | b'\r');
    json.get().bytes().map(|byte| if is_break(byte) { b' ' } else { byte }).collect()
}

/// A payload, or none.
#[derive(Debug)]
pub(super) enum PayloadAnswer {}

#[derive(Deserialize)]
pub(super) struct ResultPayload {
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
}

impl Answer for PayloadAnswer {
    type Wire = ResultPayload;
    type Result = Option<Bytes>;

    fn check(wire: ResultPayload, is_binary: bool) -> Result<Option<Bytes>, String> {
        let data = match (wire.data, wire.b64data) {
            (Some(_), Some(_)) => return Err("both `data` and `b64data`".to_owned()),
            (None, None) => return Ok(None),
            (Some(data), None) => one_line(&data),
            (None, Some(text)) => {
                Bytes::from(STANDARD.decode(text).map_err(|error| format!("`b64data`: {error}"))?)
            }
        };
        if is_binary || is_json(&data) { Ok(Some(data)) } else { Err("`b64data` is not JSON".to_owned()) }
    }
}

impl FailurePart {
    fn check(self) -> Result<HookFailure, String> {
        if !matches!(self.code, 100..=1999) {
            return Err(format!("`error.code` is {}, expected 100 to 1999", self.code));
        }
        let known = ErrorCode::ALL.iter().find(|known| known.code() == self.code);
        let mut message = shortened(self.message, MESSAGE_BYTES_MAX);
        if message.is_empty() {
            message = known.map_or("error of the application", |known| known.message()).to_owned();
        }
        let is_temporary = known.map_or(self.temporary, |known| known.is_temporary());
        Ok(HookFailure { code: self.code, message, is_temporary })
    }
}

impl DisconnectPart {
    fn check(self) -> Result<HookDisconnect, String> {
        if !matches!(self.code, 3000..=4999) {
            return Err(format!("`disconnect.code` is {}, expected 3000 to 4999", self.code));
        }
        let mut reason = shortened(self.reason, REASON_BYTES_MAX);
        // With an empty reason the JavaScript SDK reconnects after a terminal code.
        if reason.is_empty() {
            "disconnected by the application".clone_into(&mut reason);
        }
        Ok(HookDisconnect { code: self.code, reason })
    }
}

/// The first characters of a text, without control characters.
fn shortened(mut text: String, bytes_max: usize) -> String {
    text.retain(|letter| !letter.is_control());
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

/// Reads an answer.
pub(super) fn read<A: Answer>(body: &[u8], is_binary: bool) -> Result<HookReply<A::Result>, String>
where
    Envelope<A::Wire>: DeserializeOwned,
{
    let envelope: Envelope<A::Wire> = serde_json::from_slice(body).map_err(|error| {
        // Without the text: it may contain data of clients.
        format!("invalid JSON, or an unexpected type, in line {} column {}", error.line(), error.column())
    })?;
    match envelope {
        Envelope { result: Some(result), error: None, disconnect: None } => {
            A::check(result, is_binary).map(HookReply::Result)
        }
        Envelope { result: None, error: Some(error), disconnect: None } => {
            error.check().map(HookReply::Failed)
        }
        Envelope { result: None, error: None, disconnect: Some(disconnect) } => {
            disconnect.check().map(HookReply::Disconnect)
        }
        _ => Err("expected exactly one of `result`, `error` and `disconnect`".to_owned()),
    }
}

/// The reply for each channel, in order. A missing channel is denied.
pub(super) fn channel_replies(replies: &ChannelReplies, channels: &[ChannelQuestion]) -> Vec<HookReply<()>> {
    let reply = |channel: &ChannelQuestion| replies.get(channel.channel.as_str()).cloned();
    channels.iter().map(|channel| reply(channel).unwrap_or(HookReply::Denied)).collect()
}

//! Logs in Redis: a stream and a hash for each channel, written by one script.
//!
//! Owns the keys, the arguments of the scripts, and their replies. The scripts own the rules: see `log.lua`. Must
//! never assign a number, or access the keys without a script.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::{ChannelName, Epoch, StreamPosition};
use redis::Value;

use super::scripts::{APPEND, CLEAR, READ, ScriptCall};
use crate::broker::Attributes;
use crate::broker::BrokerError;
use crate::broker::log::{AppendOptions, CLEARED_MESSAGE, LogConfig, LogEntry, LogOrigin, LogPage};
use earshot_redis_link::slot;

/// How long an idempotency key is stored.
const IDEMPOTENCY: Duration = Duration::from_secs(300);
/// How much longer the position of a log is kept than its entries. An expired log is not a lost log: without this,
/// subscribers of a quiet channel would get a gap at each new publication.
const POSITION_LINGER: Duration = Duration::from_secs(86_400);
/// Bytes of a page, so that a log of large entries is read in several replies.
const PAGE_BYTES: usize = 1024 * 1024;
/// The longest time that Redis can add to the clock without an overflow; far beyond any use.
const EXPIRE_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Appends and publishes one payload. `seen` is the last position that was delivered.
pub(super) fn append(
    log: &LogConfig,
    channel: &ChannelName,
    data: Bytes,
    options: AppendOptions,
    seen: Option<StreamPosition>,
) -> ScriptCall {
    let AppendOptions { attributes, idempotency_key } = options;
    let mut keys = keys(log, channel);
    let tagged = tagged(log, channel);
    // The length of the channel keeps (a, b:c) and (a:b, c) apart.
    let length = tagged.len();
    keys.extend(idempotency_key.map(|key| format!("{}idempotency:{length}:{tagged}:{key}", log.key_prefix)));
    let mut arguments = vec![
        Bytes::copy_from_slice(channel.as_str().as_bytes()),
        data,
        attributes.to_json().into(),
        log.size.to_string().into(),
        millis(log.ttl),
        millis(log.ttl.saturating_add(POSITION_LINGER)),
        new_epoch(),
        millis(IDEMPOTENCY),
        verb(log),
    ];
    if let Some(StreamPosition { epoch, offset }) = seen {
        arguments.extend([epoch.to_string().into(), offset.to_string().into()]);
    }
    ScriptCall { source: &APPEND, keys, arguments, answer_bytes: 0 }
}

/// Reads the position of the log. Writes nothing.
pub(super) fn open(log: &LogConfig, channel: &ChannelName) -> ScriptCall {
    read(log, channel, ["XRANGE", "-", "+"], 0)
}

/// Reads entries after the last delivered position; a log that is behind it begins a new epoch. Writes nothing when
/// there was no log at that position.
pub(super) fn follow(
    log: &LogConfig,
    channel: &ChannelName,
    seen: StreamPosition,
    limit: usize,
) -> ScriptCall {
    let mut call = read_after(log, channel, seen.offset, limit);
    if seen.epoch.is_provisional() {
        return call;
    }
    let kept = millis(log.ttl.saturating_add(POSITION_LINGER));
    call.arguments.extend([new_epoch(), millis(log.ttl), kept]);
    call.arguments.extend([seen.epoch.to_string().into(), seen.offset.to_string().into()]);
    call
}

/// At most 48 bits, for clients with floating-point numbers; never zero, which means unset.
fn new_epoch() -> Bytes {
    Epoch::from_u64(crate::random::u64() % ((1 << 48) - 1) + 1).to_string().into()
}

/// Reads entries after an offset, in order.
pub(super) fn read_after(log: &LogConfig, channel: &ChannelName, after: u64, limit: usize) -> ScriptCall {
    match after.checked_add(1) {
        Some(first) => read(log, channel, ["XRANGE", &first.to_string(), "+"], limit),
        None => read(log, channel, ["XRANGE", "-", "+"], 0),
    }
}

/// Reads entries before an offset (`None`: from the end), in reverse order.
pub(super) fn read_before(
    log: &LogConfig,
    channel: &ChannelName,
    before: Option<u64>,
    limit: usize,
) -> ScriptCall {
    match before {
        None => read(log, channel, ["XREVRANGE", "+", "-"], limit),
        Some(0) => read(log, channel, ["XREVRANGE", "+", "-"], 0),
        Some(before) => read(log, channel, ["XREVRANGE", &format!("({before}-0"), "-"], limit),
    }
}

fn read(log: &LogConfig, channel: &ChannelName, range: [&str; 3], limit: usize) -> ScriptCall {
    let mut arguments: Vec<Bytes> = range.map(|word| Bytes::copy_from_slice(word.as_bytes())).into();
    arguments.extend([limit.to_string().into(), PAGE_BYTES.to_string().into()]);
    let answer_bytes = if limit == 0 { 0 } else { PAGE_BYTES };
    ScriptCall { source: &READ, keys: keys(log, channel), arguments, answer_bytes }
}

/// Removes the entries.
pub(super) fn clear(log: &LogConfig, channel: &ChannelName) -> ScriptCall {
    let channel_name = Bytes::copy_from_slice(channel.as_str().as_bytes());
    let arguments = vec![channel_name, Bytes::from_static(CLEARED_MESSAGE), verb(log)];
    ScriptCall { source: &CLEAR, keys: keys(log, channel), arguments, answer_bytes: 0 }
}

/// The publish command of the scripts.
fn verb(log: &LogConfig) -> Bytes {
    Bytes::from_static(if log.sharded { b"SPUBLISH" } else { b"PUBLISH" })
}

fn keys(log: &LogConfig, channel: &ChannelName) -> Vec<String> {
    let (key_prefix, channel) = (&log.key_prefix, tagged(log, channel));
    vec![format!("{key_prefix}stream:{channel}"), format!("{key_prefix}stream-meta:{channel}")]
}

/// The channel as it appears in its keys. As the hash tag, it gives them the slot of the channel.
fn tagged<'c>(log: &LogConfig, channel: &'c ChannelName) -> Cow<'c, str> {
    let name = channel.as_str();
    if !log.channel_hash_tag || slot::hash_tag(name).is_some() {
        name.into()
    } else if name.contains('}') {
        // The brace would end the tag early, or leave it empty.
        format!("{{{:04x}}}{name}", slot::slot(name)).into()
    } else {
        format!("{{{name}}}").into()
    }
}

fn millis(span: Duration) -> Bytes {
    span.min(EXPIRE_MAX).as_millis().max(1).to_string().into()
}

/// Parses the reply to an append.
pub(super) fn position(answer: Value) -> Result<StreamPosition, BrokerError> {
    let [epoch, offset] = array(answer).ok_or_else(foreign)?;
    place(epoch, offset).ok_or_else(foreign)
}

/// Parses the reply to a read.
pub(super) fn page(answer: Value) -> Result<LogPage, BrokerError> {
    let Value::Array(values) = answer else { return Err(foreign()) };
    let values = match <[Value; 2]>::try_from(values) {
        Ok([minute, server]) => {
            return Ok(LogPage { top: None, entries: Vec::new(), origin: origin(minute, server) });
        }
        Err(values) => values,
    };
    let [epoch, offset, entries, minute, server] = values.try_into().map_err(|_| foreign())?;
    let (Some(top), Value::Array(entries)) = (place(epoch, offset), entries) else { return Err(foreign()) };
    // An entry in another format was written by another program; the next append removes it.
    let entries = entries.into_iter().filter_map(entry).filter(|entry| entry.offset <= top.offset);
    Ok(LogPage { top: Some(top), entries: entries.collect(), origin: origin(minute, server) })
}

fn origin(minute: Value, server: Value) -> Option<LogOrigin> {
    LogOrigin::read(&text(minute)?, &text(server)?)
}

fn foreign() -> BrokerError {
    BrokerError::Rejected("the keys of the log have another format".to_owned())
}

fn place(epoch: Value, offset: Value) -> Option<StreamPosition> {
    Some(StreamPosition { epoch: text(epoch)?.parse().ok()?, offset: text(offset)?.parse().ok()? })
}

fn entry(value: Value) -> Option<LogEntry> {
    let [id, Value::Array(fields)] = array(value)? else { return None };
    let offset = text(id)?.strip_suffix("-0")?.parse().ok()?;
    let (mut payload, mut attributes) = (None, Attributes::default());
    let mut fields = fields.into_iter().map(bytes);
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        match &name?[..] {
            b"d" => payload = value,
            b"a" => attributes = Attributes::from_json(&value?),
            _ => {}
        }
    }
    Some(LogEntry { offset, attributes, payload: payload? })
}

fn array<const N: usize>(value: Value) -> Option<[Value; N]> {
    let Value::Array(values) = value else { return None };
    values.try_into().ok()
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        _ => None,
    }
}

fn text(value: Value) -> Option<String> {
    let Value::BulkString(bytes) = value else { return None };
    String::from_utf8(bytes).ok()
}

//! The script that stores revocations.
//!
//! Owns its arguments. The script is atomic for all nodes, so the limit is checked together with the write.

use std::time::Duration;

use bytes::Bytes;

use crate::auth::revocation::ClientCommand;

/// Removes expired fields; then stores the given ones with the time of the server, unless there would be too many.
/// Returns that time in milliseconds, or 0 if it stored nothing. A field that exists keeps the later expiry.
///
/// Arguments: the most fields, the TTL in seconds, the end of the value (what follows the times), the fields.
pub(super) const STORE: &str = r#"
local time = redis.call('TIME')
local now = tonumber(time[1])
local at = now * 1000 + math.floor(tonumber(time[2]) / 1000)
local expiry = now + tonumber(ARGV[2])
local last = expiry
local known, count = {}, 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local stored = tonumber(string.match(fields[i + 1], '^{"until":(%d+)')) or 0
  if stored <= now then
    redis.call('HDEL', KEYS[1], fields[i])
  else
    known[fields[i]] = stored
    count = count + 1
    last = math.max(last, stored)
  end
end
for i = 4, #ARGV do
  if not known[ARGV[i]] then count = count + 1 end
end
if count > tonumber(ARGV[1]) then return 0 end
for i = 4, #ARGV do
  local to = math.max(known[ARGV[i]] or 0, expiry)
  local times = string.format('{"until":%.0f,"at":%.0f', to, at)
  redis.call('HSET', KEYS[1], ARGV[i], times .. ARGV[3])
end
redis.call('EXPIREAT', KEYS[1], string.format('%.0f', last + 1))
return at
"#;

/// The arguments of [`STORE`].
pub(super) fn arguments(
    entries_max: usize,
    ttl: Duration,
    command: Option<&ClientCommand>,
    fields: &[Vec<u8>],
) -> Vec<Bytes> {
    let end = match command.map(serde_json::to_string) {
        Some(Ok(command)) => format!(",\"command\":{command}}}"),
        _ => "}".to_owned(),
    };
    let first = [entries_max.to_string(), ttl.as_secs().max(1).to_string(), end];
    first
        .into_iter()
        .map(Bytes::from)
        .chain(fields.iter().map(|field| Bytes::copy_from_slice(field)))
        .collect()
}

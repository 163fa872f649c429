-- Removes the entries of a channel's log; its numbers go on.
--
-- KEYS  1 stream, 2 meta: see log.lua
local stream, meta = KEYS[1], KEYS[2]
local expected = redis.call('HGET', meta, 'length')
if expected then
  -- What was lost before stays lost: the next append must still notice.
  local whole = redis.call('XLEN', stream) == tonumber(expected)
  redis.call('HSET', meta, 'length', whole and 0 or -1)
end
redis.call('UNLINK', stream)
return redis.status_reply('OK')

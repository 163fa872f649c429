-- Removes the entries of a channel's log; its numbers go on.
--
-- KEYS  1 stream, 2 meta: see log.lua
-- ARGV  1 channel, 2 what tells every node that remembers them, 3 PUBLISH or SPUBLISH
local stream, meta = KEYS[1], KEYS[2]
-- First, because an ACL may refuse the channel, and then nothing has happened yet.
redis.call(ARGV[3], ARGV[1], ARGV[2])
local expected = redis.call('HGET', meta, 'length')
if expected then
  -- What was lost before stays lost: the next append must still notice.
  local whole = redis.call('XLEN', stream) == tonumber(expected)
  redis.call('HSET', meta, 'length', whole and 0 or -1)
end
redis.call('UNLINK', stream)
return redis.status_reply('OK')

-- Removes the entries of the log of a channel; its offsets continue.
--
-- KEYS  1 stream, 2 meta: see log.lua
-- ARGV  1 channel, 2 the message that makes every node discard its history, 3 PUBLISH or SPUBLISH
local stream, meta = KEYS[1], KEYS[2]
-- First, because an ACL may deny the channel; nothing is changed then.
redis.call(ARGV[3], ARGV[1], ARGV[2])
local expected = redis.call('HGET', meta, 'length')
if expected then
  -- Keeps an earlier loss visible: the next append must still detect it.
  local whole = redis.call('XLEN', stream) == tonumber(expected)
  redis.call('HSET', meta, 'length', whole and 0 or -1)
end
redis.call('UNLINK', stream)
return redis.status_reply('OK')

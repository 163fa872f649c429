-- Reads the position of the log of a channel, and some of its entries, atomically.
--
-- KEYS  1 stream, 2 meta: see log.lua
-- ARGV  1 XRANGE or XREVRANGE
--       2, 3 the two ends of the range, in the order of the command
--       4 the maximum number of entries
--       5 the maximum number of bytes: the entry that reaches it is the last
--       6, 7, 8 the epoch of a new log if the log of 9 and 10 is lost, and the time to live of entries and of meta, in
--         milliseconds (optional: without them the script does not write)
--       9, 10 epoch and offset that were delivered already: a log behind this position has lost data and is replaced
--
-- Returns {epoch, offset, entries, minute, server}, the last two from the first entry of the epoch, possibly empty; or
-- the current {minute, server} if there is no log. For these two, see log_origin.lua.
local stream, meta = KEYS[1], KEYS[2]
local from, limit, room = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
-- Entries per command: few, because their size is known only afterwards.
local STEP = 16

local top = redis.call('HMGET', meta, 'epoch', 'offset', 'minute', 'server')
if top[1] and ARGV[9] == top[1] and tonumber(ARGV[10]) > tonumber(top[2] or '0') then
  top = {}
end
if not (top[1] and top[2]) then
  if not ARGV[6] then
    return {origin(redis.call('TIME'))}
  end
  -- Subscribers from now on expect the first entry of this epoch.
  local time = redis.call('TIME')
  local expires = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[7])
  redis.call('DEL', stream)
  redis.call('HSET', meta, 'epoch', ARGV[6], 'offset', '0', 'length', 0, 'until', expires, 'minute', '', 'server', '')
  redis.call('PEXPIRE', meta, ARGV[8])
  return {ARGV[6], '0', {}, '', ''}
end

local entries = {}
while #entries < limit and room > 0 do
  local some = redis.call(ARGV[1], stream, from, ARGV[3], 'COUNT', math.min(STEP, limit - #entries))
  for _, entry in ipairs(some) do
    if room > 0 then
      entries[#entries + 1] = entry
      from = '(' .. entry[1]
      for _, text in ipairs(entry[2]) do
        room = room - #text
      end
    end
  end
  if #some < STEP then
    break
  end
end
return {top[1], top[2], entries, top[3] or '', top[4] or ''}

-- Appends one publication to the log of a channel and publishes it, atomically.
--
-- KEYS  1 stream   {key_prefix}stream:{channel}
--       2 meta     {key_prefix}stream-meta:{channel}   a hash: epoch, offset, length, until; minute and server, which
--                  are the time and the state of the server of the first entry, see log_origin.lua; empty if an
--                  earlier log was lost
--       3 once     {key_prefix}idempotency:{length of channel}:{channel}:{key}   (optional)
-- ARGV  1 channel
--       2 payload
--       3 attributes: a JSON object, or empty
--       4 the maximum number of entries
--       5 their time to live in milliseconds
--       6 the time to live of meta in milliseconds: longer, so that an idle log continues at its position
--       7 the epoch of a new log, if one is needed: random, in base 36
--       8 the time to live of `once` in milliseconds
--       9 PUBLISH or SPUBLISH
--       10, 11 epoch and offset that were delivered already (optional): of a log, never of its absence
--
-- Returns {epoch, offset}, both as strings.
local stream, meta, once = KEYS[1], KEYS[2], KEYS[3]
local channel, payload, attributes = ARGV[1], ARGV[2], ARGV[3]

if once then
  local epoch, offset = string.match(redis.call('GET', once) or '', '^(%w+) (%d+)$')
  if epoch then
    return {epoch, offset}
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local before = redis.call('HMGET', meta, 'epoch', 'offset', 'length', 'until')
local length = redis.call('XLEN', stream)

-- Whether the log contains the entries that meta counts; expired entries are not a loss.
local function is_whole()
  local epoch, offset, expected, expires = before[1], tonumber(before[2]), tonumber(before[3]), tonumber(before[4])
  if not (epoch and offset and expected and expires) then
    return false
  end
  if length ~= expected and not (length == 0 and now >= expires) then
    return false
  end
  -- A promoted replica may be behind the position that the old primary delivered.
  return not (ARGV[10] == epoch and tonumber(ARGV[11]) > offset)
end

local whole = is_whole()
local epoch = whole and before[1] or ARGV[7]
local offset = string.format('%.0f', whole and before[2] + 1 or 1)

-- The first write: a server that denies writes rejects it before any change. The invalid length makes the next call
-- begin a new epoch if this one fails below.
local expires = string.format('%.0f', now + ARGV[5])
local opened = redis.pcall('HSET', meta, 'epoch', epoch, 'offset', offset, 'length', -1, 'until', expires)
if type(opened) == 'table' then
  return opened
end

-- Published before it is stored, because an ACL may deny the channel and the change of meta can still be reverted. The
-- script is atomic, so other clients cannot observe the order.
local envelope = '\0es2 ' .. epoch .. ' ' .. offset .. ' ' .. #attributes .. '\n' .. attributes .. payload
local published = redis.pcall(ARGV[9], channel, envelope)
if type(published) == 'table' then
  if before[1] then
    local function was(place)
      return before[place] or ''
    end
    redis.call('HSET', meta, 'epoch', was(1), 'offset', was(2), 'length', was(3), 'until', was(4))
  else
    redis.call('DEL', meta)
  end
  return published
end

if not whole then
  redis.call('DEL', stream)
  local minute, server = '', ''
  -- Only if neither the server nor the publishing node knows an earlier log.
  if not (before[1] or ARGV[10]) then
    minute, server = origin(time)
  end
  redis.call('HSET', meta, 'minute', minute, 'server', server)
end
local entry = {'d', payload}
if attributes ~= '' then
  entry = {'d', payload, 'a', attributes}
end
redis.call('XADD', stream, 'MAXLEN', '=', ARGV[4], offset .. '-0', unpack(entry))
redis.call('HSET', meta, 'length', redis.call('XLEN', stream))
redis.call('PEXPIRE', stream, ARGV[5])
redis.call('PEXPIRE', meta, ARGV[6])
if once then
  redis.call('SET', once, epoch .. ' ' .. offset, 'PX', ARGV[8])
end
return {epoch, offset}

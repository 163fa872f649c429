-- Adds one publication to the log of a channel and publishes it, in one step.
--
-- KEYS  1 stream   {key_prefix}stream:{channel}
--       2 meta     {key_prefix}stream-meta:{channel}   a hash: epoch, offset, length, until; minute and server, which
--                  say when and in which state of the server the first entry was written, see log_origin.lua; empty
--                  when a log before it was lost
--       3 once     {key_prefix}idempotency:{length of channel}:{channel}:{key}   (may be left out)
-- ARGV  1 channel
--       2 payload
--       3 attributes: a JSON object, or empty
--       4 entries to keep
--       5 how long to keep them, in milliseconds
--       6 how long to keep meta, in milliseconds: longer, so that a log that was quiet goes on where it stood
--       7 the epoch to begin with where a new one is needed: random, in base 36
--       8 how long `once` is remembered, in milliseconds
--       9 PUBLISH or SPUBLISH
--       10, 11 epoch and offset that somebody was given already (may be left out): of a log, never of its absence
--
-- Answers {epoch, offset}, both as texts.
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

-- Whether the log holds what meta says; what has expired is not missed.
local function is_whole()
  local epoch, offset, expected, expires = before[1], tonumber(before[2]), tonumber(before[3]), tonumber(before[4])
  if not (epoch and offset and expected and expires) then
    return false
  end
  if length ~= expected and not (length == 0 and now >= expires) then
    return false
  end
  -- A server that took over may be behind what the old one had handed out.
  return not (ARGV[10] == epoch and tonumber(ARGV[11]) > offset)
end

local whole = is_whole()
local epoch = whole and before[1] or ARGV[7]
local offset = string.format('%.0f', whole and before[2] + 1 or 1)

-- The first write: a server that takes none refuses it while nothing has happened yet. A length that cannot be makes
-- the next call begin a new epoch, should this one break off below.
local expires = string.format('%.0f', now + ARGV[5])
local opened = redis.pcall('HSET', meta, 'epoch', epoch, 'offset', offset, 'length', -1, 'until', expires)
if type(opened) == 'table' then
  return opened
end

-- Published before it is kept, which nobody can tell from outside, because an ACL may refuse the channel, and this is
-- still easy to take back.
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
  -- Only if no log before this one is known, neither to the server nor to the publishing node.
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

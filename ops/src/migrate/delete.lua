-- Deletes KEYS[1] if it has not changed: its DUMP has ARGV[1] bytes and ends with the checksum ARGV[2], and it expires at
-- ARGV[3] (milliseconds since 1970, -1: never) with a tolerance of ARGV[4] milliseconds.
-- 1: deleted. 0: the key does not exist. -1: it has changed.
local value = redis.call('DUMP', KEYS[1])
if not value then
  return 0
end
if #value ~= tonumber(ARGV[1]) or string.sub(value, -8) ~= ARGV[2] then
  return -1
end
local left, ends = redis.call('PTTL', KEYS[1]), tonumber(ARGV[3])
if (left < 0) ~= (ends < 0) then
  return -1
end
if left >= 0 then
  local now = redis.call('TIME')
  local at = now[1] * 1000 + math.floor(now[2] / 1000) + left
  if math.abs(at - ends) > tonumber(ARGV[4]) then
    return -1
  end
end
return redis.call('UNLINK', KEYS[1])

-- Reads a ticket and marks it as spent, atomically: of several nodes, one sees it unspent.
--
-- KEYS  1 ticket
--
-- The value is "new:" or "spent:", the Unix time until which a spent ticket is kept, ":", and the grant. Returns the
-- value before the change, or nil if there is no ticket.
local value = redis.call('GET', KEYS[1])
local rest = value and string.match(value, '^new:(.*)$')
local keep_until = rest and string.match(rest, '^(%d+):')
if keep_until then
  redis.call('SET', KEYS[1], 'spent:' .. rest)
  redis.call('EXPIREAT', KEYS[1], keep_until)
end
return value

-- The beginning of log.lua and log_read.lua: when, and in which state of the server, a log begins or is absent.
--
-- Answers the minute since 1970, and a digest that changes whenever the server may have lost a log: with a restart, a
-- promotion of a replica, and an eviction. It is empty when that is not known, for example because an ACL forbids INFO.
-- Deleted keys do not change it.
local function origin(time)
  local function field(section, name)
    -- ACL LOG records a refused call. Redis before 7.0 has no function that checks the permission.
    if redis.acl_check_cmd and not redis.acl_check_cmd('INFO', section) then
      return nil
    end
    local info = redis.pcall('INFO', section)
    return type(info) == 'string' and string.match(info, name .. ':(%x+)')
  end
  local run_id = field('server', 'run_id')
  local replication_id = run_id and field('replication', 'master_replid')
  local evicted = replication_id and field('stats', 'evicted_keys')
  local digest = evicted and redis.sha1hex(run_id .. ' ' .. replication_id .. ' ' .. evicted) or ''
  return string.format('%.0f', math.floor(time[1] / 60)), digest
end


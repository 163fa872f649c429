-- Prefix of log.lua and log_read.lua: the time and the state of the server when a log begins or is absent.
--
-- Returns the minute since 1970, and a digest that changes whenever the server may have lost a log: after a restart, the
-- promotion of a replica, or an eviction. It is empty if unknown, for example because an ACL denies INFO.
-- Deleted keys do not change it.
local function origin(time)
  local function field(section, name)
    -- ACL LOG records a denied call. Redis before 7.0 has no function that checks the permission.
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


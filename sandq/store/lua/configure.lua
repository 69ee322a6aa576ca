-- Changes settings that every worker of the queue obeys, and wakes those that wait under the old ones.
-- keys: base slot
-- args: op settings...
--       settings: field of meta, value, field, value...; the value '' takes the field away
-- uses: queue reply event place
-- replies: ok

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
for index = settings_from, #ARGV, 2 do
  if ARGV[index + 1] == '' then
    redis.call('HDEL', q.meta, ARGV[index])
  else
    redis.call('HSET', q.meta, ARGV[index], ARGV[index + 1])
  end
end
if redis.call('LLEN', q.wait) + redis.call('ZCARD', q.prioritized) > 0 then mark_base(q) end
return remember(slot, op, 'ok')

-- Lets a delayed job run now.
-- keys: base slot
-- args: op id
-- uses: queue reply event place
-- replies: ok, not-delayed, missing

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
if redis.call('HLEN', job_key(q, id)) == 0 then return 'missing' end
if not redis.call('ZSCORE', q.delayed, id) then return 'not-delayed' end

redis.call('HSET', job_key(q, id), 'delay', '0')
redis.call('ZREM', q.delayed, id)
put_waiting(q, id, priority_of(q, id), false)
mark_base(q)
emit(q, 'event', 'waiting', 'jobId', id, 'prev', 'delayed')
return remember(slot, op, 'ok')

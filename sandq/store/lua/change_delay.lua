-- Lets a delayed job run `delay_ms` from now instead.
-- keys: base slot
-- args: op id delay_ms
-- uses: queue reply event place
-- replies: ok, not-delayed, missing

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
if redis.call('HLEN', job_key(q, id)) == 0 then return 'missing' end
if not redis.call('ZSCORE', q.delayed, id) then return 'not-delayed' end

local due = now_ms() + tonumber(delay_ms)
redis.call('HSET', job_key(q, id), 'delay', delay_ms)
redis.call('ZREM', q.delayed, id) -- else it would be found as the one it ties with
put_delayed(q, id, due)
emit_capped(q, 'event', 'delayed', 'jobId', id, 'delay', text(due))
mark_delayed(q)
return remember(slot, op, 'ok')

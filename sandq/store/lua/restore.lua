-- Puts a job of ours back, uncharged, whose lock ran out while Redis was out of reach; only if nobody touched it since.
-- keys: base slot
-- args: op id ats
-- uses: queue reply event place
-- replies: 'ok' 'locked' 'not-ours'

local stored = replay(slot, op)
if stored then return stored end
local q = queue_keys(base)
local job = job_key(q, id)
check_types(q)
check_job_types(q, id)
if redis.call('HGET', job, 'ats') ~= ats then return 'not-ours' end
if redis.call('EXISTS', job .. ':lock') == 1 then return 'locked' end
if not redis.call('LPOS', q.active, id) then return 'not-ours' end

redis.call('SREM', q.stalled, id)
redis.call('LREM', q.active, -1, id)
put_waiting(q, id, priority_of(q, id), true)
emit_capped(q, 'event', 'waiting', 'jobId', id, 'prev', 'active')
mark_base(q)
return remember(slot, op, 'ok')

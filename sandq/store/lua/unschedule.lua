-- Ends a schedule: no further iteration; one that waits already, or runs, is still carried out.
-- keys: base slot
-- args: op scheduler
-- uses: queue reply event discard iteration
-- replies: removed, missing

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
local last = tonumber(redis.call('ZSCORE', q.schedulers, scheduler) or '')
if not last then return 'missing' end
local id = iteration_id(scheduler, last)
check_discard(q, {id})

redis.call('ZREM', q.schedulers, scheduler)
redis.call('DEL', schedule_key(q, scheduler))
if redis.call('ZREM', q.delayed, id) == 1 then
  discard(q, id, true)
  emit(q, 'event', 'removed', 'jobId', id, 'prev', 'delayed')
end
return remember(slot, op, 'removed')

-- Runs a finished job again.
-- keys: base slot
-- args: op id
-- uses: queue reply place again
-- replies: ok, not-finished, missing

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
check_again_types(q, id)
if redis.call('EXISTS', job_key(q, id)) == 0 then return 'missing' end

local from = redis.call('ZSCORE', q.failed, id) and 'failed' or redis.call('ZSCORE', q.completed, id) and 'completed'
if not from then return 'not-finished' end

run_again(q, id, from)
mark_base(q)
return remember(slot, op, 'ok')

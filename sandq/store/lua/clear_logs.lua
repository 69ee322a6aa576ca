-- Deletes a job's log but for its newest `keep` lines.
-- keys: base slot
-- args: op id keep
-- uses: queue reply
-- replies: ok, missing

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_job_types(q, id)
if redis.call('EXISTS', job_key(q, id)) == 0 then return 'missing' end

local logs = job_key(q, id) .. ':logs'
if keep == '0' then redis.call('DEL', logs) else redis.call('LTRIM', logs, '-' .. keep, -1) end
return remember(slot, op, 'ok')

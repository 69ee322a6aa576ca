-- Notes how far a job is and tells the listeners.
-- keys: base slot
-- args: op id token progress
-- uses: queue reply event holder
-- replies: 'ok' 'lost' 'missing'

local stored = replay(slot, op)
if stored then return stored end
local q = queue_keys(base)
check_types(q)
local word = refusal(q, id, token)
if word then return word end

redis.call('HSET', job_key(q, id), 'progress', progress)
emit_capped(q, 'event', 'progress', 'jobId', id, 'data', progress)
return remember(slot, op, 'ok')

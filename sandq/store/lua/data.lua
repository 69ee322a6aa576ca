-- Replaces a job's data.
-- keys: base slot
-- args: op id token data
-- uses: queue reply holder
-- replies: 'ok' 'lost' 'missing'

local stored = replay(slot, op)
if stored then return stored end
local q = queue_keys(base)
check_job_types(q, id)
local word = refusal(q, id, token)
if word then return word end

redis.call('HSET', job_key(q, id), 'data', data)
return remember(slot, op, 'ok')

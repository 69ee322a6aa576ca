-- Pauses the queue for everybody who claims from it; running jobs go on.
-- keys: base slot
-- args: op
-- uses: queue reply event
-- replies: ok

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)

redis.call('HSET', q.meta, 'paused', '1')
redis.call('DEL', q.marker) -- nobody needs to wake up for what may not be claimed
emit(q, 'event', 'paused')
return remember(slot, op, 'ok')

-- Lets the queue's jobs be claimed again, and brings back what BullMQ 5 set aside when it paused the queue.
-- keys: base slot
-- args: op
-- uses: queue reply event place
-- replies: ok, or more: jobs set aside are left, call again

local MOST = 7000 -- ids that unpack() and the other clients of this Redis can bear at once

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
redis.call('LLEN', q.paused)

-- To the tail of wait, the end that is taken next, in the order they had: they waited before the queue was paused.
local function bring_back()
  local left = redis.call('LLEN', q.paused)
  if left == 0 then return 0 end
  if redis.call('EXISTS', q.wait) == 0 then
    redis.call('RENAME', q.paused, q.wait)
    return 0
  end
  local ids = redis.call('LRANGE', q.paused, 0, MOST - 1)
  redis.call('RPUSH', q.wait, unpack(ids))
  redis.call('LTRIM', q.paused, MOST, -1)
  return left - #ids
end

local was_paused = redis.call('HDEL', q.meta, 'paused') == 1
local another_round = not was_paused and redis.call('EXISTS', q.paused) == 1
local left = bring_back()
if redis.call('LLEN', q.wait) + redis.call('ZCARD', q.prioritized) > 0 then
  mark_base(q)
else
  mark_delayed(q)
end
-- Once for all rounds of bringing back; also for a queue that was not paused, as BullMQ does.
if not another_round then emit(q, 'event', 'resumed') end
return remember(slot, op, left > 0 and 'more' or 'ok')

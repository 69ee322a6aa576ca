-- Holds back all claims for a while, or no longer: a limiter counter above every maximum, or none.
-- keys: base slot
-- args: op limit_ms
-- uses: queue reply event place
-- replies: ok, or none: there was no limit to take away

local MANUAL_LIMIT = '9007199254740991' -- the counter by which BullMQ's clients limit by hand

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
if limit_ms ~= '0' then
  redis.call('SET', q.limiter, MANUAL_LIMIT, 'PX', limit_ms)
  return remember(slot, op, 'ok')
end
local word = redis.call('DEL', q.limiter) == 1 and 'ok' or 'none'
if redis.call('LLEN', q.wait) + redis.call('ZCARD', q.prioritized) > 0 then mark_base(q) end
return remember(slot, op, word)

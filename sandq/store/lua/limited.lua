-- Says for how long a rate limit holds back claims; a worker without a limiter of its own is asked about with most ''.
-- keys: base
-- args: most
-- uses: queue
-- replies: milliseconds, 0 when nothing is held back

local MANUAL_LIMIT = 9007199254740991 -- without a maximum only a limit set by hand counts

local q = queue_keys(base)
local meta = redis.call('HGET', q.meta, 'max')
local max = tonumber(meta or '') or tonumber(most)
local count = tonumber(redis.call('GET', q.limiter) or '')
if not count or count < (max or MANUAL_LIMIT) then return 0 end
return math.max(0, redis.call('PTTL', q.limiter))

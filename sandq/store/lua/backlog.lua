-- How many jobs are left for a worker that is to stop when all is done: iterations of schedulers wait for ever.
-- keys: base
-- uses: queue
-- replies: a number

local q = queue_keys(base)
local left = redis.call('LLEN', q.wait) + redis.call('ZCARD', q.prioritized)
for _, id in ipairs(redis.call('ZRANGE', q.delayed, 0, -1)) do
  if redis.call('HEXISTS', job_key(q, id), 'rjk') == 0 then left = left + 1 end
end
return left

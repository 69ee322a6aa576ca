-- Whether a worker that is to stop when all is done has something left: iterations of schedulers wait for ever.
-- keys: base
-- uses: queue
-- replies: 1 or 0

local q = queue_keys(base)
if redis.call('LLEN', q.wait) > 0 or redis.call('ZCARD', q.prioritized) > 0 then return 1 end
for _, id in ipairs(redis.call('ZRANGE', q.delayed, 0, -1)) do
  if redis.call('HEXISTS', job_key(q, id), 'rjk') == 0 then return 1 end
end
return 0

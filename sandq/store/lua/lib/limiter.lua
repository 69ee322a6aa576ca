-- The rate limit: a counter that expires, shared by all who claim from a queue.
-- uses: core
--   limited_ms(q, max)              how long nothing may begin; without a maximum only a limit set by hand counts
--   count_limit(q, max, duration)   one more has begun

local MANUAL_LIMIT = 9007199254740991 -- a limiter counter set by hand, not counted up

local function limited_ms(q, max)
  local count = tonumber(redis.call('GET', q.limiter) or '')
  if not count or count < (max or MANUAL_LIMIT) then return 0 end
  local ttl = redis.call('PTTL', q.limiter)
  if ttl == 0 then redis.call('DEL', q.limiter) end
  return math.max(ttl, 0)
end

local function count_limit(q, max, duration)
  if not (max and duration) then return end
  if redis.call('INCR', q.limiter) == 1 then
    redis.call('PEXPIRE', q.limiter, math.max(1, math.floor(math.abs(duration))))
  end
end


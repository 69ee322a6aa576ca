-- Runs the jobs of a finished state again, in the order in which they ended, at most `limit` of them.
-- keys: base slot
-- args: op state cutoff limit
-- uses: queue reply place again
-- replies: {count, cutoff}: how many, and what to pass as `cutoff` in the next call, 0 when none are left
-- `cutoff` is 0 in the first call. It ends the rounds: a job that fails again meanwhile is not retried for ever.

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
local last = tonumber(cutoff)
if last == 0 then last = now_ms() end

local ids = redis.call('ZRANGEBYSCORE', q[state], '-inf', last, 'LIMIT', 0, tonumber(limit))
for _, id in ipairs(ids) do check_again_types(q, id) end

local count = 0
for _, id in ipairs(ids) do
  if redis.call('EXISTS', job_key(q, id)) == 1 then
    run_again(q, id, state)
    count = count + 1
  else
    redis.call('ZREM', q[state], id) -- its hash is gone: in wait it would come back as a job without a name
  end
end
if count > 0 then mark_base(q) end
local left = redis.call('ZCOUNT', q[state], '-inf', last)
return remember(slot, op, {text(count), left > 0 and text(last) or '0'})

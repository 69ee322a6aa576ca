-- Lets delayed jobs run now, soonest due first, each where its priority puts it; `limit` of them at most.
-- keys: base slot
-- args: op left limit
-- uses: queue reply event place
-- replies: {count, left}: how many jobs, and what to pass in the next call; left 0 when that was all
-- `left` is '' in the first call. It ends the rounds: what is delayed meanwhile is not promoted for ever.

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
local wanted = tonumber(left) or redis.call('ZCARD', q.delayed)
local ids = redis.call('ZRANGE', q.delayed, 0, math.min(wanted, tonumber(limit)) - 1)
if wanted == 0 then ids = {} end

local count = 0
for _, id in ipairs(ids) do
  if is_job(q, id) then
    redis.call('HSET', job_key(q, id), 'delay', '0')
    put_waiting(q, id, priority_of(q, id), false)
    emit_capped(q, 'event', 'waiting', 'jobId', id, 'prev', 'delayed')
    count = count + 1
  end
  redis.call('ZREM', q.delayed, id) -- also an id whose hash is gone: in wait it would be a job without a name
end
if count > 0 then mark_base(q) end
local rest = redis.call('ZCARD', q.delayed) > 0 and wanted - #ids or 0
return remember(slot, op, {text(count), text(rest)})

-- Runs the jobs of a finished state again, in the order in which they ended; looks at `limit` of them at most.
-- keys: base slot
-- args: op state cutoff passed cancelled limit
-- uses: queue reply place again
-- replies: {count, cutoff, passed}: how many, and what to pass in the next call; cutoff 0 when none are left
-- `cutoff` is 0 in the first call. It ends the rounds: a job that fails again meanwhile is not retried for ever.
-- Cancelled jobs are passed over unless `cancelled` is 1. They stay in front, so the next call begins after them.

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
local last = tonumber(cutoff)
if last == 0 then last = now_ms() end

local function was_cancelled(id)
  local reason = redis.call('HGET', job_key(q, id), 'failedReason') or ''
  return reason == 'cancelled' or string.sub(reason, 1, 10) == 'cancelled:'
end

local before = tonumber(passed)
local ids = redis.call('ZRANGEBYSCORE', q[state], '-inf', last, 'LIMIT', before, tonumber(limit))
for _, id in ipairs(ids) do check_again_types(q, id) end

local count, left_alone = 0, before
for _, id in ipairs(ids) do
  if cancelled ~= '1' and was_cancelled(id) then
    left_alone = left_alone + 1
  elseif redis.call('EXISTS', job_key(q, id)) == 1 then
    run_again(q, id, state)
    count = count + 1
  else
    redis.call('ZREM', q[state], id) -- its hash is gone: in wait it would come back as a job without a name
  end
end
if count > 0 then mark_base(q) end
local is_done = redis.call('ZCOUNT', q[state], '-inf', last) <= left_alone
return remember(slot, op, {text(count), is_done and '0' or text(last), text(left_alone)})

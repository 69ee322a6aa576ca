-- Cancels a job: one that waits fails at once, one that runs is asked to stop by whoever holds its lock.
-- keys: base slot
-- args: op id reason
-- uses: queue reply event finish state cancel
-- replies: was_waiting, was_running, was_abandoned (it ran, and its lock is gone), already_done,
--          scheduler (its next run: remove the scheduler instead), missing

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
check_job_types(q, id)
local facts = read_finish(q, id)
local state = find_state(q, id)
if not state or redis.call('EXISTS', job_key(q, id)) == 0 then return 'missing' end
if state.word == 'completed' or state.word == 'failed' then return 'already_done' end

-- Bound to the token: a later run of the same job is not meant.
local token = redis.call('GET', job_key(q, id) .. ':lock')
if state.word == 'active' and token then
  forget_cancel(q, id) -- a delete first, so that a job can be stopped also when Redis is out of memory
  request_cancel(q, id, token, reason)
  return remember(slot, op, 'was_running')
end
-- Failing it here would end its schedule, since only the claim of a run makes the next one.
if is_next_iteration(q, id) then return 'scheduler' end

-- Also a job in active whose lock is gone: nobody runs it, and the stalled check has not come by yet.
take_out(q, state, id)
redis.call('SREM', q.stalled, id)
if state.word == 'delayed' then redis.call('HSET', job_key(q, id), 'delay', '0') end
finish(q, id, facts, {
  to = 'failed', value = reason == '' and 'cancelled' or 'cancelled: ' .. reason, prev = state.word,
  now = now_ms(), keep = '', points = 0, death = '',
})
if redis.call('LLEN', q.wait) + redis.call('LLEN', q.active) + redis.call('ZCARD', q.prioritized) == 0 then
  emit(q, 'event', 'drained')
end
return remember(slot, op, state.word == 'active' and 'was_abandoned' or 'was_waiting')

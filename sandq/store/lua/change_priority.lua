-- Gives a job another priority; one that waits takes its new place at once, one elsewhere when it comes to wait.
-- keys: base slot
-- args: op id priority lifo
-- uses: queue reply event place state
-- replies: ok, missing

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
if redis.call('HLEN', job_key(q, id)) == 0 then return 'missing' end

local waits_in = {wait = true, paused = true, prioritized = true}
local state, wanted = find_state(q, id), tonumber(priority)
redis.call('HSET', job_key(q, id), 'priority', priority)
if state and waits_in[state.key] then
  take_out(q, state, id)
  put_waiting(q, id, wanted, lifo == '1')
  if wanted == 0 or lifo ~= '1' then mark_base(q) end
end
return remember(slot, op, 'ok')

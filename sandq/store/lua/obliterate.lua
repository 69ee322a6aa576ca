-- Deletes the jobs of a queue, `limit` of them at most in one call, and then the queue itself; pauses it first.
-- keys: base slot
-- args: op force limit last
-- uses: queue reply walk discard state
-- replies: 'ok' it is gone; 'empty' (only if `last` is not 1) all jobs are; 'more' call again; 'active' jobs run, force is
--          not 1, and nothing was changed
-- What supervisors say about themselves stays, and expires with them; so does the reply to a repeated call.

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
redis.call('LLEN', q.paused)
local room = tonumber(limit)

-- All are read, and their keys' types with them, before the first is deleted.
local function first_jobs()
  local found = {}
  for _, place in ipairs(STATES) do
    local ids = room > 0 and ids_after(q, place, '', room) or {}
    check_discard(q, ids)
    room = room - #ids
    found[#found + 1] = {place = place, ids = ids}
  end
  return found
end

local function clear(place, ids)
  for _, id in ipairs(ids) do
    take_first_out(q, place, id)
    -- Whoever runs it finds its lock gone and stops it.
    redis.call('DEL', job_key(q, id) .. ':lock')
    discard(q, id, true)
  end
end

local function clear_schedules()
  local ids = room > 0 and redis.call('ZRANGE', q.schedulers, 0, room - 1) or {}
  for _, id in ipairs(ids) do
    redis.call('DEL', q.base .. 'repeat:' .. id)
    redis.call('ZREM', q.schedulers, id)
  end
  room = room - #ids
end

local function clear_rest()
  for _, name in ipairs({'completed', 'failed'}) do
    redis.call('DEL', q.base .. 'metrics:' .. name, q.base .. 'metrics:' .. name .. ':data')
  end
  -- delay and priority: names that BullMQ gave its sorted sets in times long past.
  redis.call('DEL', q.id, q.pc, q.meta, q.marker, q.events, q.limiter, q.stalled, q.stalled_check, q.cancels,
    q.base .. 'delay', q.base .. 'priority')
end

if force ~= '1' and redis.call('LLEN', q.active) > 0 then return 'active' end
local jobs = first_jobs()
redis.call('DEL', q.marker) -- a delete first, so that a queue can be deleted also when Redis is out of memory
redis.call('HSET', q.meta, 'paused', '1')
for _, found in ipairs(jobs) do clear(found.place, found.ids) end
clear_schedules()
if room <= 0 then return remember(slot, op, 'more') end
if last ~= '1' then return remember(slot, op, 'empty') end
clear_rest()
return remember(slot, op, 'ok')

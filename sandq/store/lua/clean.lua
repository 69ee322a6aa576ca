-- Deletes the jobs of one place that are at least `grace_ms` old, oldest first: `most` of them, looking at `limit`.
-- keys: base slot
-- args: op place grace_ms again after limit most
-- uses: queue reply event walk discard state
-- replies: {word, after, id...}: 'ok' none are left, or 'more': call again with this `after`; the ids deleted
-- In the first call `again` and `after` are ''. Old is what ended, else started, else was added that long ago. An active
-- job is left alone while its lock is there, and so is the next run of a schedule: without it the schedule would end.

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
local from, now = place_of(place), now_ms()
local cutoff = now - tonumber(grace_ms)
local finished = place == 'completed' or place == 'failed'

local function moment_of(id)
  local times = redis.call('HMGET', job_key(q, id), 'finishedOn', 'processedOn', 'timestamp')
  -- Of a job without a time nothing says that it is older than this moment.
  return tonumber(times[1] or times[2] or times[3] or '') or now
end

local function is_due(id)
  if finished then return true end
  if place == 'active' and redis.call('EXISTS', job_key(q, id) .. ':lock') == 1 then return false end
  if not is_job(q, id) then return true end
  return not is_next_iteration(q, id) and moment_of(id) <= cutoff
end

local function candidates()
  if not finished then return ids_after(q, from, after, tonumber(limit)) end
  return redis.call('ZRANGEBYSCORE', q[place], '-inf', cutoff, 'LIMIT', 0, tonumber(limit))
end

local ids = candidates()
check_discard(q, ids)
local reply = {#ids < tonumber(limit) and 'ok' or 'more', after}
for _, id in ipairs(ids) do
  if #reply - 2 == tonumber(most) then
    reply[1] = 'more'
    break
  end
  if is_due(id) then
    take_first_out(q, from, id)
    if discard(q, id, false) > 0 then reply[#reply + 1] = id end
  else
    reply[2] = id
  end
end
-- Once for a clean-up that finds nothing, and once for each call that did; what BullMQ 5 set aside is part of `wait`.
if (again == '' and place ~= 'paused') or #reply > 2 then emit(q, 'event', 'cleaned', 'count', text(#reply - 2)) end
return remember(slot, op, reply)

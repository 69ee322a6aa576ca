-- The iterations of a schedule: at any time at most one is pending, and its time is the schedule's score.
-- uses: queue create
--   schedule_key(q, scheduler)             the schedule's record
--   iteration_id(scheduler, time)          the id of the job that runs at `time`
--   in_steps(first, every)                 the times of an interval to try, as earlier ones may be taken
--   after_last(last, every, offset, now)   when an interval that ran at `last` runs next: one period later, or if that
--                                          is over, in step again, which is `offset` ms into a period
--   in_step(every, offset, now)            the first time after `now` that lies `offset` ms into a period
--   find_free(q, scheduler, times, freed) -> time | nil, passed
--                                          the first time without a job (`freed` counts as without), and the ids before
--   create_iteration(q, spec)              spec = {scheduler, time, now, name, data, opts, repeat_opts, priority, lifo,
--                                          deid, prev}; opts: JSON object without what is an iteration's own; repeat_opts:
--                                          JSON object; prev: its time is noted for who reads the next from a pattern

local SLOTS = 32

local function schedule_key(q, scheduler)
  return q.base .. 'repeat:' .. scheduler
end

local function iteration_id(scheduler, time)
  return 'repeat:' .. scheduler .. ':' .. text(time)
end

local function in_step(every, offset, now)
  local time = math.floor(now / every) * every + offset
  if time > now then return time end
  return time + every
end

local function in_steps(first, every)
  local times = {}
  for step = 0, SLOTS - 1 do times[#times + 1] = first + step * every end
  return times
end

local function after_last(last, every, offset, now)
  if last + every >= now then return last + every end
  return in_step(every, offset, now)
end

local function find_free(q, scheduler, times, freed)
  local passed = {}
  for _, time in ipairs(times) do
    local id = iteration_id(scheduler, time)
    if id == freed or redis.call('EXISTS', job_key(q, id)) == 0 then return time, passed end
    passed[#passed + 1] = id
  end
  return nil, passed
end

-- Text, not cjson: a decode and encode would turn [] into {} and cut numbers to 14 digits.
local function with_members(object, members)
  local joined = table.concat(members, ',')
  if object == '{}' then return '{' .. joined .. '}' end
  return string.sub(object, 1, -2) .. ',' .. joined .. '}'
end

local function create_iteration(q, spec)
  local id = iteration_id(spec.scheduler, spec.time)
  local delay = math.max(spec.time - spec.now, 0)
  local members = {
    '"repeat":' .. spec.repeat_opts, '"jobId":' .. cjson.encode(id), '"delay":' .. text(delay),
    '"timestamp":' .. text(spec.now), '"repeatJobKey":' .. cjson.encode(spec.scheduler),
  }
  if spec.prev then members[#members + 1] = '"prevMillis":' .. text(spec.time) end
  redis.call('INCR', q.id)
  create_job(q, {
    id = id, name = spec.name, data = spec.data, opts = with_members(spec.opts, members), timestamp = spec.now,
    delay = delay, priority = spec.priority, lifo = spec.lifo, rjk = spec.scheduler, deid = spec.deid,
  })
end


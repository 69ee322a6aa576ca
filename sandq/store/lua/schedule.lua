-- Makes a schedule, or changes one: its pending iteration is replaced, and a run that is due stays due.
-- keys: base slot
-- args: op version scheduler name data opts repeat_opts immediately priority lifo runs...
--       opts: JSON object, the options of every iteration; repeat_opts: JSON object with every or pattern, and of tz,
--       limit, startDate, endDate, offset and count what there is; immediately: '1', a pattern's first run is now
--       runs: the next times of a cron pattern in ms, earliest first; none for an interval
-- uses: queue reply state discard iteration
-- replies: {word, now, time, iterations}; the last two with 'ok' only; with any other word nothing was written
--   'ok'; 'again' (every one of `runs` is past or has a job: ask with later ones); 'ended' (the first run would come
--   after the end); 'taken' (every next slot of an interval has a job)

local stored = replay(slot, op)
if stored then return stored end
local q = queue_keys(base)
local record = schedule_key(q, scheduler)
local plan = decode(repeat_opts)
local now = now_ms()

-- The current iteration if nobody has begun it. One that runs, or ran, has made or will make no other beside the new.
local function find_pending(last)
  local id = iteration_id(scheduler, last)
  if not is_job(q, id) then return nil end
  local state = find_state(q, id)
  local word = state and state.word
  if word ~= 'delayed' and word ~= 'prioritized' and word ~= 'waiting' then return nil end
  check_discard(q, {id})
  return {id = id, state = state, time = last}
end

-- Whether the slots of before are those of now.
local function is_same(old)
  if plan.every then
    return old.every == plan.every and (not plan.offset or plan.offset == old.offset)
  end
  return old.pattern == plan.pattern and old.tz == plan.tz and immediately ~= '1'
end

-- The first time of an interval, and its phase.
local function plan_interval(last, pending, old)
  if last and is_same(old) then
    local offset = plan.offset or old.offset or 0
    local time = pending and last or after_last(last, plan.every, offset, now)
    if time >= (plan.startDate or 0) then return time, offset end
  end
  if plan.startDate then return math.max(plan.startDate, now), 0 end
  if plan.offset then return in_step(plan.every, plan.offset, now), plan.offset end
  return now, 0
end

local function pattern_times(pending, old)
  if pending and is_same(old) and pending.time >= (plan.startDate or 0) then return {pending.time} end
  local times = {}
  if immediately == '1' then times[1] = now end
  for index = runs_from, #ARGV do
    local time = tonumber(ARGV[index])
    if time > now then times[#times + 1] = time end
  end
  return times
end

local function write_record(offset, iterations)
  local fields = {'name', name}
  local function also(field, value)
    if not value then return end
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
  local function number(value) return value and text(value) end
  also('tz', plan.tz)
  also('limit', number(plan.limit))
  also('pattern', plan.pattern)
  also('startDate', number(plan.startDate))
  also('endDate', number(plan.endDate))
  also('every', number(plan.every))
  also('offset', text(offset))
  also('opts', opts ~= '{}' and opts)
  also('data', data ~= '{}' and data)
  also('ic', iterations)
  redis.call('DEL', record)
  redis.call('HSET', record, unpack(fields))
end

check_types(q)
local found = redis.call('HMGET', record, 'every', 'offset', 'pattern', 'tz', 'ic')
local old = {
  every = tonumber(found[1] or ''), offset = tonumber(found[2] or ''), pattern = found[3] or nil, tz = found[4] or nil,
}
local last = tonumber(redis.call('ZSCORE', q.schedulers, scheduler) or '')
local pending = last and find_pending(last)
local times, offset
if plan.every then
  local first
  first, offset = plan_interval(last, pending, old)
  if not plan.offset and offset == 0 then offset = first % plan.every end
  times = in_steps(first, plan.every)
else
  times, offset = pattern_times(pending, old), 0
end

local time = find_free(q, scheduler, times, pending and pending.id)
if plan.endDate and (plan.endDate <= now or time and time > plan.endDate) then return {'ended', text(now)} end
if not time then return {plan.every and 'taken' or 'again', text(now)} end

redis.call('HSETNX', q.meta, 'version', version)
redis.call('ZADD', q.schedulers, time, scheduler)
if pending then
  take_out(q, pending.state, pending.id)
  discard(q, pending.id, true)
end
local iterations = found[5] or '1'
write_record(offset, iterations)
create_iteration(q, {
  scheduler = scheduler, time = time, now = now, name = name, data = data, opts = opts, repeat_opts = repeat_opts,
  priority = tonumber(priority), lifo = lifo == '1', prev = not plan.every,
})
return remember(slot, op, {'ok', text(now), text(time), iterations})

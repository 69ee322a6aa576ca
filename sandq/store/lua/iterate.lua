-- Creates the next iteration of a schedule; whoever claimed the current one owes it before running the job.
-- keys: base slot
-- args: op id token scheduler name opts repeat_opts every priority lifo deid runs...
--       opts, repeat_opts: JSON objects, opts without repeat and what is only known here (jobId, delay, timestamp,
--       prevMillis)
--       runs: the next times of a cron pattern in ms, earliest first; none for an interval
-- uses: queue reply event place create holder
-- replies: 'ok'; and, with no new iteration, 'lost' 'no-schedule' 'not-current' 'taken' (every next slot has a job)

local SLOTS = 32 -- next times of an interval tried when earlier ones are taken

local q = queue_keys(base)
local record = q.base .. 'repeat:' .. scheduler
local now = now_ms()

local function iteration(time)
  return 'repeat:' .. scheduler .. ':' .. text(time)
end

local function member(name, json)
  return ',"' .. name .. '":' .. json
end

-- Text, not cjson: a decode and encode would turn [] into {} and cut numbers to 14 digits. The object is not empty.
local function extended(object, members)
  return string.sub(object, 1, -2) .. members .. '}'
end

-- The next times, earliest first, and the phase of an interval within its period.
local function next_runs(last, interval, offset)
  local times = {}
  if not interval then
    for index = runs_from, #ARGV do times[#times + 1] = tonumber(ARGV[index]) end
    return times, 0
  end
  local first = last + interval
  if first < now then
    first = math.floor(now / interval) * interval + offset
    if first <= now then first = first + interval end
  end
  for step = 0, SLOTS - 1 do times[#times + 1] = first + step * interval end
  if offset == 0 then offset = first % interval end
  return times, offset
end

-- A slot that has a job already is passed over, so that a finished leftover does not end the schedule.
local function free_run(times)
  for _, time in ipairs(times) do
    if redis.call('EXISTS', job_key(q, iteration(time))) == 0 then return time end
    emit_capped(q, 'event', 'duplicated', 'jobId', iteration(time))
  end
  return nil
end

local function create(fields, time, interval)
  local delay = math.max(time - now, 0)
  local members = member('repeat', repeat_opts)
    .. member('jobId', cjson.encode(iteration(time)))
    .. member('delay', text(delay)) .. member('timestamp', text(now))
  if not interval then members = members .. member('prevMillis', text(time)) end
  redis.call('INCR', q.id)
  create_job(q, {
    id = iteration(time), name = fields[1] or name, data = fields[2] or '{}', opts = extended(opts, members),
    timestamp = now, delay = delay, priority = tonumber(priority), lifo = lifo == '1', rjk = scheduler,
    deid = deid ~= '' and deid or nil,
  })
end

local stored = replay(slot, op)
if stored then return stored end
check_types(q)
if not holds(q, id, token) then return 'lost' end
local fields = redis.call('HMGET', record, 'name', 'data', 'every', 'offset', 'ic')
local last = tonumber(redis.call('ZSCORE', q.schedulers, scheduler) or '')
if not last or not fields[5] then return 'no-schedule' end
if id ~= iteration(last) then return 'not-current' end

local interval = tonumber(fields[3] or '') or tonumber(every)
if interval and not (interval > 0 and interval < 1e15) then return 'no-schedule' end
local times, offset = next_runs(last, interval, tonumber(fields[4] or '') or 0)
local time = free_run(times)
if not time then return remember(slot, op, 'taken') end
redis.call('ZADD', q.schedulers, time, scheduler)
grow(record, 'ic')
if interval then redis.call('HSET', record, 'offset', text(offset)) end
create(fields, time, interval)
return remember(slot, op, 'ok')

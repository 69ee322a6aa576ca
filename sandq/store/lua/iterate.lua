-- Creates the next iteration of a schedule; whoever claimed the current one owes it before running the job.
-- keys: base slot
-- args: op id token scheduler name opts repeat_opts every end_ms priority lifo deid runs...
--       opts, repeat_opts: JSON objects, opts without what is an iteration's own
--       end_ms: nothing runs after it; '' for ever
--       runs: the next times of a cron pattern in ms, earliest first; none for an interval
-- uses: queue reply event holder iteration
-- replies: 'ok'; and, with no new iteration, 'lost' 'no-schedule' 'not-current' 'ended' 'taken' (every next slot has a
--          job)

local stored = replay(slot, op)
if stored then return stored end
local q = queue_keys(base)
local record = schedule_key(q, scheduler)
local now = now_ms()

-- The next times, earliest first.
local function next_runs(last, interval, offset)
  if interval then return in_steps(after_last(last, interval, offset, now), interval) end
  local times = {}
  for index = runs_from, #ARGV do
    local time = tonumber(ARGV[index])
    -- They were computed for the time of the claim; a job that was held for long leaves out what it missed.
    if time > now or index == #ARGV then times[#times + 1] = time end
  end
  return times
end

check_types(q)
if not holds(q, id, token) then return 'lost' end
local fields = redis.call('HMGET', record, 'name', 'data', 'every', 'offset', 'ic')
local last = tonumber(redis.call('ZSCORE', q.schedulers, scheduler) or '')
if not last or not fields[5] then return 'no-schedule' end
if id ~= iteration_id(scheduler, last) then return 'not-current' end

local interval = tonumber(fields[3] or '') or tonumber(every)
if interval and not (interval > 0 and interval < 1e15) then return 'no-schedule' end
local offset = tonumber(fields[4] or '') or 0
local times = next_runs(last, interval, offset)
-- A slot that has a job already is passed over, so that a finished leftover does not end the schedule.
local time, passed = find_free(q, scheduler, times)
if time and time > (tonumber(end_ms) or time) then return 'ended' end
for _, taken in ipairs(passed) do emit_capped(q, 'event', 'duplicated', 'jobId', taken) end
if not time then return remember(slot, op, 'taken') end

redis.call('ZADD', q.schedulers, time, scheduler)
grow(record, 'ic')
if interval then redis.call('HSET', record, 'offset', text(offset > 0 and offset or times[1] % interval)) end
create_iteration(q, {
  scheduler = scheduler, time = time, now = now, name = fields[1] or name, data = fields[2] or '{}', opts = opts,
  repeat_opts = repeat_opts, priority = tonumber(priority), lifo = lifo == '1', deid = deid ~= '' and deid or nil,
  prev = not interval,
})
return remember(slot, op, 'ok')

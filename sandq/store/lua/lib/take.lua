-- Claiming: at most one job per token, each with a lock of its own and a fence that only grows.
-- uses: core event active place limiter oversize
--   claim_rule(...) -> rule   from script arguments; `now_at` is now_us()
--   arguments(from) -> {...}  the repeated arguments of the script
--   check_take(q)             raises WRONGTYPE before anything was written; what it learns spares the claim commands.
--                             From there to `take` nothing may be put into delayed, and no limit be set
--   take(q, rule, tokens) -> taken, jobs
--       taken = {why, wait_ms, id, token, id, token...}; why '' when every token that counts got a job; wait_ms -1:
--       unknown. jobs: as show_taken shows them
--       rule = {lock_ms, worker, limiter_max, limiter_ms, at_once, max_data, now, us}, numbers or nil (worker: '' for none)
--       The first `at_once` tokens are for jobs that begin at once. The others are for jobs held until a child is free,
--       which nobody may hold where a queue bounds how many run: they count only without such a bound.
--   show_taken(q, taken, rule, jobs) -> {why, wait_ms, {id, token, size, {field, value...}}...}
--       without `jobs` it reads the hashes, as a repeated call needs it; data larger than rule.max_data is measured, not
--       loaded: then `size` is its size, else -1. Of a field that is there twice the later value counts
-- The caller checked types and reserved memory: from the first write on nothing can be refused.

local DROPS = 1000 -- ids without a job dropped in one call, at most

local function claim_rule(now_at, lock_ms, worker, limiter_max, limiter_ms, max_data, at_once)
  return {
    us = now_at, fence = text(now_at), now = math.floor(now_at / 1000), lock_ms = lock_ms, worker = worker, at_once = tonumber(at_once),
    limiter_max = tonumber(limiter_max), limiter_ms = tonumber(limiter_ms), max_data = tonumber(max_data),
  }
end

local function arguments(from)
  local given = {}
  for index = from, #ARGV do given[#given + 1] = ARGV[index] end
  return given
end

local function check_take(q)
  redis.call('LLEN', q.wait)
  redis.call('ZCARD', q.prioritized)
  redis.call('STRLEN', q.pc)
  redis.call('XLEN', q.events)
  q.none_delayed = redis.call('ZCARD', q.delayed) == 0
  q.never_limited = redis.call('STRLEN', q.limiter) == 0
  q.marked = redis.call('ZSCORE', q.marker, '0') == '0'
  meta_of(q)
end

-- {id, size, fields}; nil where there is no job hash, but a ghost or a key of a foreign type.
local function read_job(q, id, max_data)
  local job = job_key(q, id)
  local size = redis.pcall('HSTRLEN', job, 'data')
  if type(size) ~= 'number' then return nil end
  if size > max_data then
    return {id = id, size = size, fields = read_without_data(job)}
  end
  local fields = redis.call('HGETALL', job)
  return fields[1] and {id = id, size = -1, fields = fields} or nil
end

-- Ids from the end of wait, then the first of prioritized; they may be fewer than there are, but then not none.
local function pop(q, most)
  local ids = redis.call('RPOP', q.wait, most)
  if ids then return ids end
  ids = {}
  for index, popped in ipairs(redis.call('ZPOPMIN', q.prioritized, most)) do
    if index % 2 == 1 then ids[#ids + 1] = popped end
  end
  if not ids[1] then redis.call('DEL', q.pc) end
  return ids
end

-- The next jobs that can start, `most` at most; ids that cannot are dropped on the way: markers of BullMQ 4 ("0:..."),
-- ids without a hash, and what is listed twice: an active job has a holder, and if that vanished, the stalled check is
-- what brings it back.
local function next_jobs(q, most, max_data)
  local jobs, seen, dropped = {}, {}, 0
  repeat
    local ids = pop(q, most - #jobs)
    for _, id in ipairs(ids) do
      local starts = not seen[id] and string.sub(id, 1, 2) ~= '0:' and not is_active(q, id)
      local job = starts and read_job(q, id, max_data)
      if job then
        jobs[#jobs + 1] = job
        seen[id] = true
      else
        dropped = dropped + 1
      end
    end
  until #jobs == most or #ids == 0 or dropped >= DROPS
  return jobs
end

local function values_of(fields)
  local values = {}
  for index = 1, #fields, 2 do values[fields[index]] = fields[index + 1] end
  return values
end

-- sq_fence only grows, whatever the clock does.
local function start(q, job, token, rule, before)
  local key, fields = job_key(q, job.id), job.fields
  redis.call('SET', key .. ':lock', token, 'PX', rule.lock_ms)
  emit(q, 'event', 'active', 'jobId', job.id, 'prev', 'waiting')
  local fence, ats = rule.fence, '1'
  local last = tonumber(before.sq_fence)
  if last and last >= rule.us then fence = text(last + 1) end
  if before.ats then ats = text((tonumber(before.ats) or 0) + 1) end
  local n, now = #fields, string.sub(rule.fence, 1, -4)
  fields[n + 1], fields[n + 2], fields[n + 3], fields[n + 4] = 'processedOn', now, 'sq_fence', fence
  fields[n + 5], fields[n + 6] = 'ats', ats
  if rule.worker ~= '' then fields[n + 7], fields[n + 8] = 'pb', rule.worker end
  redis.call('HSET', key, unpack(fields, n + 1))
end

local function start_all(q, jobs, tokens, from, rule, bounds)
  local ids = {}
  for index, job in ipairs(jobs) do
    ids[index] = job.id
    note_active(q, job.id, 1)
  end
  redis.call('LPUSH', q.active, unpack(ids))
  for index, job in ipairs(jobs) do
    local before = values_of(job.fields)
    if bounds.max and not before.defa then
      count_limit(q, bounds.max, bounds.duration)
      q.never_limited = false
    end
    start(q, job, tokens[from + index], rule, before)
  end
end

-- How many of so many may begin now; if none, why, and for how long.
local function room_for(q, bounds, count, is_first)
  if not q.never_limited and (is_first or bounds.max) then
    local limited = limited_ms(q, bounds.max)
    if limited > 0 then return 0, 'limited', limited end
  end
  if bounds.paused then return 0, 'paused', -1 end
  if bounds.max then count = 1 end -- the limiter is asked before each
  if not bounds.most then return count end
  local room = math.min(count, bounds.most - redis.call('LLEN', q.active))
  if room <= 0 then return 0, 'full', -1 end
  return room
end

local function none_left(q, now)
  if redis.call('LLEN', q.wait) > 0 then return 'empty', 0 end -- gave up among ids without jobs: ask again
  if q.none_delayed then return 'empty', -1 end
  return 'empty', until_due_ms(q, now)
end

local function take(q, rule, tokens)
  if not q.none_delayed then
    promote_due(q, rule.now)
  end
  local meta, wanted = meta_of(q), #tokens
  -- meta.max wins over the worker's, the worker's duration over meta.duration: BullMQ's precedence, both ways odd.
  local bounds = {
    paused = meta.paused, most = meta.most, max = meta.max or rule.limiter_max,
    duration = rule.limiter_ms or meta.duration,
  }
  if bounds.max or bounds.most then wanted = math.min(wanted, rule.at_once) end
  local taken, begun, why, wait_ms = {'', -1}, {}, nil, nil
  while #begun < wanted and not why do
    local room
    room, why, wait_ms = room_for(q, bounds, wanted - #begun, #begun == 0)
    local jobs = room > 0 and next_jobs(q, room, rule.max_data) or {}
    if room > 0 and not jobs[1] then why, wait_ms = none_left(q, rule.now) end
    if jobs[1] then start_all(q, jobs, tokens, #begun, rule, bounds) end
    for _, job in ipairs(jobs) do begun[#begun + 1] = job end
  end
  taken[1], taken[2] = why or '', wait_ms or -1
  for index, job in ipairs(begun) do
    taken[#taken + 1] = job.id
    taken[#taken + 1] = tokens[index]
  end
  -- Always marked, whatever is left: one of several idle workers woke for this job, the others look for themselves.
  if begun[1] then mark(q) end
  return taken, begun
end

local function show_taken(q, taken, rule, jobs)
  local reply = {taken[1], taken[2]}
  for index = 3, #taken, 2 do
    local id = taken[index]
    local job = jobs and jobs[(index - 1) / 2] or read_job(q, id, rule.max_data)
    -- On a repeated call the job may be gone meanwhile.
    if job then reply[#reply + 1] = {id, taken[index + 1], job.size, job.fields} end
  end
  return reply
end


-- Claiming: at most one job per token, each with a lock of its own and a fence that only grows.
-- uses: core event active place limiter oversize
--   claim_rule(...) -> rule   from script arguments, and the time
--   arguments(from) -> {...}  the repeated arguments of the script
--   unusual_keys(q)           those that a queue mostly does not have: to ask whether any is there costs one command
--   check_take(q, none)       raises WRONGTYPE before anything was written; what it learns spares the claim commands.
--                             `none`: EXISTS found no key of unusual_keys. From there to `take` nothing may be put into
--                             delayed or prioritized, and no limit be set
--   take(q, rule, tokens) -> taken, jobs
--       taken = {why, wait_ms, id, token, id, token...}; why '' when every token that counts got a job; wait_ms -1:
--       unknown. jobs: as show_taken shows them
--       rule = {lock_ms, worker, limiter_max, limiter_ms, at_once, max_data, now, fence}, numbers or nil (worker: '' for
--       none; fence: the time in microseconds, as text)
--       The first `at_once` tokens are for jobs that begin at once. The others are for jobs held until a child is free,
--       which nobody may hold where a queue bounds how many run: they count only without such a bound.
--   show_taken(q, taken, rule, jobs, reply) -> reply   with why, wait_ms, and for each job: id, token, size, {field,
--       value...} at its end; flat, since a table within a reply costs Redis as much as ten texts
--       without `jobs` it reads the hashes, as a repeated call needs it; data larger than rule.max_data is measured, not
--       loaded: then `size` is its size, else -1. Of a field that is there twice the later value counts
-- The caller checked types and reserved memory: from the first write on nothing can be refused.

local DROPS = 1000 -- ids without a job dropped in one call, at most

local function claim_rule(lock_ms, worker, limiter_max, limiter_ms, max_data, at_once)
  local fence, now = clock()
  return {
    fence = fence, now = now, lock_ms = lock_ms, worker = worker, at_once = tonumber(at_once),
    limiter_max = tonumber(limiter_max), limiter_ms = tonumber(limiter_ms), max_data = tonumber(max_data),
  }
end

local function arguments(from)
  local given = {}
  for index = from, #ARGV do given[#given + 1] = ARGV[index] end
  return given
end

local function unusual_keys(q)
  return q.prioritized, q.pc, q.delayed, q.limiter
end

local function check_take(q, none)
  redis.call('LLEN', q.wait)
  redis.call('XLEN', q.events)
  q.marked = redis.call('ZSCORE', q.marker, '0') == '0'
  meta_of(q)
  q.none_prioritized, q.none_delayed, q.never_limited = none, none, none
  if none then return end
  redis.call('ZCARD', q.prioritized)
  redis.call('STRLEN', q.pc)
  q.none_delayed = redis.call('ZCARD', q.delayed) == 0
  q.never_limited = redis.call('STRLEN', q.limiter) == 0
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
  if q.none_prioritized then return ids end
  for index, popped in ipairs(redis.call('ZPOPMIN', q.prioritized, most)) do
    if index % 2 == 1 then ids[#ids + 1] = popped end
  end
  if not ids[1] then redis.call('DEL', q.pc) end
  return ids
end

-- Puts the next that can start behind `jobs`, until they are `most`. Ids that cannot are dropped on the way: markers of
-- BullMQ 4 ("0:..."), ids without a hash, and what is listed twice: an active job has a holder, and if that vanished, the
-- stalled check is what brings it back.
local function add_next(q, jobs, most, max_data)
  local seen, dropped = {}, 0
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
end

-- What its earlier starts left in the hash, and whether it was condemned meanwhile.
local function read_starts(fields)
  local fence, ats, defa
  for index = 1, #fields, 2 do
    local name = fields[index]
    if name == 'sq_fence' then
      fence = tonumber(fields[index + 1])
    elseif name == 'ats' then
      ats = fields[index + 1]
    elseif name == 'defa' then
      defa = true
    end
  end
  return fence, ats, defa
end

-- sq_fence only grows, whatever the clock does.
local function start(q, job, token, rule, last_fence, last_ats)
  local key, fields = job_key(q, job.id), job.fields
  redis.call('SET', key .. ':lock', token, 'PX', rule.lock_ms)
  emit(q, 'event', 'active', 'jobId', job.id, 'prev', 'waiting')
  local fence, ats = rule.fence, '1'
  if last_fence and last_fence >= tonumber(rule.fence) then fence = text(last_fence + 1) end
  if last_ats then ats = text((tonumber(last_ats) or 0) + 1) end
  local n, now = #fields, text(rule.now)
  fields[n + 1], fields[n + 2], fields[n + 3], fields[n + 4] = 'processedOn', now, 'sq_fence', fence
  fields[n + 5], fields[n + 6] = 'ats', ats
  if rule.worker ~= '' then fields[n + 7], fields[n + 8] = 'pb', rule.worker end
  redis.call('HSET', key, unpack(fields, n + 1))
end

local function start_all(q, jobs, first, tokens, rule, bounds)
  local ids = {}
  for index = first, #jobs do
    ids[#ids + 1] = jobs[index].id
    note_active(q, jobs[index].id, 1)
  end
  redis.call('LPUSH', q.active, unpack(ids))
  for index = first, #jobs do
    local job = jobs[index]
    local last_fence, last_ats, is_condemned = read_starts(job.fields)
    if bounds.max and not is_condemned then
      count_limit(q, bounds.max, bounds.duration)
      q.never_limited = false
    end
    start(q, job, tokens[index], rule, last_fence, last_ats)
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
  local begun, why, wait_ms = {}, nil, nil
  while #begun < wanted and not why do
    local room, first = nil, #begun + 1
    room, why, wait_ms = room_for(q, bounds, wanted - #begun, first == 1)
    if room > 0 then
      add_next(q, begun, #begun + room, rule.max_data)
      if begun[first] then
        start_all(q, begun, first, tokens, rule, bounds)
      else
        why, wait_ms = none_left(q, rule.now)
      end
    end
  end
  local taken = {why or '', wait_ms or -1}
  for index, job in ipairs(begun) do
    taken[2 * index + 1], taken[2 * index + 2] = job.id, tokens[index]
  end
  -- Always marked, whatever is left: one of several idle workers woke for this job, the others look for themselves.
  if begun[1] then mark(q) end
  return taken, begun
end

local function show_taken(q, taken, rule, jobs, reply)
  local n = #reply + 2
  reply[n - 1], reply[n] = taken[1], taken[2]
  for index = 3, #taken, 2 do
    local job = jobs and jobs[(index - 1) / 2] or read_job(q, taken[index], rule.max_data)
    -- On a repeated call the job may be gone meanwhile.
    if job then
      reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = job.id, taken[index + 1], job.size, job.fields
      n = n + 4
    end
  end
  return reply
end


-- Claiming: at most one job per token, each with a lock of its own and a fence that only grows.
-- uses: queue event place
--   claim_rule(...) -> rule   from script arguments
--   arguments(from) -> {...}  the repeated arguments of the script
--   take(q, rule, tokens) -> {why, wait_ms, id, token, id, token...}
--       why '' when every token got a job; wait_ms -1: unknown
--       rule = {lock_ms, worker, limiter_max, limiter_ms, now}, numbers or nil (worker: '' for none)
--   show_taken(q, taken, max_data) -> {why, wait_ms, {id, token, size, field, value...}...}
--       reads the hashes; data larger than max_data is measured, not loaded: then `size` is its size, else -1
-- The caller checked types and reserved memory: from the first write on nothing can be refused.

local MANUAL_LIMIT = 9007199254740991 -- a limiter counter set by hand, not counted up
local DROPS = 1000 -- ids without a job dropped in one call, at most

local SHOWN = {
  'name', 'opts', 'timestamp', 'delay', 'priority', 'parentKey', 'parent', 'deid', 'rjk', 'processedOn', 'pb', 'ats',
  'atm', 'attemptsMade', 'stc', 'defa', 'progress', 'failedReason', 'stacktrace', 'sq_crashes', 'sq_interruptions',
  'sq_unknown', 'sq_fence',
}

local function claim_rule(now, lock_ms, worker, limiter_max, limiter_ms)
  return {
    now = now, lock_ms = lock_ms, worker = worker,
    limiter_max = tonumber(limiter_max), limiter_ms = tonumber(limiter_ms),
  }
end

local function arguments(from)
  local given = {}
  for index = from, #ARGV do given[#given + 1] = ARGV[index] end
  return given
end

-- meta.max wins over the worker's max, the worker's duration over meta.duration: BullMQ's precedence, both ways odd.
local function read_limits(q, rule)
  local meta = redis.call('HMGET', q.meta, 'max', 'duration')
  return tonumber(meta[1] or '') or rule.limiter_max, rule.limiter_ms or tonumber(meta[2] or '')
end

local function limited_ms(q, max)
  local count = tonumber(redis.call('GET', q.limiter) or '')
  if not count or count < (max or MANUAL_LIMIT) then return 0 end
  local ttl = redis.call('PTTL', q.limiter)
  if ttl == 0 then redis.call('DEL', q.limiter) end
  return math.max(ttl, 0)
end

local function count_limit(q, max, duration)
  if not (max and duration) then return end
  if redis.call('INCR', q.limiter) == 1 then
    redis.call('PEXPIRE', q.limiter, math.max(1, math.floor(math.abs(duration))))
  end
end

-- Not a marker of BullMQ 4 ("0:..."), not an id without a hash, and not one listed twice: what is active has a holder,
-- and if that vanished, the stalled check is what brings it back.
local function can_start(q, id)
  return string.sub(id, 1, 2) ~= '0:' and is_job(q, id) and not redis.call('LPOS', q.active, id)
end

-- The next id that can start; those that cannot are dropped on the way.
local function next_id(q)
  for _ = 1, DROPS do
    local id = redis.call('RPOP', q.wait)
    if not id then
      local first = redis.call('ZPOPMIN', q.prioritized)
      if not first[1] then
        redis.call('DEL', q.pc)
        return nil
      end
      id = first[1]
    end
    if can_start(q, id) then return id end
  end
  return nil
end

local function grow_fence(job)
  local last = tonumber(redis.call('HGET', job, 'sq_fence') or '') or 0
  return text(math.max(last + 1, now_us()))
end

local function start(q, id, token, rule)
  local job = job_key(q, id)
  redis.call('LPUSH', q.active, id)
  redis.call('SET', job .. ':lock', token, 'PX', rule.lock_ms)
  emit(q, 'event', 'active', 'jobId', id, 'prev', 'waiting')
  redis.call('HSET', job, 'processedOn', text(rule.now), 'sq_fence', grow_fence(job))
  if rule.worker ~= '' then redis.call('HSET', job, 'pb', rule.worker) end
  grow(job, 'ats')
  -- Always marked, whatever is left: one of several idle workers woke for this job, the others look for themselves.
  redis.call('ZADD', q.marker, 0, '0')
end

local function until_due_ms(q, now)
  local first = redis.call('ZRANGE', q.delayed, 0, 0, 'WITHSCORES')
  if not first[2] then return -1 end
  return math.max(0, math.floor(tonumber(first[2]) / TIES) - now)
end

local function take_one(q, token, rule, max, duration)
  local limited = limited_ms(q, max)
  if limited > 0 then return nil, 'limited', limited end
  if redis.call('HEXISTS', q.meta, 'paused') == 1 then return nil, 'paused', -1 end
  if is_blocked(q) then return nil, 'full', -1 end
  local id = next_id(q)
  if not id then
    if redis.call('LLEN', q.wait) > 0 then return nil, 'empty', 0 end -- gave up among ids without jobs: ask again
    return nil, 'empty', until_due_ms(q, rule.now)
  end
  if redis.call('HEXISTS', job_key(q, id), 'defa') == 0 then count_limit(q, max, duration) end
  start(q, id, token, rule)
  return id
end

local function take(q, rule, tokens)
  promote_due(q, rule.now)
  local max, duration = read_limits(q, rule)
  local taken = {'', -1}
  for _, token in ipairs(tokens) do
    local id, why, wait_ms = take_one(q, token, rule, max, duration)
    if not id then
      taken[1], taken[2] = why, wait_ms
      break
    end
    taken[#taken + 1] = id
    taken[#taken + 1] = token
  end
  return taken
end

local function show_job(q, id, token, max_data)
  local job = job_key(q, id)
  local size = redis.call('HSTRLEN', job, 'data')
  local shown = {id, token, -1}
  local function show(field, value)
    if value then
      shown[#shown + 1] = field
      shown[#shown + 1] = value
    end
  end
  if size > max_data then shown[3] = size else show('data', redis.call('HGET', job, 'data')) end
  local values = redis.call('HMGET', job, unpack(SHOWN))
  for index, field in ipairs(SHOWN) do show(field, values[index]) end
  return shown
end

local function show_taken(q, taken, max_data)
  local reply = {taken[1], taken[2]}
  for index = 3, #taken, 2 do
    -- On a repeated call the job may be gone meanwhile.
    if is_job(q, taken[index]) then
      reply[#reply + 1] = show_job(q, taken[index], taken[index + 1], max_data)
    end
  end
  return reply
end


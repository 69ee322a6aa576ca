-- The end of a job, completed or failed, wherever it was: everything a worker owes the queue at that moment.
-- uses: queue event place create parent dedup
--   read_finish(q, id) -> facts   reads and checks types only; call it before the first write
--   finish(q, id, facts, how)     how = {to = 'completed' | 'failed', value, now, prev, keep, points, death}
--       value   the returnvalue (JSON text) or the failed reason (raw text)
--       prev    the state the job is taken from, for the event; taking it out of there is the caller's
--       keep    the supervisor's retention: JSON {count, age (s), limit}, or '' for the default; the job's option wins
--       points  metrics data points, 0 for none            death   death certificate (JSON), or ''

local COUNTERS = {'sq_crashes', 'sq_interruptions', 'sq_unknown'}

local function read_finish(q, id)
  check_types(q)
  check_job_types(q, id)
  local facts = {parent = parent_of(q, id)}
  if facts.parent then check_parent_types(facts.parent) end
  local fields = redis.call('HMGET', job_key(q, id), 'deid', 'opts')
  facts.opts = decode(fields[2])
  if fields[1] then
    facts.deid = fields[1]
    redis.call('STRLEN', dedup_key(q, facts.deid))
    redis.call('HLEN', next_key(q, facts.deid))
  end
  for _, to in ipairs({'completed', 'failed'}) do
    redis.call('HLEN', q.base .. 'metrics:' .. to)
    redis.call('LLEN', q.base .. 'metrics:' .. to .. ':data')
  end
  return facts
end

local function whole(value)
  -- What no command takes as an integer must not reach one half way through a script.
  local number = tonumber(value)
  if not number or number ~= number or math.abs(number) > 1e12 then return nil end
  return math.floor(number)
end

-- {count, age, limit}; count -1 keeps all, 0 keeps nothing.
local function as_keep(option)
  if option == true then return {count = 0} end
  if option == false then return {count = -1} end
  if type(option) == 'number' then return {count = whole(option) or -1} end
  if type(option) ~= 'table' then return nil end
  return {count = whole(option.count) or -1, age = whole(option.age), limit = whole(option.limit)}
end

local function default_keep(q, to)
  local version = redis.call('HGET', q.meta, 'version') or ''
  -- Another team's history is not ours to trim.
  if string.sub(version, 1, 7) == 'bullmq:' then return {count = -1} end
  if to == 'completed' then return {count = 1000, age = 86400} end
  return {count = -1, age = 604800}
end

local function retention(q, facts, how)
  local option = facts.opts.removeOnComplete
  if how.to == 'failed' then option = facts.opts.removeOnFail end
  local keep = as_keep(option)
  if keep then return keep end
  if how.keep ~= '' then return as_keep(decode(how.keep)) end
  return default_keep(q, how.to)
end

local function erase(q, id)
  local parent = parent_of(q, id)
  if parent then detach_child(parent, job_key(q, id)) end
  delete_job(q, id)
end

-- At most `limit` by each bound, so that a first trim of a long history cannot hold Redis up.
local function trim_finished(q, set, keep, now)
  local limit = keep.limit or 1000
  local function erase_all(ids)
    for _, id in ipairs(ids) do
      erase(q, id)
      redis.call('ZREM', set, id)
    end
  end
  if keep.age then
    erase_all(redis.call('ZREVRANGEBYSCORE', set, now - keep.age * 1000, 0, 'LIMIT', 0, limit))
  end
  local excess = keep.count > 0 and redis.call('ZCARD', set) - keep.count or 0
  if excess > 0 then erase_all(redis.call('ZRANGE', set, 0, math.min(excess, 1000) - 1)) end
end

local function write_end(q, id, how)
  local job = job_key(q, id)
  local field = how.to == 'completed' and 'returnvalue' or 'failedReason'
  redis.call('ZADD', q[how.to], how.now, id)
  redis.call('HSET', job, field, how.value, 'finishedOn', text(how.now))
  -- A certificate of an earlier attempt would explain the wrong end.
  redis.call('HDEL', job, 'sq_death', unpack(COUNTERS))
  if how.to == 'failed' then redis.call('HDEL', job, 'defa') end
  if how.death ~= '' then redis.call('HSET', job, 'sq_death', how.death) end
end

local function emit_end(q, id, how, made, attempts)
  if how.to == 'completed' then
    emit(q, 'event', 'completed', 'jobId', id, 'returnvalue', how.value, 'prev', how.prev)
    return
  end
  emit(q, 'event', 'failed', 'jobId', id, 'failedReason', how.value, 'prev', how.prev)
  if made >= attempts then emit(q, 'event', 'retries-exhausted', 'jobId', id, 'attemptsMade', text(made)) end
end

-- Per-minute counts: the figure of the minutes since the last one, then a zero for each minute in between.
local function count_metrics(q, to, points, now)
  local key = q.base .. 'metrics:' .. to
  local before = grow(key, 'count') - 1
  local last = redis.call('HMGET', key, 'prevTS', 'prevCount')
  if not last[1] then
    redis.call('HSET', key, 'prevTS', text(now), 'prevCount', '0')
    return
  end
  local minutes = math.min(math.floor(now / 60000) - math.floor(tonumber(last[1]) / 60000), points)
  if minutes <= 0 then return end
  redis.call('LPUSH', key .. ':data', text(before - (tonumber(last[2] or '') or 0)))
  for _ = 2, minutes do redis.call('LPUSH', key .. ':data', '0') end
  redis.call('LTRIM', key .. ':data', 0, points - 1)
  redis.call('HSET', key, 'prevCount', text(before), 'prevTS', text(now))
end

local function finish(q, id, facts, how)
  trim_events(q)
  if facts.deid then
    release_dedup(q, id, facts.deid)
    requeue_next(q, facts.deid, how.now)
  end
  local job = job_key(q, id)
  if facts.parent then
    if how.to == 'completed' then
      child_completed(facts.parent, job, how.value, how.now)
    else
      child_failed(facts.parent, job, how.value, how.now)
    end
  end
  local made = grow(job, 'atm')
  local keep = retention(q, facts, how)
  if keep.count == 0 then
    erase(q, id)
  else
    write_end(q, id, how)
    trim_finished(q, q[how.to], keep, how.now)
  end
  emit_end(q, id, how, made, tonumber(facts.opts.attempts) or 0)
  if how.points > 0 then count_metrics(q, how.to, how.points, how.now) end
end


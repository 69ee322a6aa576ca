-- Where a job goes whose attempt is over and which has not ended.
-- uses: queue event place cancel
--   refusal_of(q, s)      the word for an attempt that may not end as it wants to, or nil; s = {id, job, token, to, terminal}
--   write_attempt(s)      what the attempt leaves behind; s = {job, value, stacktrace, counts, death, spends, to}; value:
--                         the reason or ''
--   put_back(q, s, now)   s = {id, job, to, front, delay_ms}; to: 'wait' 'delayed' 'waiting-children'; front: '1' or nil

local function refusal_of(q, s)
  local pending = redis.call('SCARD', s.job .. ':dependencies') > 0
  local failed = redis.call('ZCARD', s.job .. ':unsuccessful') > 0
  if s.to == 'completed' and pending then return 'pending-children' end
  if (s.to == 'completed' or s.to == 'waiting-children') and failed then return 'failed-children' end
  if s.to == 'waiting-children' and not pending then return 'nothing-to-wait-for' end
  -- Whoever cancelled was told that the job was running: it must not run again because its attempt ended first.
  return not s.terminal and is_cancelled(q, s.id, s.token) and 'cancel-requested' or nil
end

local function write_attempt(s)
  if s.value ~= '' then redis.call('HSET', s.job, 'failedReason', s.value) end
  if s.stacktrace then redis.call('HSET', s.job, 'stacktrace', s.stacktrace) end
  if s.counts then grow(s.job, s.counts) end
  if s.death then redis.call('HSET', s.job, 'sq_death', s.death) end
  if s.spends and s.to ~= 'waiting-children' then grow(s.job, 'atm') end
end

local function to_wait(q, s, now)
  local priority = priority_of(q, s.id)
  if not s.front then promote_due(q, now) end -- they were due before this retry was
  put_waiting(q, s.id, priority, s.front ~= nil)
  emit_capped(q, 'event', 'waiting', 'jobId', s.id, 'prev', 'active')
  mark_base(q)
end

local function to_delayed(q, s, now)
  local due = now + tonumber(s.delay_ms or 0)
  redis.call('HSET', s.job, 'delay', s.delay_ms or '0')
  put_delayed(q, s.id, due)
  emit_capped(q, 'event', 'delayed', 'jobId', s.id, 'delay', text(due))
  mark_delayed(q)
end

local function to_children(q, s, now)
  redis.call('ZADD', q.waiting_children, now, s.id)
  emit(q, 'event', 'waiting-children', 'jobId', s.id, 'prev', 'active')
end

local function put_back(q, s, now)
  if s.to == 'wait' then return to_wait(q, s, now) end
  if s.to == 'delayed' then return to_delayed(q, s, now) end
  to_children(q, s, now)
end


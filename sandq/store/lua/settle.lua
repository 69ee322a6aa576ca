-- Writes what became of an attempt, all of it or nothing, and claims the next jobs if tokens are given.
-- keys: base slot
-- args: op id token to front spends counts result reason stacktrace delay_ms limit_ms death keep points
-- args: lock_ms worker limiter_max limiter_ms max_data tokens...
--       to: completed failed wait delayed waiting-children; front, spends: '1' or ''; '' is "none" for all others
-- uses: queue reply event place parent finish take holder cancel
-- replies: {word} or {word, claimed}: 'ok'; 'missing' (its hash is gone; the lock is given up); with nothing changed
--          'lost' 'not-active' 'pending-children' 'failed-children' 'nothing-to-wait-for' 'cancel-requested'

local q = queue_keys(base)
local job = job_key(q, id)
local now = now_ms()

local function refused()
  check_types(q)
  check_job_types(q, id)
  if not holds(q, id, token) then return 'lost' end
  if redis.call('EXISTS', job) == 0 then return nil end
  if not redis.call('LPOS', q.active, id) then return 'not-active' end
  local pending = redis.call('SCARD', job .. ':dependencies') > 0
  local failed = redis.call('ZCARD', job .. ':unsuccessful') > 0
  if to == 'completed' and pending then return 'pending-children' end
  if (to == 'completed' or to == 'waiting-children') and failed then return 'failed-children' end
  if to == 'waiting-children' and not pending then return 'nothing-to-wait-for' end
  -- Whoever cancelled was told that the job was running: it must not run again because its attempt ended first.
  if to ~= 'completed' and to ~= 'failed' and is_cancelled(q, id, token) then return 'cancel-requested' end
  return nil
end

local function write_attempt()
  if reason ~= '' then redis.call('HSET', job, 'failedReason', reason) end
  if stacktrace ~= '' then redis.call('HSET', job, 'stacktrace', stacktrace) end
  if counts ~= '' then grow(job, counts) end
  if death ~= '' then redis.call('HSET', job, 'sq_death', death) end
end

local function spend()
  if spends == '1' then grow(job, 'atm') end
end

local function to_wait()
  local priority = priority_of(q, id)
  if front ~= '1' then promote_due(q, now) end -- they were due before this retry was
  spend()
  put_waiting(q, id, priority, front == '1')
  emit_capped(q, 'event', 'waiting', 'jobId', id, 'prev', 'active')
  mark_base(q)
end

local function to_delayed()
  local due = now + tonumber(delay_ms)
  spend()
  redis.call('HSET', job, 'delay', delay_ms)
  put_delayed(q, id, due)
  emit_capped(q, 'event', 'delayed', 'jobId', id, 'delay', text(due))
  mark_delayed(q)
end

local function to_children()
  redis.call('ZADD', q.waiting_children, now, id)
  emit(q, 'event', 'waiting-children', 'jobId', id, 'prev', 'active')
end

local function to_end(facts)
  local value = to == 'completed' and result or reason
  finish(q, id, facts, {
    to = to, value = value, now = now, prev = 'active', keep = keep, points = tonumber(points), death = death,
  })
end

local function write(facts)
  give_up(q, id)
  forget_cancel(q, id)
  write_attempt()
  if limit_ms ~= '' then redis.call('SET', q.limiter, text(MANUAL_LIMIT), 'PX', limit_ms) end
  if facts then to_end(facts)
  elseif to == 'wait' then to_wait()
  elseif to == 'delayed' then to_delayed()
  else to_children()
  end
end

local function is_drained()
  return redis.call('LLEN', q.wait) == 0 and redis.call('LLEN', q.active) == 0
    and redis.call('ZCARD', q.prioritized) == 0
end

-- A next claim that found a job, a limit, a pause or a delayed job says that the queue has not run dry.
local function claim_next(ended)
  local tokens = arguments(tokens_from)
  local taken = {'empty', -1}
  if #tokens > 0 then taken = take(q, claim_rule(now, lock_ms, worker, limiter_max, limiter_ms), tokens) end
  local nothing = taken[1] == 'empty' and taken[2] == -1 and #taken == 2
  if ended and nothing and is_drained() then emit(q, 'event', 'drained') end
  return taken
end

local function show(settled)
  if #ARGV < tokens_from then return {settled[1]} end
  return {settled[1], show_taken(q, settled[2], tonumber(max_data))}
end

local settled = replay(slot, op)
if settled then return show(settled) end
local word = refused()
if word then return {word} end
if redis.call('EXISTS', job) == 0 then
  give_up(q, id)
  return show(remember(slot, op, {'missing', claim_next(true)}))
end
local terminal = to == 'completed' or to == 'failed'
local facts = terminal and read_finish(q, id) or nil
write(facts)
return show(remember(slot, op, {'ok', claim_next(terminal)}))

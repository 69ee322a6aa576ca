-- Where a job that is not running stands, and the markers that wake idle workers.
-- uses: queue event
--   is_blocked(q)                        paused, or as many active as meta.concurrency allows
--   mark_base(q)                         mark(q), unless blocked
--   mark_delayed(q)                      "the earliest delayed job is due then"
--   put_waiting(q, id, priority, front)  priority 0: the wait list (its tail is taken next: `front` is RPUSH);
--                                        above: prioritized, in order of arrival, or before all equals if `front`
--   put_delayed(q, id, due_ms)           the delayed zset, behind others due in the same millisecond
--   priority_of(q, id)                   a number, 0 when the job has none
--   until_due_ms(q, now)                 how long until the first delayed job is due; -1 when there is none
--   promote_due(q, now)                  moves at most 1000 due delayed jobs to waiting, also when blocked
-- The put_ functions write neither event nor marker nor the hash: that differs by cause.

local PRIORITY_STEP = 4294967296 -- 2^32 places within one priority
local TIES = 4096 -- places within one millisecond

local function is_blocked(q)
  local meta = meta_of(q)
  if meta.paused then return true end
  return meta.most ~= nil and redis.call('LLEN', q.active) >= meta.most
end

local function mark_base(q)
  if not q.marked and not is_blocked(q) then mark(q) end
end

local function mark_delayed(q)
  local first = redis.call('ZRANGE', q.delayed, 0, 0, 'WITHSCORES')
  if first[2] then redis.call('ZADD', q.marker, math.floor(tonumber(first[2]) / TIES), '1') end
end

local function put_waiting(q, id, priority, front)
  if priority > 0 then
    local place = 0
    if not front then place = redis.call('INCR', q.pc) % PRIORITY_STEP end
    redis.call('ZADD', q.prioritized, priority * PRIORITY_STEP + place, id)
  elseif front then
    redis.call('RPUSH', q.wait, id)
  else
    redis.call('LPUSH', q.wait, id)
  end
end

local function put_delayed(q, id, due_ms)
  local first, last = due_ms * TIES, (due_ms + 1) * TIES - 1
  local highest = redis.call('ZREVRANGEBYSCORE', q.delayed, last, first, 'WITHSCORES', 'LIMIT', 0, 1)
  local score = first
  if highest[2] then score = math.min(tonumber(highest[2]) + 1, last) end
  redis.call('ZADD', q.delayed, score, id)
end

local function priority_of(q, id)
  return tonumber(redis.call('HGET', job_key(q, id), 'priority') or '') or 0
end

local function promote_due(q, now)
  local due = redis.call('ZRANGEBYSCORE', q.delayed, 0, (now + 1) * TIES - 1, 'LIMIT', 0, 1000)
  for _, id in ipairs(due) do
    redis.call('ZREM', q.delayed, id)
    -- An id whose hash is gone is dropped here: writing `delay` would make a ghost of it.
    if is_job(q, id) then
      put_waiting(q, id, priority_of(q, id), false)
      emit(q, 'event', 'waiting', 'jobId', id, 'prev', 'delayed')
      redis.call('HSET', job_key(q, id), 'delay', '0')
    end
  end
  if #due > 0 then mark_base(q) end
  return #due
end

local function until_due_ms(q, now)
  local first = redis.call('ZRANGE', q.delayed, '0', '0', 'WITHSCORES')
  if not first[2] then return -1 end
  return math.max(0, math.floor(tonumber(first[2]) / TIES) - now)
end


-- Puts back jobs whose holder vanished: in active without a lock at two checks in a row. One check per interval.
-- keys: base slot
-- args: op every_ms most
-- uses: queue reply event place
-- replies: {again_in_ms, id...} the recovered ids

local REASON = 'job stalled more than allowable limit'

local q = queue_keys(base)

local function has_scheduler(job)
  local scheduler = redis.call('HGET', job, 'rjk')
  return scheduler and redis.call('ZSCORE', q.schedulers, scheduler)
end

-- True when the job was put back. Prioritized jobs too go to the tail of wait: they are late already.
local function recover(id)
  local job = job_key(q, id)
  if redis.call('EXISTS', job .. ':lock') == 1 or redis.call('LREM', q.active, 1, id) == 0 then return false end
  if not is_job(q, id) then return false end
  local count = grow(job, 'stc')
  if count > tonumber(most) and not has_scheduler(job) then redis.call('HSET', job, 'defa', REASON) end
  redis.call('RPUSH', q.wait, id)
  mark_base(q)
  emit(q, 'event', 'waiting', 'jobId', id, 'prev', 'active')
  emit(q, 'event', 'stalled', 'jobId', id)
  return true
end

local stored = replay(slot, op)
if stored then return stored end
check_types(q)
local pause_ms = redis.call('PTTL', q.stalled_check)
if pause_ms >= 0 then return {pause_ms} end

redis.call('SET', q.stalled_check, text(now_ms()), 'PX', every_ms)
trim_events(q)
local reply = {tonumber(every_ms)}
for _, id in ipairs(redis.call('SMEMBERS', q.stalled)) do
  if recover(id) then reply[#reply + 1] = id end
end
redis.call('DEL', q.stalled)
-- Everything active is a suspect until its holder renews.
for _, id in ipairs(redis.call('LRANGE', q.active, 0, -1)) do redis.call('SADD', q.stalled, id) end
return remember(slot, op, reply)

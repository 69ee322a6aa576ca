-- The rest of what is common: a clock in milliseconds, and the proof that no key has a foreign type.
-- uses: core
--   now_ms()                  clock() in milliseconds alone
--   check_types(q)            raises WRONGTYPE before anything was written, since scripts do not roll back
--   check_job_types(q, id)    the same for one job's keys
--   is_job(q, id)             there is a job hash under this id; an id without one is a ghost, to be dropped
--   grow(key, field)          field + 1, where HINCRBY would raise half way through a script on a foreign value
--   delete_job(q, id)         delete_jobs for one

local function now_ms()
  local _, now = clock()
  return now
end

local function check_types(q)
  for _, list in ipairs({q.wait, q.active}) do redis.call('LLEN', list) end
  for _, zset in ipairs({
    q.prioritized, q.delayed, q.waiting_children, q.completed, q.failed, q.marker, q.schedulers,
  }) do
    redis.call('ZCARD', zset)
  end
  for _, number in ipairs({q.id, q.pc, q.limiter, q.stalled_check}) do redis.call('STRLEN', number) end
  redis.call('HLEN', q.meta)
  redis.call('HLEN', q.cancels)
  redis.call('XLEN', q.events)
  redis.call('SCARD', q.stalled)
end

local function check_job_types(q, id)
  local job = job_key(q, id)
  redis.call('HLEN', job)
  redis.call('STRLEN', job .. ':lock')
  redis.call('LLEN', job .. ':logs')
  redis.call('SCARD', job .. ':dependencies')
  redis.call('HLEN', job .. ':processed')
  redis.call('HLEN', job .. ':failed')
  redis.call('ZCARD', job .. ':unsuccessful')
end

local function is_job(q, id)
  return redis.call('TYPE', job_key(q, id)).ok == 'hash'
end

local function grow(key, field)
  local grown = (tonumber(redis.call('HGET', key, field) or '') or 0) + 1
  redis.call('HSET', key, field, text(grown))
  return grown
end

local function delete_job(q, id)
  delete_jobs(q, {id})
end


-- The names of a queue's keys, its clock, and the proof that no key has a foreign type.
--   queue_keys(base) -> q     every structural key by name; `base` ends with a colon
--   job_key(q, id)            the job's hash; beside it :lock :logs :dependencies :processed :failed :unsuccessful
--   text(n)                   a whole number in decimal: Lua itself would keep only 14 digits
--   now_ms(), now_us()        Redis TIME, the only clock for what is stored
--   decode(json)              a table; {} when the text is absent, malformed or not an object
--   check_types(q)            raises WRONGTYPE before anything was written, since scripts do not roll back
--   check_job_types(q, id)    the same for one job's keys
--   is_job(q, id)             there is a job hash under this id; an id without one is a ghost, to be dropped
--   grow(key, field)          field + 1, where HINCRBY would raise half way through a script on a foreign value
--   delete_job(q, id)         all keys of a job but its lock; its place in lists is the caller's

local function queue_keys(base)
  return {
    base = base,
    wait = base .. 'wait',
    active = base .. 'active',
    prioritized = base .. 'prioritized',
    delayed = base .. 'delayed',
    waiting_children = base .. 'waiting-children',
    completed = base .. 'completed',
    failed = base .. 'failed',
    paused = base .. 'paused',
    id = base .. 'id',
    pc = base .. 'pc',
    meta = base .. 'meta',
    marker = base .. 'marker',
    events = base .. 'events',
    limiter = base .. 'limiter',
    stalled = base .. 'stalled',
    stalled_check = base .. 'stalled-check',
    schedulers = base .. 'repeat',
    cancels = base .. 'sq:cancels',
    supervisors = base .. 'sq:supervisors',
  }
end

local function job_key(q, id)
  return q.base .. id
end

local function text(n)
  return string.format('%.0f', n)
end

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

local function decode(json)
  if not json then return {} end
  local readable, value = pcall(cjson.decode, json)
  if readable and type(value) == 'table' then return value end
  return {}
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
  local job = job_key(q, id)
  redis.call('DEL', job, job .. ':logs', job .. ':dependencies', job .. ':processed', job .. ':failed',
    job .. ':unsuccessful')
end


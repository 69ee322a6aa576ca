-- What every script about jobs needs: the names of a queue's keys, its clock, what its meta says.
--   queue_keys(base) -> q     every structural key by name; `base` ends with a colon
--   job_key(q, id)            the job's hash; beside it :lock :logs :dependencies :processed :failed :unsuccessful
--   text(n)                   a whole number in decimal: Lua itself would keep only 14 digits
--   clock() -> us, ms         Redis TIME, the only clock for what is stored: microseconds as text (a number would have
--                             to be printed), milliseconds as a number
--   meta_of(q)                what the queue's meta says, read once in a script: {paused, most, max, duration, version,
--                             events_limit}; `most` and the limiter's are numbers or nil, the other two are text
--   decode(json)              a table; {} when the text is absent, malformed or not an object
--   delete_jobs(q, ids)       all keys of some hundred jobs at most, but their locks; their place is the caller's

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
  }
end

local function job_key(q, id)
  return q.base .. id
end

local shown, shown_as = 0, '0'

local function text(n)
  if n ~= shown then shown, shown_as = n, string.format('%.0f', n) end -- it is mostly the same time, over and over
  return shown_as
end

local function clock()
  local time = redis.call('TIME')
  local us = time[1] .. string.sub('00000' .. time[2], -6)
  shown_as = string.sub(us, 1, -4)
  shown = tonumber(shown_as)
  return us, shown
end

local function meta_of(q)
  if not q.meta_says then
    local fields = redis.call(
      'HMGET', q.meta, 'paused', 'concurrency', 'max', 'duration', 'version', 'opts.maxLenEvents'
    )
    q.meta_says = {
      paused = fields[1] ~= false, most = tonumber(fields[2] or ''), max = tonumber(fields[3] or ''),
      duration = tonumber(fields[4] or ''), version = fields[5] or '', events_limit = fields[6] or '',
    }
  end
  return q.meta_says
end

local function decode(json)
  if not json then return {} end
  local readable, value = pcall(cjson.decode, json)
  if readable and type(value) == 'table' then return value end
  return {}
end

local function delete_jobs(q, ids)
  local keys = {}
  for _, id in ipairs(ids) do
    local job, n = job_key(q, id), #keys
    keys[n + 1], keys[n + 2], keys[n + 3] = job, job .. ':logs', job .. ':dependencies'
    keys[n + 4], keys[n + 5], keys[n + 6] = job .. ':processed', job .. ':failed', job .. ':unsuccessful'
  end
  redis.call('DEL', unpack(keys))
end


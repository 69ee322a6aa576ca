-- Adds jobs in their order; each is answered for itself.
-- keys: base slot
-- args: op version jobs...
-- uses: queue reply event create dedup attach
-- replies: {now, word, id, word, id, ...} with the words added, duplicated, deduplicated, missing-parent, other-parent
-- A job is eleven arguments, '' for what it does not have:
--   id name data opts timestamp delay priority lifo parent_key parent deduplication

local WIDTH = 11

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
local now = now_ms()
local parents = {}

local function parent_at(key, json)
  if not key then return nil end
  local named = decode(json)
  if not parents[key] then
    parents[key] = {q = queue_keys(named.queueKey .. ':'), id = named.id, key = key}
    check_parent_types(parents[key])
  end
  return parents[key]
end

local function read_job(at)
  local function given(n)
    local value = ARGV[at + n]
    if value ~= '' then return value end
    return nil
  end
  local job = {
    id = given(0), name = ARGV[at + 1], data = ARGV[at + 2], opts = ARGV[at + 3], timestamp = tonumber(given(4) or now),
    delay = tonumber(ARGV[at + 5]), priority = tonumber(ARGV[at + 6]), lifo = ARGV[at + 7] == '1',
    parent_json = given(9), parent = parent_at(given(8), given(9)), rule = given(10) and decode(given(10)),
  }
  if job.id then check_job_types(q, job.id) end
  if job.rule then
    redis.call('STRLEN', dedup_key(q, job.rule.id))
    redis.call('HLEN', next_key(q, job.rule.id))
  end
  return job
end

-- Every add moves the counter, also one with an id of its own.
local function draw_id(wanted)
  local id = text(redis.call('INCR', q.id))
  if wanted then return wanted end
  -- A counter that was lost starts at 1 again; no job that is there may be overwritten.
  while redis.call('EXISTS', job_key(q, id)) == 1 do id = text(redis.call('INCR', q.id)) end
  return id
end

local function spec_of(job, id)
  return {
    id = id, name = job.name, data = job.data, opts = job.opts, timestamp = job.timestamp,
    delay = job.delay, priority = job.priority, lifo = job.lifo, deid = job.rule and job.rule.id,
    parent_key = job.parent and job.parent.key, parent = job.parent_json,
    dependencies_key = job.parent and job.parent.key .. ':dependencies',
  }
end

local function add_one(job)
  if job.parent and redis.call('EXISTS', job.parent.key) == 0 then return 'missing-parent', '' end
  local id = draw_id(job.id)
  redis.call('HSETNX', q.meta, 'version', version)
  if redis.call('EXISTS', job_key(q, id)) == 1 then
    local word = job.parent and attach(q, id, job.parent, job.parent_json, now) or 'duplicated'
    if word == 'duplicated' then emit_capped(q, 'event', 'duplicated', 'jobId', id) end
    return word, id
  end
  local spec = spec_of(job, id)
  local owner = job.rule and check_dedup(q, job.rule, spec)
  if owner then return 'deduplicated', owner end
  create_job(q, spec)
  return 'added', id
end

-- All are read, and their keys' types with them, before the first is written.
local jobs = {}
for at = jobs_from, #ARGV, WIDTH do jobs[#jobs + 1] = read_job(at) end

local reply = {text(now)}
for _, job in ipairs(jobs) do
  local word, id = add_one(job)
  reply[#reply + 1] = word
  reply[#reply + 1] = id
end
return remember(slot, op, reply)

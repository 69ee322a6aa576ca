-- A job as a producer sends it, and its way into the queue. It is eleven arguments, '' for what it does not have:
--   id name data opts timestamp delay priority lifo parent_key parent deduplication
-- uses: core event create dedup attach
--   read_new(q, at, now) -> job            from ARGV[at] on; reads, and checks the types of all keys it may come to write
--                                          beyond the queue's own
--   add_new(q, job, version, now) -> word, id
--     words: added, duplicated (its id is there already), deduplicated, missing-parent, other-parent
--     `job.waits`: for children that are yet to come; `job.later`: what an ended duplicate means for its parent is
--     the caller's to tell, with child_ended

local NEW_WIDTH = 11
local new_parents = {}

local function parent_at(key, json)
  if not key then return nil end
  local named = decode(json)
  if not new_parents[key] then
    new_parents[key] = {q = queue_keys(named.queueKey .. ':'), id = named.id, key = key}
    check_parent_types(new_parents[key])
  end
  return new_parents[key]
end

local function read_new(q, at, now)
  local id, name, data, opts, timestamp, delay, priority, lifo, parent_key, parent, rule = unpack(ARGV, at, at + 10)
  local job = {
    id = id ~= '' and id or nil, name = name, data = data, opts = opts, timestamp = tonumber(timestamp) or now,
    delay = tonumber(delay), priority = tonumber(priority), lifo = lifo == '1',
    parent_json = parent ~= '' and parent or nil, parent = parent_key ~= '' and parent_at(parent_key, parent) or nil,
    rule = rule ~= '' and decode(rule) or nil,
  }
  if job.id and job.parent then
    check_job_types(q, job.id)
  elseif job.id then
    redis.call('HLEN', job_key(q, job.id))
  end
  if job.rule then
    redis.call('STRLEN', dedup_key(q, job.rule.id))
    redis.call('HLEN', next_key(q, job.rule.id))
  end
  return job
end

-- An id, and whether it is there. Every add moves the counter, also one with an id of its own.
local function draw_id(q, wanted)
  local id = text(redis.call('INCR', q.id))
  if wanted then return wanted, redis.call('EXISTS', job_key(q, wanted)) == 1 end
  -- A counter that was lost starts at 1 again; no job that is there may be overwritten.
  while redis.call('EXISTS', job_key(q, id)) == 1 do id = text(redis.call('INCR', q.id)) end
  return id, false
end

local function write_version(q, version)
  if meta_of(q).version ~= '' then return end
  redis.call('HSETNX', q.meta, 'version', version)
  q.meta_says.version = version
end

local function spec_of(job, id)
  return {
    id = id, name = job.name, data = job.data, opts = job.opts, timestamp = job.timestamp,
    delay = job.delay, priority = job.priority, lifo = job.lifo, deid = job.rule and job.rule.id, waits = job.waits,
    parent_key = job.parent and job.parent.key, parent = job.parent_json,
    dependencies_key = job.parent and job.parent.key .. ':dependencies',
  }
end

local function add_again(q, job, id, now)
  if job.parent then
    if other_parent(q, id, job.parent) then return 'other-parent', id end
    attach(q, id, job.parent, job.parent_json)
    if not job.later then child_ended(q, id, now) end
  end
  emit_capped(q, 'event', 'duplicated', 'jobId', id)
  return 'duplicated', id
end

local function add_new(q, job, version, now)
  if job.parent and redis.call('EXISTS', job.parent.key) == 0 then return 'missing-parent', '' end
  local id, is_there = draw_id(q, job.id)
  write_version(q, version)
  if is_there then return add_again(q, job, id, now) end
  local spec = spec_of(job, id)
  local owner = job.rule and check_dedup(q, job.rule, spec)
  if owner then return 'deduplicated', owner end
  create_job(q, spec)
  return 'added', id
end

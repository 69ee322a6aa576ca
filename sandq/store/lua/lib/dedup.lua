-- Deduplication windows: `de:<id>` names the job that owns the window, `dn:<id>` the job to create when the owner ends.
-- uses: queue event place create
--   check_dedup(q, rule, spec) -> id | nil   for an add whose candidate id is already drawn: the id to answer instead,
--                                            or nil when the job is to be created (and now owns the window);
--                                            rule: id ttl extend replace reschedule keepLastIfActive, as in opts.de
--   release_dedup(q, id, deid)               the owner ended: its window closes unless a running ttl says otherwise
--   requeue_next(q, deid, now)               creates the job that keepLastIfActive stored, if any
--   drop_dedup(q, id, deid)                  the job is being removed: window and stored next job go with it

local function dedup_key(q, deid) return q.base .. 'de:' .. deid end

local function next_key(q, deid) return q.base .. 'dn:' .. deid end

local function ttl_of(rule)
  local ttl = tonumber(rule.ttl) or 0
  if rule.keepLastIfActive == true or ttl <= 0 then return nil end
  return text(ttl)
end

local function own_window(q, rule, id)
  local ttl = ttl_of(rule)
  if ttl then
    redis.call('SET', dedup_key(q, rule.id), id, 'PX', ttl)
  else
    redis.call('SET', dedup_key(q, rule.id), id)
  end
end

local function emit_deduplicated(q, deid, id, other)
  emit_capped(q, 'event', 'deduplicated', 'jobId', id, 'deduplicationId', deid, 'deduplicatedJobId', other)
end

local function store_next(q, rule, spec)
  local key = next_key(q, rule.id)
  redis.call('DEL', key)
  redis.call('HSET', key, 'name', spec.name, 'data', spec.data, 'opts', spec.opts, 'jid', spec.id)
  for field, value in pairs({pk = spec.parent_key, pd = spec.parent, pdk = spec.dependencies_key, rjk = spec.rjk}) do
    redis.call('HSET', key, field, value)
  end
  redis.call('PERSIST', dedup_key(q, rule.id))
end

-- Takes the owner's place if the owner is still delayed; the new job is then created by the caller.
local function replace_owner(q, rule, owner, spec)
  if redis.call('ZREM', q.delayed, owner) == 0 then return false end
  delete_job(q, owner)
  emit(q, 'event', 'removed', 'jobId', owner, 'prev', 'delayed')
  emit_deduplicated(q, rule.id, spec.id, owner)
  redis.call('DEL', next_key(q, rule.id))
  if ttl_of(rule) and not rule.extend then
    redis.call('SET', dedup_key(q, rule.id), spec.id, 'KEEPTTL')
  else
    own_window(q, rule, spec.id)
  end
  return true
end

local function reschedule_owner(q, owner, spec)
  if not redis.call('ZSCORE', q.delayed, owner) then return end
  local delay = math.max(spec.delay or 0, 0)
  local due = spec.timestamp + delay
  redis.call('ZREM', q.delayed, owner)
  redis.call('HSET', job_key(q, owner), 'delay', text(delay))
  put_delayed(q, owner, due)
  emit_capped(q, 'event', 'delayed', 'jobId', owner, 'delay', text(due))
  mark_delayed(q)
end

local function check_dedup(q, rule, spec)
  local key = dedup_key(q, rule.id)
  local owner = redis.call('GET', key)
  -- A window without ttl whose owner is gone would swallow every later job: it is taken over.
  if owner and redis.call('PTTL', key) == -1 and redis.call('EXISTS', job_key(q, owner)) == 0 then
    redis.call('DEL', key, next_key(q, rule.id))
    owner = nil
  end
  if not owner then
    own_window(q, rule, spec.id)
    return nil
  end
  if rule.keepLastIfActive == true and redis.call('LPOS', q.active, owner) then
    store_next(q, rule, spec)
    emit_deduplicated(q, rule.id, owner, spec.id)
    return owner
  end
  if rule.replace == true then
    if replace_owner(q, rule, owner, spec) then return nil end
    return owner
  end
  if rule.extend == true and ttl_of(rule) then own_window(q, rule, owner) end
  emit_deduplicated(q, rule.id, owner, spec.id)
  if rule.reschedule == true then reschedule_owner(q, owner, spec) end
  return owner
end

local function release_dedup(q, id, deid)
  local key = dedup_key(q, deid)
  local ttl = redis.call('PTTL', key)
  if ttl == 0 or (ttl == -1 and redis.call('GET', key) == id) then redis.call('DEL', key) end
end

local function requeue_next(q, deid, now)
  local stored = redis.call('HMGET', next_key(q, deid), 'jid', 'name', 'data', 'opts', 'pk', 'pd', 'pdk', 'rjk')
  local id = stored[1]
  if not id then return end
  redis.call('DEL', next_key(q, deid))
  redis.call('INCR', q.id)
  if redis.call('EXISTS', job_key(q, id)) == 1 then return end -- never overwrite a job that is there
  local opts = decode(stored[4])
  local rule = {id = deid}
  if type(opts.de) == 'table' then
    rule = {id = deid, ttl = opts.de.ttl, keepLastIfActive = opts.de.keepLastIfActive}
  end
  own_window(q, rule, id)
  create_job(q, {
    id = id, name = stored[2] or '', data = stored[3] or '{}', opts = stored[4] or '{}', timestamp = now,
    delay = tonumber(opts.delay) or 0, priority = tonumber(opts.priority) or 0, lifo = opts.lifo == true,
    parent_key = stored[5] or nil, parent = stored[6] or nil, dependencies_key = stored[7] or nil,
    rjk = stored[8] or nil, deid = deid,
  })
end

local function drop_dedup(q, id, deid)
  if redis.call('GET', dedup_key(q, deid)) ~= id then return end
  redis.call('DEL', dedup_key(q, deid), next_key(q, deid))
end


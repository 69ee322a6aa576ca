-- What a child's end means for its parent, which may be in another queue and may itself be a child.
-- uses: queue event place
--   parent_of(q, id) -> parent | nil     {q, id, key, fpof, cpof, idof, rdof}; reads only
--   parent_from(key, json) -> parent | nil   the same from the hash's fields parentKey and parent, false for none
--   check_parent_types(parent)           raises WRONGTYPE before anything was written
--   release_parent(parent, now)          waiting-children -> where its delay or priority puts it, else next in line
--   child_completed(parent, child_key, value, now)
--   child_failed(parent, child_key, reason, now)
--   detach_child(parent, child_key)      the child is being deleted: if it was the last one pending, the parent goes on

-- Job keys hold an id with colons only for schedulers and three-part ids, so the parent's JSON is asked before the key.
local function parent_from(key, json)
  if not key and not json then return nil end
  local flags = decode(json)
  local base, parent_id
  if type(flags.queueKey) == 'string' and type(flags.id) == 'string' then
    base, parent_id = flags.queueKey .. ':', flags.id
  elseif key then
    base, parent_id = string.match(key, '^(.*:)([^:]*)$')
  end
  if not base then return nil end
  return {
    q = queue_keys(base), id = parent_id, key = base .. parent_id,
    fpof = flags.fpof == true, cpof = flags.cpof == true, idof = flags.idof == true, rdof = flags.rdof == true,
  }
end

local function parent_of(q, id)
  local fields = redis.call('HMGET', job_key(q, id), 'parentKey', 'parent')
  return parent_from(fields[1], fields[2])
end

local function check_parent_types(parent)
  check_types(parent.q)
  check_job_types(parent.q, parent.id)
end

-- Whatever it is taken from, listeners are told `waiting-children`, as BullMQ tells them.
local function parent_place(parent, now)
  local q, id = parent.q, parent.id
  local delay = tonumber(redis.call('HGET', parent.key, 'delay') or '') or 0
  if delay > 0 then
    -- No search for a tie here: BullMQ gives a released parent the first place of its millisecond.
    redis.call('ZADD', q.delayed, (now + delay) * TIES, id)
    emit(q, 'event', 'delayed', 'jobId', id, 'delay', text(now + delay))
    mark_delayed(q)
    return
  end
  local priority = priority_of(q, id)
  put_waiting(q, id, priority, priority == 0)
  emit(q, 'event', 'waiting', 'jobId', id, 'prev', 'waiting-children')
  mark_base(q)
end

local function release_parent(parent, now)
  if redis.call('EXISTS', parent.key) == 0 then return end
  if redis.call('ZREM', parent.q.waiting_children, parent.id) == 0 then return end
  parent_place(parent, now)
end

local function release_if_last(parent, now)
  if redis.call('SCARD', parent.key .. ':dependencies') == 0 then release_parent(parent, now) end
end

local function child_completed(parent, child_key, value, now)
  if redis.call('SREM', parent.key .. ':dependencies', child_key) == 0 then return end
  if redis.call('EXISTS', parent.key) == 0 then return end
  redis.call('HSET', parent.key .. ':processed', child_key, value)
  release_if_last(parent, now)
end

local function fail_parent(parent, child_key, now)
  redis.call('ZADD', parent.key .. ':unsuccessful', now, child_key)
  if redis.call('ZSCORE', parent.q.failed, parent.id) then return end
  redis.call('HSET', parent.key, 'defa', 'child ' .. child_key .. ' failed')
  if redis.call('ZREM', parent.q.delayed, parent.id) == 1 then
    redis.call('HSET', parent.key, 'delay', '0')
    parent_place(parent, now)
  else
    release_parent(parent, now)
  end
end

local function child_failed(parent, child_key, reason, now)
  if not (parent.fpof or parent.cpof or parent.idof or parent.rdof) then return end
  if redis.call('SREM', parent.key .. ':dependencies', child_key) == 0 then return end
  if redis.call('EXISTS', parent.key) == 0 then return end
  if parent.fpof then
    fail_parent(parent, child_key, now)
  elseif parent.cpof then
    redis.call('HSET', parent.key .. ':failed', child_key, reason)
    release_parent(parent, now)
  else
    if parent.idof then redis.call('HSET', parent.key .. ':failed', child_key, reason) end
    release_if_last(parent, now)
  end
end

-- BullMQ would let a parent with a priority or a delay of its own run next all the same.
local function detach_child(parent, child_key)
  if redis.call('SREM', parent.key .. ':dependencies', child_key) == 0 then return end
  release_if_last(parent, now_ms())
end

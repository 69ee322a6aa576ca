-- A job that is there already becomes the child of a further parent: somebody added its id again (wire-format 3.5).
-- uses: queue event place parent
--   attach(q, id, parent, parent_json, now) -> word   'duplicated' | 'other-parent'

local function is_taken(q, id, parent)
  local known = redis.call('HGET', job_key(q, id), 'parentKey')
  return known and known ~= parent.key and redis.call('EXISTS', known) == 1
end

local function attach(q, id, parent, parent_json, now)
  local job = job_key(q, id)
  if is_taken(q, id, parent) then return 'other-parent' end
  if redis.call('ZSCORE', q.completed, id) then
    -- It ended before its parent asked: the answer is there at once.
    redis.call('HSET', parent.key .. ':processed', job, redis.call('HGET', job, 'returnvalue') or 'null')
    release_if_last(parent, now)
  else
    redis.call('SADD', parent.key .. ':dependencies', job)
  end
  redis.call('HSET', job, 'parentKey', parent.key, 'parent', parent_json)
  return 'duplicated'
end

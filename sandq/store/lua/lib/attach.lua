-- A job that is there already becomes the child of a further parent: somebody added its id again (wire-format 3.5).
-- uses: queue event place parent
--   other_parent(q, id, parent) -> key | nil   a parent that lives and is not this one: it keeps the job
--   attach(q, id, parent, parent_json)         the parent waits for the job, ended or not
--   child_ended(q, id, now)                    if the attached job has ended already, its parent hears of it now

local function other_parent(q, id, parent)
  local known = redis.call('HGET', job_key(q, id), 'parentKey')
  return known and known ~= parent.key and redis.call('EXISTS', known) == 1 and known or nil
end

local function attach(q, id, parent, parent_json)
  local job = job_key(q, id)
  redis.call('HSET', job, 'parentKey', parent.key, 'parent', parent_json)
  redis.call('SADD', parent.key .. ':dependencies', job)
end

-- BullMQ looks at completed jobs only; a parent would then wait for ever for a job that failed before it asked,
-- whatever its rule for failures says.
local function child_ended(q, id, now)
  local job, parent = job_key(q, id), parent_of(q, id)
  if redis.call('ZSCORE', q.completed, id) then
    child_completed(parent, job, redis.call('HGET', job, 'returnvalue') or 'null', now)
  elseif redis.call('ZSCORE', q.failed, id) then
    child_failed(parent, job, redis.call('HGET', job, 'failedReason') or '', now)
  end
end

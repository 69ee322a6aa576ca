-- Many jobs are deleted at once, silently: BullMQ has no event for each of them.
-- uses: queue event place parent dedup cancel state
--   check_discard(q, ids)                raises WRONGTYPE before anything was written
--   discard(q, id, takes_parent) -> n    all that belongs to the job; its own place is the caller's to clear
--       The parent that waited for this child alone goes on, as if the child had been removed by hand; with
--       `takes_parent` one in the same queue is discarded as well: released, it would be among those to be deleted.
--       n: how many jobs that were

local function check_discard(q, ids)
  local checked = {}
  for _, id in ipairs(ids) do
    check_job_types(q, id)
    local parent = parent_of(q, id)
    if parent and not checked[parent.key] then
      checked[parent.key] = true
      check_parent_types(parent)
    end
    local deid = redis.call('HGET', job_key(q, id), 'deid')
    if deid then
      redis.call('STRLEN', dedup_key(q, deid))
      redis.call('HLEN', next_key(q, deid))
    end
  end
end

local function waits_only_for(parent, child_key)
  local pending = parent.key .. ':dependencies'
  return redis.call('SISMEMBER', pending, child_key) == 1 and redis.call('SCARD', pending) == 1
    and redis.call('ZSCORE', parent.q.waiting_children, parent.id)
end

local function discard_one(q, id)
  redis.call('SREM', q.stalled, id)
  forget_cancel(q, id)
  local deid = redis.call('HGET', job_key(q, id), 'deid')
  if deid then drop_dedup(q, id, deid) end
  delete_job(q, id)
end

local function discard(q, id, takes_parent)
  local count = 0
  while id do
    local key, parent, next_up = job_key(q, id), parent_of(q, id), nil
    if parent then
      if takes_parent and parent.q.base == q.base and waits_only_for(parent, key) then
        redis.call('ZREM', q.waiting_children, parent.id)
        next_up = parent.id
      else
        detach_child(parent, key)
      end
    end
    if redis.call('EXISTS', key) == 1 then count = count + 1 end
    discard_one(q, id)
    id = next_up
  end
  return count
end


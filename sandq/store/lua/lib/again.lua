-- A finished job runs again: fresh as far as sandq counts, with its attempts still counted, as BullMQ does.
-- uses: queue event place parent
--   run_again(q, id, from)   `from` is 'completed' or 'failed', and the id is in it; its hash exists
--   check_again_types(q, id) raises WRONGTYPE before anything was written

-- sq_fence is not among them: it may only grow.
local OURS = {'sq_crashes', 'sq_interruptions', 'sq_unknown', 'sq_death'}

-- The parent waits for this child again, unless the child's failure left no trace there.
local function wait_again(q, id)
  local parent = parent_of(q, id)
  if not parent or redis.call('EXISTS', parent.key) == 0 then return end
  local child = job_key(q, id)
  local traces = redis.call('ZREM', parent.key .. ':unsuccessful', child)
    + redis.call('HDEL', parent.key .. ':failed', child)
    + redis.call('HDEL', parent.key .. ':processed', child)
  if traces > 0 then redis.call('SADD', parent.key .. ':dependencies', child) end
end

local function run_again(q, id, from)
  local job = job_key(q, id)
  local ending = from == 'failed' and 'failedReason' or 'returnvalue'
  local opts = decode(redis.call('HGET', job, 'opts'))
  local priority = priority_of(q, id)
  -- Into its new place first: of all writes here it is the one that Redis refuses when it is out of memory.
  put_waiting(q, id, priority, opts.lifo == true and priority == 0)
  redis.call('ZREM', q[from], id)
  redis.call('HDEL', job, 'finishedOn', 'processedOn', ending, unpack(OURS))
  wait_again(q, id)
  emit_capped(q, 'event', 'waiting', 'jobId', id, 'prev', from)
end

local function check_again_types(q, id)
  check_job_types(q, id)
  local parent = parent_of(q, id)
  if parent then check_parent_types(parent) end
end

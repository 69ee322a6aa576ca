-- A new job: its hash, its place and their events, in BullMQ's order. Ids, counters and duplicates are the caller's.
-- uses: queue event place
--   create_job(q, spec)   spec = {id, name, data, opts (JSON text), timestamp, delay, priority, lifo,
--                         parent_key, parent (JSON text), dependencies_key, deid, rjk, waits (for children)}
--                         numbers are numbers, absent members are nil

local function number(n)
  return n and n ~= 0 and text(n) or '0'
end

local function write_hash(q, spec)
  local fields = {
    'name', spec.name, 'data', spec.data, 'opts', spec.opts,
    'timestamp', text(spec.timestamp), 'delay', number(spec.delay), 'priority', number(spec.priority),
  }
  local n = #fields
  for name, value in pairs({parentKey = spec.parent_key, parent = spec.parent, deid = spec.deid, rjk = spec.rjk}) do
    fields[n + 1], fields[n + 2] = name, value
    n = n + 2
  end
  redis.call('HSET', job_key(q, spec.id), unpack(fields))
end

local function create_job(q, spec)
  local delay, priority = spec.delay or 0, spec.priority or 0
  write_hash(q, spec)
  emit(q, 'event', 'added', 'jobId', spec.id, 'name', spec.name)
  if spec.waits then
    redis.call('ZADD', q.waiting_children, spec.timestamp, spec.id)
    emit_capped(q, 'event', 'waiting-children', 'jobId', spec.id)
  elseif delay > 0 then
    local due = spec.timestamp + delay
    put_delayed(q, spec.id, due)
    emit_capped(q, 'event', 'delayed', 'jobId', spec.id, 'delay', text(due))
    mark_delayed(q)
  else
    put_waiting(q, spec.id, priority, spec.lifo and priority == 0)
    emit_capped(q, 'event', 'waiting', 'jobId', spec.id)
    mark_base(q)
  end
  if spec.dependencies_key then redis.call('SADD', spec.dependencies_key, job_key(q, spec.id)) end
end


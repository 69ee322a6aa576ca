-- Adds jobs in their order; each is answered for itself.
-- keys: base slot
-- args: op version jobs...
-- uses: core reply newjob
-- seldom: queue parent dedup attach
-- replies: {now, word, id, word, id, ...} with the words added, duplicated, deduplicated, missing-parent, other-parent

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
local _, now = clock()

-- All are read, and their keys' types with them, before the first is written.
local jobs, delayed, prioritized, related = {}, false, false, false
for at = jobs_from, #ARGV, NEW_WIDTH do
  local job = read_new(q, at, now)
  jobs[#jobs + 1] = job
  delayed, prioritized = delayed or job.delay > 0, prioritized or job.priority > 0
  related = related or job.parent or job.rule
end

-- The first write is INCR of q.id, which checks that for itself.
local function check_simple()
  meta_of(q)
  redis.call('LLEN', q.wait)
  redis.call('LLEN', q.active)
  redis.call('XLEN', q.events)
  q.marked = redis.call('ZSCORE', q.marker, '0') == '0'
  if delayed then redis.call('ZCARD', q.delayed) end
  if prioritized then
    redis.call('ZCARD', q.prioritized)
    redis.call('STRLEN', q.pc)
  end
end

if related then
  check_types(q)
else
  check_simple()
end

local reply = {text(now)}
for _, job in ipairs(jobs) do
  local word, id = add_new(q, job, version, now)
  reply[#reply + 1] = word
  reply[#reply + 1] = id
end
return remember(slot, op, reply)

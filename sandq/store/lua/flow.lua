-- Adds whole flows, parents before their children: all of them, or nothing when one job is refused.
-- keys: base slot
-- args: op version nodes...
-- uses: queue reply event parent newjob
-- replies: {now, word, id, word, id, ...} with the words added, duplicated, deduplicated;
--          {word, n}: refused, nothing was written; missing-parent, other-parent, and the n-th node is why
-- A node is thirteen arguments: the base of its queue, the eleven of lib/newjob, '1' if it has children.

local WIDTH = NEW_WIDTH + 2

local stored = replay(slot, op)
if stored then return stored end
local now = now_ms()

local queues = {}

local function queue_at(of_base)
  if not queues[of_base] then
    queues[of_base] = queue_keys(of_base)
    check_types(queues[of_base])
  end
  return queues[of_base]
end

local function read_node(at)
  local q = queue_at(ARGV[at])
  local job = read_new(q, at + 1, now)
  job.waits, job.later = ARGV[at + WIDTH - 1] == '1', true
  return {q = q, job = job, key = job_key(q, job.id)}
end

local nodes, here = {}, {}
for at = nodes_from, #ARGV, WIDTH do
  local node = read_node(at)
  nodes[#nodes + 1] = node
  here[node.key] = node
end

local function refusal(node)
  local parent = node.job.parent
  if not parent then return nil end
  if not here[parent.key] and redis.call('EXISTS', parent.key) == 0 then return 'missing-parent' end
  -- A parent that is gone keeps no child, unless this very flow brings it back.
  local known = redis.call('HGET', node.key, 'parentKey')
  if known and known ~= parent.key and here[known] then return 'other-parent' end
  return other_parent(node.q, node.job.id, parent) and 'other-parent' or nil
end

for n, node in ipairs(nodes) do
  local word = refusal(node)
  if word then return {word, n} end
end

-- A parent that was there already may be done with a child, which may be gone since: it must not get it a second time.
local function has_passed(node)
  local above = node.job.parent and here[node.job.parent.key]
  if not above or above.word ~= 'duplicated' then return false end
  return above.passed
    or not redis.call('ZSCORE', above.q.waiting_children, above.job.id)
    or redis.call('HEXISTS', above.key .. ':processed', node.key) == 1
    or redis.call('HEXISTS', above.key .. ':failed', node.key) == 1
end

local function add_node(node)
  node.passed = has_passed(node)
  if node.passed then
    redis.call('INCR', node.q.id) -- as every add does
    emit_capped(node.q, 'event', 'duplicated', 'jobId', node.job.id)
    return 'duplicated', node.job.id
  end
  return add_new(node.q, node.job, version, now)
end

local reply = {text(now)}
for _, node in ipairs(nodes) do
  local word, id = add_node(node)
  node.word, node.attached = word, word == 'duplicated' and not node.passed and node.job.parent
  reply[#reply + 1] = word
  reply[#reply + 1] = id
end
-- Not before all children are there: a parent would go on without those that come after one that has ended.
for _, node in ipairs(nodes) do
  if node.attached then child_ended(node.q, node.job.id, now) end
end
return remember(slot, op, reply)

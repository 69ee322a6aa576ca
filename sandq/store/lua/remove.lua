-- Removes a job and, if asked, its children and theirs: `limit` jobs at most in one call, and none when one of them runs.
-- keys: base slot
-- args: op id children limit
--       children: '' none, 'all', or 'pending': those that wait to run, while others stay and are nobody's children
-- uses: queue reply event parent dedup state cancel gather
-- replies: 'removed'; 'more' call again; {'below', key} first remove the job with this key in the same way, call again then;
--          nothing was changed: 'locked', 'scheduler' (its next run: remove the scheduler instead), 'missing',
--          'ended' (only with 'pending')
-- A family of more than `limit` goes round by round, the job itself last. Who loses children in a round and stays is
-- taken out of its place: it must not run without them. `sq_removing` says which place that was.

local stored = replay(slot, op)
if stored then return stored end

local KINDS = {
  {suffix = ':dependencies', size = 'SCARD', some = 'SRANDMEMBER', drop = 'SREM'},
  {suffix = ':processed', size = 'HLEN', some = 'HRANDFIELD', drop = 'HDEL'},
  {suffix = ':failed', size = 'HLEN', some = 'HRANDFIELD', drop = 'HDEL'},
  {suffix = ':unsuccessful', size = 'ZCARD', some = 'ZRANDMEMBER', drop = 'ZREM'},
}
local own_prefix = string.match(base, '^(.*:)[^:]*:$')
local queues, family, strays, seen, left = {}, {}, {}, {}, tonumber(limit)

-- Under our own prefix the queue is the next part, so that ids with colons survive; elsewhere the id is the last part.
local function split_key(key)
  local rest = string.sub(key, 1, #own_prefix) == own_prefix and string.sub(key, #own_prefix + 1)
  local queue, id = string.match(rest or '', '^([^:]+):(.+)$')
  if queue then return own_prefix .. queue .. ':', id end
  return string.match(key, '^(.*:)([^:]*)$')
end

local function queue_at(of_base)
  if not queues[of_base] then
    queues[of_base] = queue_keys(of_base)
    check_types(queues[of_base])
    redis.call('LLEN', queues[of_base].paused)
  end
  return queues[of_base]
end

-- Some of the children, whichever, and whether these are all.
local function children_of(job, most)
  local found, count = {}, 0
  for _, kind in ipairs(KINDS) do
    if children == 'all' or kind.drop == 'SREM' then
      local key = job .. kind.suffix
      count = count + redis.call(kind.size, key)
      for _, child in ipairs(redis.call(kind.some, key, most)) do found[#found + 1] = child end
    end
  end
  return found, #found == count
end

local function is_meant(child, parent_key)
  -- A child's id may have been taken since by a job that is none of ours.
  if redis.call('HGET', child, 'parentKey') ~= parent_key then return false end
  if children == 'all' then return true end
  local child_base, child_id = split_key(child)
  return redis.call('EXISTS', child .. ':lock') == 0 and not redis.call('ZSCORE', child_base .. 'failed', child_id)
end

-- The job and those below it, each once, as far as `limit` reaches; `whole`: it does for all below.
local function visit(q, member, above)
  local here = {q = q, id = member, key = job_key(q, member), above = above, whole = true}
  check_job_types(q, member)
  family[#family + 1], seen[here.key], left = here, true, left - 1
  if children == '' then return here end
  local found, all = children_of(here.key, left)
  here.whole = all
  for _, child in ipairs(found) do
    if left == 0 then
      here.whole = false
      break
    elseif not seen[child] and is_meant(child, here.key) then
      local child_base, child_id = split_key(child)
      here.whole = visit(queue_at(child_base), child_id, here).whole and here.whole
    elseif not seen[child] then
      strays[#strays + 1], left = {above = here, key = child}, left - 1
    end
  end
  return here
end

local function is_any_locked()
  for _, member in ipairs(family) do
    if redis.call('EXISTS', member.key .. ':lock') == 1 then return true end
  end
  return false
end

local function take_places()
  for _, q in pairs(queues) do
    local ids = {}
    for _, member in ipairs(family) do
      if member.q == q then ids[#ids + 1] = member.id end
    end
    q.held = take_all_out(q, ids)
  end
end

-- What a parent that stays knows of a child is what the next round goes by.
local function forget(above, child_key)
  if not above or above.whole then return end
  for _, kind in ipairs(KINDS) do redis.call(kind.drop, above.key .. kind.suffix, child_key) end
end

local function hold(member)
  local state = member.q.held[member.id]
  redis.call('SREM', member.q.stalled, member.id)
  if state and redis.call('EXISTS', member.key) == 1 then
    redis.call('HSET', member.key, 'sq_removing', event_word(state))
  end
end

local function delete(member)
  local q, state = member.q, member.q.held[member.id]
  local fields = redis.call('HMGET', member.key, 'deid', 'sq_removing')
  redis.call('SREM', q.stalled, member.id)
  forget_cancel(q, member.id)
  if fields[1] then drop_dedup(q, member.id, fields[1]) end
  delete_job(q, member.id)
  forget(member.above, member.key)
  emit_capped(q, 'event', 'removed', 'jobId', member.id, 'prev', not state and fields[2] or event_word(state))
end

local q = queue_at(base)
local first = visit(q, id)
-- An id without a hash may still stand in a list; then it is taken out of there.
if redis.call('EXISTS', first.key) == 0 and not find_state(q, id) then return 'missing' end
if is_next_iteration(q, id) then return 'scheduler' end
if is_any_locked() then return 'locked' end
if children == 'pending' and (redis.call('ZSCORE', q.completed, id) or redis.call('ZSCORE', q.failed, id)) then
  return 'ended'
end
local parent = parent_of(q, id)
if parent then check_parent_types(parent) end

take_places()
if first.whole and parent then detach_child(parent, first.key) end
local deleted = 0
for _, member in ipairs(family) do
  if member.whole then
    delete(member)
    deleted = deleted + 1
  else
    hold(member)
  end
end
for _, stray in ipairs(strays) do forget(stray.above, stray.key) end

if first.whole then return remember(slot, op, 'removed') end
-- Whose limit was spent on the way down would take the same way again.
if deleted + #strays == 0 then return remember(slot, op, {'below', family[#family].key}) end
return remember(slot, op, 'more')

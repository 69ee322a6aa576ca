-- Removes a job and, if asked, its children and theirs; nothing is removed when one of them is running.
-- keys: base slot
-- args: op id children
-- uses: queue reply event parent dedup state cancel
-- replies: removed, locked, scheduler (its next run: remove the scheduler instead), missing

local stored = replay(slot, op)
if stored then return stored end

local own_prefix = string.match(base, '^(.*:)[^:]*:$')

-- Under our own prefix the queue is the next part, so that ids with colons survive; elsewhere the id is the last part.
local function split_key(key)
  local rest = string.sub(key, 1, #own_prefix) == own_prefix and string.sub(key, #own_prefix + 1)
  local queue, id = string.match(rest or '', '^([^:]+):(.+)$')
  if queue then return own_prefix .. queue .. ':', id end
  return string.match(key, '^(.*:)([^:]*)$')
end

local function children_of(job)
  local found = redis.call('SMEMBERS', job .. ':dependencies')
  local function also(keys)
    for _, key in ipairs(keys) do found[#found + 1] = key end
  end
  also(redis.call('HKEYS', job .. ':processed'))
  also(redis.call('HKEYS', job .. ':failed'))
  also(redis.call('ZRANGE', job .. ':unsuccessful', 0, -1))
  return found
end

-- The job, its children, theirs, each once.
local function family_of(first)
  local family, seen = {}, {}
  local function visit(q, member)
    local key = job_key(q, member)
    if seen[key] then return end
    seen[key] = true
    check_types(q)
    check_job_types(q, member)
    family[#family + 1] = {q = q, id = member, key = key}
    if children ~= '1' then return end
    for _, child in ipairs(children_of(key)) do
      -- A child's id may have been taken since by a job that is none of ours.
      if redis.call('HGET', child, 'parentKey') == key then
        local child_base, child_id = split_key(child)
        visit(queue_keys(child_base), child_id)
      end
    end
  end
  visit(first, id)
  return family
end

local function is_any_locked(family)
  for _, member in ipairs(family) do
    if redis.call('EXISTS', member.key .. ':lock') == 1 then return true end
  end
  return false
end

local function remove_one(member)
  local state = find_state(member.q, member.id)
  if state then take_out(member.q, state, member.id) end
  redis.call('SREM', member.q.stalled, member.id)
  forget_cancel(member.q, member.id)
  local deid = redis.call('HGET', member.key, 'deid')
  if deid then drop_dedup(member.q, member.id, deid) end
  delete_job(member.q, member.id)
  emit_capped(member.q, 'event', 'removed', 'jobId', member.id, 'prev', event_word(state))
end

local q = queue_keys(base)
local family = family_of(q)
-- An id without a hash may still stand in a list; then it is taken out of there.
if redis.call('EXISTS', job_key(q, id)) == 0 and not find_state(q, id) then return 'missing' end
if is_next_iteration(q, id) then return 'scheduler' end
if is_any_locked(family) then return 'locked' end

local parent = parent_of(q, id)
if parent then
  check_parent_types(parent)
  detach_child(parent, job_key(q, id))
end
for _, member in ipairs(family) do remove_one(member) end
return remember(slot, op, 'removed')

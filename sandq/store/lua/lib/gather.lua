-- Taking many jobs of one queue out of wherever they are.
-- uses: state
--   take_all_out(q, ids) -> {id = state}   the entry of STATES that held each id; one that stood nowhere is not in it

local FEW = 8 -- as many are looked up one by one
local WINDOW = 2000
local TAKEN = 'sq:taken' -- no job may have this id

local function take_few_out(q, ids)
  local found = {}
  for _, id in ipairs(ids) do
    found[id] = find_state(q, id)
    if found[id] then take_out(q, found[id], id) end
  end
  return found
end

local function mark_window(key, first, last, wanted)
  local marked = {}
  for n, id in ipairs(redis.call('LRANGE', key, first, last)) do
    if wanted[id] then
      redis.call('LSET', key, first + n - 1, TAKEN)
      marked[#marked + 1] = id
    end
  end
  return marked
end

-- A list is gone through once for all of them, from the tail, where the oldest stand: to search it for each would take
-- as long as the list is, times the jobs.
local function take_from_list(q, state, wanted, left, found)
  local key, count = q[state.key], 0
  local last = redis.call('LLEN', key) - 1
  while last >= 0 and left > count do
    local first = math.max(0, last - WINDOW + 1)
    for _, id in ipairs(mark_window(key, first, last, wanted)) do
      found[id], wanted[id], count = state, nil, count + 1
    end
    last = first - 1
  end
  if count > 0 then redis.call('LREM', key, -count, TAKEN) end
  return left - count
end

local function take_all_out(q, ids)
  if #ids <= FEW then return take_few_out(q, ids) end
  local found, wanted, left = {}, {}, 0
  for _, id in ipairs(ids) do
    wanted[id], left = true, left + 1
  end
  for _, state in ipairs(STATES) do
    if state.kind == 'list' then
      left = take_from_list(q, state, wanted, left, found)
    else
      for id in pairs(wanted) do
        if redis.call('ZREM', q[state.key], id) == 1 then
          found[id], wanted[id], left = state, nil, left - 1
        end
      end
    end
  end
  return found
end


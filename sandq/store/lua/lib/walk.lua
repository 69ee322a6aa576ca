-- Going through the jobs of one place, some per call, without losing the thread when others add and claim meanwhile.
-- uses: state
--   place_of(key) -> place               the entry of STATES by its key: wait, paused, prioritized, ...
--   ids_after(q, place, after, limit)    ids in the order they were put there or will run, beginning after the id
--                                        `after`; at the beginning when that is '' or gone: what was before it is, too
--   take_first_out(q, place, id)         takes out an id that stands near the beginning, which a list finds quickly

local function place_of(key)
  for _, state in ipairs(STATES) do
    if state.key == key then return state end
  end
  error('there is no place ' .. key)
end

-- Lists grow at the head, so they are gone through from the tail.
local function list_after(key, after, limit)
  local last = after ~= '' and redis.call('LPOS', key, after, 'RANK', -1) or redis.call('LLEN', key)
  if last == 0 then return {} end
  local window = redis.call('LRANGE', key, math.max(0, last - limit), last - 1)
  local turned = {}
  for n = #window, 1, -1 do turned[#turned + 1] = window[n] end
  return turned
end

local function ids_after(q, place, after, limit)
  local key = q[place.key]
  if place.kind == 'list' then return list_after(key, after, limit) end
  local rank = after ~= '' and redis.call('ZRANK', key, after)
  local first = rank and rank + 1 or 0
  return redis.call('ZRANGE', key, first, first + limit - 1)
end

local function take_first_out(q, place, id)
  if place.kind == 'list' then
    redis.call('LREM', q[place.key], -1, id)
  else
    redis.call('ZREM', q[place.key], id)
  end
end


-- Lists the jobs at some places of one state or of several in a row, each with its hash; an id without one is left out.
-- keys: base
-- args: start limit states...
--       states: word, order, word, order...; order newest or oldest
-- uses: queue state
-- replies: {found, id, {field, value, ...}, id, {field, value, ...}, ...}; found: ids there, also those left out

local q = queue_keys(base)

local function size_of(place)
  return redis.call(place.kind == 'list' and 'LLEN' or 'ZCARD', q[place.key])
end

-- Lists grow at the head and sorted sets at the end, so each has its own way to "newest".
local function ids_of(place, order, first, last)
  if place.kind == 'zset' then
    return redis.call(order == 'newest' and 'ZREVRANGE' or 'ZRANGE', q[place.key], first, last)
  end
  if order == 'newest' then
    return redis.call('LRANGE', q[place.key], first, last)
  end
  local from_tail = redis.call('LRANGE', q[place.key], -last - 1, -first - 1)
  local turned = {}
  for n = #from_tail, 1, -1 do
    turned[#turned + 1] = from_tail[n]
  end
  return turned
end

local function place_of(word)
  for _, place in ipairs(STATES) do
    if place.word == word and place.key ~= 'paused' then return place end
  end
end

local skip, left = tonumber(start), tonumber(limit)
local reply = {0}
for index = states_from, #ARGV, 2 do
  local place = place_of(ARGV[index])
  local ids = left > 0 and ids_of(place, ARGV[index + 1], skip, skip + left - 1) or {}
  for _, id in ipairs(ids) do
    local hash = redis.call('HGETALL', job_key(q, id))
    if #hash > 0 then
      reply[#reply + 1] = id
      reply[#reply + 1] = hash
    end
  end
  reply[1] = reply[1] + #ids
  left = left - #ids
  skip = math.max(0, skip - size_of(place))
end
return reply

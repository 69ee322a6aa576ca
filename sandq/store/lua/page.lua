-- Lists the jobs at some places of a state, each with its hash; an id without a hash is left out.
-- keys: base
-- args: state start limit order
-- uses: queue state
-- replies: {id, {field, value, ...}, id, {field, value, ...}, ...}

local q = queue_keys(base)
local first = tonumber(start)
local last = first + tonumber(limit) - 1

-- Lists grow at the head and sorted sets at the end, so each has its own way to "newest".
local function ids_of(found)
  if found.kind == 'zset' then
    return redis.call(order == 'newest' and 'ZREVRANGE' or 'ZRANGE', q[found.key], first, last)
  end
  if order == 'newest' then
    return redis.call('LRANGE', q[found.key], first, last)
  end
  local from_tail = redis.call('LRANGE', q[found.key], -last - 1, -first - 1)
  local turned = {}
  for n = #from_tail, 1, -1 do
    turned[#turned + 1] = from_tail[n]
  end
  return turned
end

local reply = {}
for _, found in ipairs(STATES) do
  if found.word == state and found.key ~= 'paused' then
    for _, id in ipairs(ids_of(found)) do
      local hash = redis.call('HGETALL', job_key(q, id))
      if #hash > 0 then
        reply[#reply + 1] = id
        reply[#reply + 1] = hash
      end
    end
  end
end
return reply

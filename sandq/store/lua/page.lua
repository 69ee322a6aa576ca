-- Lists the jobs at some places of one state or of several in a row, each with its hash; an id without one is left out.
-- keys: base
-- args: start limit bytes states...
--       bytes: what is enough; the job that reaches it is the last, and a page never holds none because of it
--       states: word, order, word, order...; order newest or oldest
-- uses: queue state
-- replies: {word, found, id, {field, value, ...}, id, {field, value, ...}, ...}; word: 'ok', or 'full' when jobs are left
--          because of `bytes`; found: ids there, also those left out

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

-- What may be large; all else is bounded by the supervisor to some hundred KiB.
local function size_of_job(job)
  return redis.call('HSTRLEN', job, 'data') + redis.call('HSTRLEN', job, 'returnvalue')
end

local skip, left, room = tonumber(start), tonumber(limit), tonumber(bytes)
local reply = {'ok', 0}

local function show(id)
  local job = job_key(q, id)
  local hash = redis.call('HGETALL', job)
  reply[2] = reply[2] + 1
  if #hash == 0 then return end
  reply[#reply + 1], reply[#reply + 2] = id, hash
  room = room - size_of_job(job)
end

for index = states_from, #ARGV, 2 do
  local place = place_of(ARGV[index])
  local ids = left > 0 and ids_of(place, ARGV[index + 1], skip, skip + left - 1) or {}
  for _, id in ipairs(ids) do
    if room <= 0 then
      reply[1] = 'full'
      return reply
    end
    show(id)
  end
  left = left - #ids
  skip = math.max(0, skip - size_of(place))
end
return reply

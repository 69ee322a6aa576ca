-- Lists schedules, the one that runs next at the top, or shows one.
-- keys: base
-- args: only start limit
--       only: the one that is wanted; '' for those at the places start to start + limit
-- uses: queue iteration
-- replies: {found, id, time, pending, {field, value, ...}, ...}; found: places there, also those without a record;
--          pending 1: the iteration of that time has not ended yet, 0: it has, and none comes after it

local q = queue_keys(base)

local function listed()
  if only == '' then
    local first = tonumber(start)
    return redis.call('ZRANGE', q.schedulers, first, first + tonumber(limit) - 1, 'WITHSCORES')
  end
  local score = redis.call('ZSCORE', q.schedulers, only)
  return score and {only, score} or {}
end

local found = listed()
local reply = {#found / 2}
for index = 1, #found, 2 do
  local id, time = found[index], tonumber(found[index + 1])
  local record = redis.call('HGETALL', schedule_key(q, id))
  if #record > 0 then
    local job = job_key(q, iteration_id(id, time))
    local pending = redis.call('EXISTS', job) == 1 and redis.call('HEXISTS', job, 'finishedOn') == 0
    for _, value in ipairs({id, text(time), pending and 1 or 0, record}) do reply[#reply + 1] = value end
  end
end
return reply

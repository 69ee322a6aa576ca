-- Lists what the living supervisors of the queue last said about themselves, and for how long it still holds.
-- keys: base
-- uses: queue
-- replies: {json, left_ms, json, left_ms, ...}; left_ms is below 0 where it holds for ever

local supervisors = base .. 'sq:supervisors'
local reply = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', supervisors, now_ms(), '+inf')) do
  local key = base .. 'sq:supervisor:' .. id
  local info = redis.call('GET', key)
  if info then
    reply[#reply + 1] = info
    reply[#reply + 1] = redis.call('PTTL', key)
  end
end
return reply

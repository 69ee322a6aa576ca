-- Lists what the living supervisors of the queue last said about themselves.
-- keys: base
-- uses: queue
-- replies: {json, json, ...}

local supervisors = base .. 'sq:supervisors'
local reply = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', supervisors, now_ms(), '+inf')) do
  local info = redis.call('GET', base .. 'sq:supervisor:' .. id)
  if info then reply[#reply + 1] = info end
end
return reply

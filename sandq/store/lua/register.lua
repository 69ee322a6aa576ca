-- Lists a supervisor as serving the queue, with what it says of itself, until ttl_ms from now.
-- keys: base
-- args: supervisor info ttl_ms
-- uses: queue
-- replies: 'ok'

local INDEX_MS = 86400000 -- longer than any one supervisor's ttl

local supervisors = base .. 'sq:supervisors'
local now = now_ms()
redis.call('ZCARD', supervisors)
redis.call('SET', base .. 'sq:supervisor:' .. supervisor, info, 'PX', ttl_ms)
redis.call('ZREMRANGEBYSCORE', supervisors, 0, now - 1)
redis.call('ZADD', supervisors, now + tonumber(ttl_ms), supervisor)
redis.call('PEXPIRE', supervisors, INDEX_MS)
return 'ok'

-- Takes a supervisor off the list of those that serve the queue.
-- keys: base
-- args: supervisor
-- uses: queue
-- replies: 'ok'

local q = queue_keys(base)
redis.call('ZREM', q.supervisors, supervisor)
redis.call('DEL', q.base .. 'sq:supervisor:' .. supervisor)
return 'ok'

-- Takes a supervisor off the list of those that serve the queue.
-- keys: base
-- args: supervisor
-- replies: 'ok'

local supervisors = base .. 'sq:supervisors'
redis.call('ZREM', supervisors, supervisor)
redis.call('DEL', base .. 'sq:supervisor:' .. supervisor)
return 'ok'

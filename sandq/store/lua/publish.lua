-- Tells the listeners something of a user's own; the stream keeps as many events as after any other.
-- keys: base slot
-- args: op field...
-- uses: queue reply event
-- replies: the event's id

local stored = replay(slot, op)
if stored then return stored end
local q = queue_keys(base)
check_types(q)
local event_id = redis.call('XADD', q.events, 'MAXLEN', '~', events_limit(q), '*', unpack(ARGV, field_from))
return remember(slot, op, event_id)

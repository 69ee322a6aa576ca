-- Shortens the event stream to its newest `most` entries, a part of it at a time.
-- keys: base slot
-- args: op most
-- uses: queue reply
-- replies: {word, count}: 'ok' it is that short, or 'more': call again; count: entries deleted

local PART = 10000

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
-- In whole nodes first, of which Redis takes only as many as the limit allows; then the few that are left, exactly.
local count = redis.call('XTRIM', q.events, 'MAXLEN', '~', most, 'LIMIT', PART)
if count > 0 then return remember(slot, op, {'more', text(count)}) end
return remember(slot, op, {'ok', text(redis.call('XTRIM', q.events, 'MAXLEN', '=', most))})

-- Closes deduplication windows: the next job with such a deduplication id is added.
-- keys: base slot
-- args: op windows...
--       windows: their keys without the base, de:<id> or dn:<id>
-- uses: queue reply
-- replies: how many there were

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
local count = 0
for index = windows_from, #ARGV do count = count + redis.call('DEL', q.base .. ARGV[index]) end
return remember(slot, op, text(count))

-- Says from where to where the event stream reaches, unless an entry that somebody knows is still in it.
-- keys: base
-- args: known
-- uses: queue
-- replies: {} while it is there, which costs no more than that entry; else {oldest id, newest id}, '0-0' for none; the
--   newest may have been trimmed

local q = queue_keys(base)
if known ~= '' and #redis.call('XRANGE', q.events, known, known) > 0 then
  return {}
end
local oldest, newest = '0-0', '0-0'
if redis.call('EXISTS', q.events) == 1 then
  local facts = redis.call('XINFO', 'STREAM', q.events)
  for n = 1, #facts, 2 do
    if facts[n] == 'last-generated-id' then newest = facts[n + 1] end
    if facts[n] == 'first-entry' and facts[n + 1] then oldest = facts[n + 1][1] end
  end
end
return {oldest, newest}

-- Counts the jobs of every state at one moment.
-- keys: base
-- uses: queue state
-- replies: {word, count, word, count, ...}

local q = queue_keys(base)
local reply = {}
for _, state in ipairs(STATES) do
  -- As BullMQ counts: the legacy paused list is not part of "waiting".
  if state.key ~= 'paused' then
    local size = redis.call(state.kind == 'list' and 'LLEN' or 'ZCARD', q[state.key])
    reply[#reply + 1] = state.word
    reply[#reply + 1] = size
  end
end
return reply
